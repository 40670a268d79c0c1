// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Promises about state, reset, and machines side by side.

use super::guest::{Guest, out};
use super::{Fixture, MMIO_BASE, Op};
use crate::x86::{Activity, Delivery, Exception, VcpuState};
use crate::{CpuError, Entry, Exit, IrqMode};

const FIRST: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 1,
};
const SECOND: Op = Op::Out {
    port: 0x20,
    size: 2,
    value: 0x202,
};
const BOTH_MODES: [IrqMode; 2] = [IrqMode::None, IrqMode::Split];

pub(super) fn round_trip(fixture: &dyn Fixture) {
    for irq in BOTH_MODES {
        let mut guest = Guest::new(fixture, irq, &[FIRST, SECOND, Op::Spin]);
        assert_eq!(guest.go(), out(0x20, 1, 1));
        guest.settle();
        let saved = guest.state();
        guest.set_state(&saved);
        guest.assert_state(&saved);
        assert_eq!(guest.go(), out(0x20, 2, 0x202));
        guest.settle();
        guest.set_state(&saved);
        assert_eq!(
            guest.go(),
            out(0x20, 2, 0x202),
            "the guest is back where it was"
        );
    }
}

pub(super) fn moves(fixture: &dyn Fixture) {
    let program = [
        FIRST,
        SECOND,
        Op::MmioRead {
            addr: MMIO_BASE,
            size: 4,
        },
        Op::Echo {
            port: 0x21,
            size: 4,
        },
        Op::OutString {
            port: 0x30,
            bytes: b"bye",
        },
        Op::Spin,
    ];
    for irq in BOTH_MODES {
        let mut source = Guest::new(fixture, irq, &program);
        assert_eq!(source.go(), out(0x20, 1, 1));
        source.settle();
        let saved = source.state();
        let machine = fixture.machine(irq, 1, &program).expect("a second machine");
        let mut target = Guest::of(machine, 0);
        target.set_state(&saved);
        assert_eq!(target.exits(6, 0xfeed), source.exits(6, 0xfeed));
        source.settle();
        target.settle();
        target.assert_state(&source.state());
    }
}

pub(super) fn moves_halted(fixture: &dyn Fixture) {
    let program = [Op::InterruptsOn, Op::Halt, FIRST, Op::Spin];
    let mut source = Guest::new(fixture, IrqMode::None, &program);
    assert_eq!(
        source.go(),
        Exit::Halt {
            interruptible: true
        }
    );
    let saved = source.state();
    assert_eq!(saved.activity, Activity::Halted);
    let machine = fixture
        .machine(IrqMode::None, 1, &program)
        .expect("a second machine");
    let mut target = Guest::of(machine, 0);
    target.set_state(&saved);
    assert_eq!(
        target.go(),
        Exit::Halt {
            interruptible: true
        }
    );
    assert!(
        target.vcpu.interrupt(0x60).expect("no controller"),
        "it can take an interrupt"
    );
    assert_eq!(target.go(), out(super::VECTOR_PORT, 1, 0x60));
    assert_eq!(target.go(), out(0x20, 1, 1));
}

pub(super) fn reset(fixture: &dyn Fixture) {
    let program = [
        Op::InterruptsOn,
        FIRST,
        Op::In {
            port: 0x60,
            size: 4,
        },
        SECOND,
        Op::Spin,
    ];
    for irq in BOTH_MODES {
        let machine = fixture.machine(irq, 1, &program).expect("a machine");
        let mut guest = Guest::of(machine, 0);
        let power_on = guest.state();
        for _ in 0..2 {
            fixture
                .start(irq, &mut *guest.vcpu)
                .expect("the fixture starts the program");
            let expected = [
                out(0x20, 1, 1),
                Exit::PioRead {
                    port: 0x60,
                    size: 4,
                },
            ];
            assert_eq!(guest.exits(2, 0), expected);
            guest.vcpu.reset().expect("resets with a read pending");
            guest.assert_state(&power_on);
        }
    }
}

fn refused_field(guest: &mut Guest, state: &VcpuState) -> String {
    let mut settled = guest.vcpu.settled().expect("settled");
    match settled.set_state(state) {
        Err(CpuError::Invalid { what, .. }) => what,
        other => format!("{other:?}"),
    }
}

pub(super) fn misfits(fixture: &dyn Fixture) {
    for irq in BOTH_MODES {
        let mut guest = Guest::new(fixture, irq, &[FIRST, Op::Spin]);
        let good = guest.state();
        let mut bad = VcpuState {
            lapic: Some(vec![0; 7]),
            ..good.clone()
        };
        assert_eq!(refused_field(&mut guest, &bad), "lapic");
        let page = good
            .lapic
            .is_none()
            .then(|| vec![0; VcpuState::LAPIC_BYTES]);
        bad = VcpuState {
            lapic: page,
            ..good.clone()
        };
        assert_eq!(refused_field(&mut guest, &bad), "lapic");
        bad = VcpuState {
            xsave: vec![0; good.xsave.len() + 1],
            ..good.clone()
        };
        assert_eq!(refused_field(&mut guest, &bad), "xsave");
        bad = good.clone();
        bad.system.cr0 = 1 << 31;
        assert_eq!(refused_field(&mut guest, &bad), "system.cr0");
        bad = good.clone();
        let delivery = Delivery::Injected;
        bad.events.exception = Some(Exception {
            vector: 40,
            error_code: None,
            delivery,
            payload: None,
        });
        assert_eq!(refused_field(&mut guest, &bad), "events.exception");
        bad = good.clone();
        bad.msrs.push(crate::x86::Msr {
            index: 0x0bad_0bad,
            value: 1,
        });
        assert_eq!(refused_field(&mut guest, &bad), "msrs[0xbad0bad]");
        assert_eq!(guest.go(), out(0x20, 1, 1), "a refusal changes nothing");
    }
}

pub(super) fn vcpu_numbers(fixture: &dyn Fixture) {
    let machine = fixture
        .machine(IrqMode::Split, 2, &[Op::Spin])
        .expect("a machine");
    let kept = (machine.create_vcpu(0), machine.create_vcpu(1));
    assert_eq!(
        (kept.0.expect("first").id(), kept.1.expect("second").id()),
        (0, 1)
    );
    for id in [0, 2, u32::MAX] {
        let refusal = machine.create_vcpu(id);
        assert!(
            matches!(refusal, Err(CpuError::Invalid { .. })),
            "{id}: {refusal:?}"
        );
    }
}

pub(super) fn clock(fixture: &dyn Fixture) {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let machine = fixture
        .machine(IrqMode::Split, 1, &[Op::Spin])
        .expect("a machine");
    let _vcpu = machine.create_vcpu(0).expect("a vCPU");
    for start in [50 * HOUR_NS, 7 * HOUR_NS] {
        machine.set_clock_ns(start).expect("the clock can be set");
        let now = machine.clock_ns().expect("the clock can be read");
        assert!(
            (start..start + HOUR_NS).contains(&now),
            "set to {start}, reads {now}"
        );
    }
}

pub(super) fn two_machines(fixture: &dyn Fixture) {
    let ask = [
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
    let mut one = Guest::new(fixture, IrqMode::Split, &ask);
    let mut two = Guest::new(fixture, IrqMode::None, &ask);
    assert_eq!(
        one.go(),
        Exit::PioRead {
            port: 0x60,
            size: 1
        }
    );
    assert_eq!(
        two.go(),
        Exit::PioRead {
            port: 0x60,
            size: 1
        }
    );
    two.kick.kick();
    assert_eq!(one.enter(Entry::Data(1)), out(0x20, 1, 1));
    drop(one);
    assert_eq!(two.enter(Entry::Data(2)), Exit::Kicked);
    assert_eq!(two.go(), out(0x20, 1, 2));
}
