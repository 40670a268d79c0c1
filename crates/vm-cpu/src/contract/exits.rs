// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Promises about exits and about finishing them.

use super::guest::{Guest, out};
use super::{Fixture, MMIO_BASE, Op};
use crate::{CpuError, Entry, Exit, IrqMode};

const MARK: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 0x77,
};

pub(super) fn port_writes(fixture: &dyn Fixture) {
    let program = [
        Op::Out {
            port: 0x80,
            size: 1,
            value: 0x12,
        },
        Op::Out {
            port: 0x81,
            size: 2,
            value: 0x3456,
        },
        Op::Out {
            port: 0x82,
            size: 4,
            value: 0x789a_bcde,
        },
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let expected = [
        out(0x80, 1, 0x12),
        out(0x81, 2, 0x3456),
        out(0x82, 4, 0x789a_bcde),
    ];
    assert_eq!(guest.exits(3, 0), expected);
}

pub(super) fn port_reads(fixture: &dyn Fixture) {
    let program = [
        Op::In {
            port: 0x60,
            size: 1,
        },
        Op::Echo {
            port: 0x20,
            size: 1,
        },
        Op::In {
            port: 0x60,
            size: 2,
        },
        Op::Echo {
            port: 0x20,
            size: 2,
        },
        Op::In {
            port: 0x60,
            size: 4,
        },
        Op::Echo {
            port: 0x20,
            size: 4,
        },
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let read = |size| Exit::PioRead { port: 0x60, size };
    let expected = [
        read(1),
        out(0x20, 1, 0xe1),
        read(2),
        out(0x20, 2, 0xc0e1),
        read(4),
        out(0x20, 4, 0xa0b0_c0e1),
    ];
    assert_eq!(guest.exits(6, 0xa0b0_c0e1), expected);
}

pub(super) fn strings(fixture: &dyn Fixture) {
    let program = [
        Op::OutString {
            port: 0x30,
            bytes: b"abc",
        },
        Op::InString {
            port: 0x31,
            count: 3,
        },
        Op::Echo {
            port: 0x20,
            size: 1,
        },
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let written = guest.exits(3, 0);
    assert_eq!(written, b"abc".map(|byte| out(0x30, 1, byte.into())));
    assert_eq!(
        guest.go(),
        Exit::PioRead {
            port: 0x31,
            size: 1
        }
    );
    assert_eq!(
        guest.enter(Entry::Data(5)),
        Exit::PioRead {
            port: 0x31,
            size: 1
        }
    );
    assert_eq!(
        guest.enter(Entry::Data(6)),
        Exit::PioRead {
            port: 0x31,
            size: 1
        }
    );
    assert_eq!(guest.enter(Entry::Data(7)), out(0x20, 1, 7));
}

pub(super) fn unbacked_memory(fixture: &dyn Fixture) {
    let addr = MMIO_BASE + 0x24;
    let program = [
        Op::MmioWrite {
            addr,
            size: 4,
            value: 0x0102_0304,
        },
        Op::MmioWrite {
            addr: addr + 1,
            size: 1,
            value: 0xfe,
        },
        Op::MmioRead { addr, size: 4 },
        Op::Echo {
            port: 0x20,
            size: 4,
        },
        Op::MmioRead {
            addr: addr + 2,
            size: 2,
        },
        Op::Echo {
            port: 0x20,
            size: 2,
        },
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let expected = [
        Exit::MmioWrite {
            addr,
            size: 4,
            value: 0x0102_0304,
        },
        Exit::MmioWrite {
            addr: addr + 1,
            size: 1,
            value: 0xfe,
        },
        Exit::MmioRead { addr, size: 4 },
        out(0x20, 4, 0x55aa_66bb),
        Exit::MmioRead {
            addr: addr + 2,
            size: 2,
        },
        out(0x20, 2, 0x66bb),
    ];
    assert_eq!(guest.exits(6, 0x55aa_66bb), expected);
}

pub(super) fn answers_must_fit(fixture: &dyn Fixture) {
    let program = [
        Op::Out {
            port: 0x80,
            size: 1,
            value: 1,
        },
        Op::In {
            port: 0x60,
            size: 1,
        },
        Op::Echo {
            port: 0x20,
            size: 1,
        },
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let refused = |result: Result<Exit, CpuError>| matches!(result, Err(CpuError::Invalid { .. }));
    assert!(
        refused(guest.vcpu.run(Entry::Data(1))),
        "an answer without a question"
    );
    assert_eq!(guest.go(), out(0x80, 1, 1));
    assert!(
        refused(guest.vcpu.run(Entry::Data(1))),
        "an answer to a write"
    );
    assert_eq!(
        guest.go(),
        Exit::PioRead {
            port: 0x60,
            size: 1
        }
    );
    assert!(
        refused(guest.vcpu.run(Entry::Go)),
        "a read without its answer"
    );
    assert_eq!(guest.enter(Entry::Data(9)), out(0x20, 1, 9));
}

pub(super) fn triple_fault(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[MARK, Op::TripleFault]);
    assert_eq!(guest.exits(2, 0), [out(0x20, 1, 0x77), Exit::Shutdown]);
}

pub(super) fn halts(fixture: &dyn Fixture) {
    let program = [
        Op::InterruptsOn,
        Op::Halt,
        MARK,
        Op::InterruptsOff,
        Op::Halt,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    let open = Exit::Halt {
        interruptible: true,
    };
    assert_eq!(guest.exits(2, 0), [open, open]);
    assert!(
        guest.vcpu.interrupt(0x33).expect("without controller"),
        "the guest can take it"
    );
    assert_eq!(guest.go(), out(super::VECTOR_PORT, 1, 0x33));
    assert_eq!(guest.go(), out(0x20, 1, 0x77));
    let shut = Exit::Halt {
        interruptible: false,
    };
    assert_eq!(guest.exits(2, 0), [shut, shut]);
    assert!(
        !guest.vcpu.interrupt(0x33).expect("without controller"),
        "interrupts are off"
    );
}

pub(super) fn settling(fixture: &dyn Fixture) {
    let program = [
        MARK,
        Op::In {
            port: 0x60,
            size: 1,
        },
        Op::Echo {
            port: 0x21,
            size: 1,
        },
        Op::MmioWrite {
            addr: MMIO_BASE,
            size: 4,
            value: 4,
        },
        MARK,
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    assert_eq!(guest.go(), out(0x20, 1, 0x77));
    guest.settle();
    let settled = guest.state();
    guest.settle();
    guest.assert_state(&settled);
    assert_eq!(
        guest.go(),
        Exit::PioRead {
            port: 0x60,
            size: 1
        }
    );
    assert_eq!(guest.vcpu.settle(Entry::Data(0x5a)).expect("settles"), None);
    assert_eq!(guest.go(), out(0x21, 1, 0x5a));
    assert_eq!(
        guest.go(),
        Exit::MmioWrite {
            addr: MMIO_BASE,
            size: 4,
            value: 4
        }
    );
    guest.settle();
    assert_eq!(guest.go(), out(0x20, 1, 0x77));
}

pub(super) fn settling_strings(fixture: &dyn Fixture) {
    let program = [
        Op::OutString {
            port: 0x30,
            bytes: b"xyz",
        },
        Op::InString {
            port: 0x31,
            count: 3,
        },
        Op::Echo {
            port: 0x21,
            size: 1,
        },
        MARK,
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    // An engine may take the string as one access or as one for each item, between which the guest
    // can be settled too; either way each item comes once and in order.
    let mut seen = vec![guest.go()];
    let mut answer = 1;
    while seen.len() < 8 {
        let reads = matches!(seen.last(), Some(Exit::PioRead { .. }));
        let entry = if reads {
            Entry::Data(answer)
        } else {
            Entry::Go
        };
        answer += u64::from(reads);
        let exit = match guest.vcpu.settle(entry).expect("settles") {
            Some(part) => part,
            None => {
                guest.state();
                guest.go()
            }
        };
        seen.push(exit);
    }
    let read = Exit::PioRead {
        port: 0x31,
        size: 1,
    };
    let written = b"xyz".map(|byte| out(0x30, 1, byte.into()));
    assert_eq!(seen[..3], written);
    assert_eq!(seen[3..6], [read; 3]);
    assert_eq!(seen[6..], [out(0x21, 1, 3), out(0x20, 1, 0x77)]);
}

pub(super) fn unsettled_is_refused(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[MARK, Op::Spin]);
    assert_eq!(guest.go(), out(0x20, 1, 0x77));
    let refusal = guest.vcpu.settled().map(|_| ());
    assert!(
        matches!(refusal, Err(CpuError::Unsettled { vcpu: 0 })),
        "{refusal:?}"
    );
    guest.settle();
    guest.state();
}
