// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Promises about interrupts, with a controller in the engine and without.

use std::sync::{Arc, Barrier};

use super::guest::{Guest, out};
use super::{Fixture, Op, VECTOR_PORT};
use crate::x86::Activity;
use crate::{CpuError, Exit, IrqMode, Msi, Window};

const MARK: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 1,
};
const DONE: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 2,
};

/// To one vCPU by its number.
fn msi_to(vcpu: u32, data: u32) -> Msi {
    Msi {
        addr: 0xfee0_0000 | u64::from(vcpu) << 12,
        data,
    }
}

pub(super) fn window(fixture: &dyn Fixture) {
    let program = [Op::InterruptsOff, MARK, Op::InterruptsOn, Op::Spin];
    let mut guest = Guest::new(fixture, IrqMode::None, &program);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    guest.settle();
    assert!(
        !guest.vcpu.interrupt(0x40).expect("no controller"),
        "interrupts are off"
    );
    guest.vcpu.want_window(Window::Wanted);
    assert_eq!(guest.go(), Exit::IrqWindow);
    assert!(
        guest.vcpu.interrupt(0x40).expect("no controller"),
        "the window is open"
    );
    assert!(
        !guest.vcpu.interrupt(0x41).expect("no controller"),
        "one interrupt at a time"
    );
    guest.vcpu.want_window(Window::Unwanted);
    assert_eq!(guest.go(), out(VECTOR_PORT, 1, 0x40));
    guest.kick.kick();
    assert_eq!(guest.go(), Exit::Kicked, "and taken once");
}

pub(super) fn wrong_kind(fixture: &dyn Fixture) {
    let refused = |result: Result<(), CpuError>| matches!(result, Err(CpuError::Invalid { .. }));
    let bare = Guest::new(fixture, IrqMode::None, &[Op::Spin]);
    assert!(refused(bare.machine.deliver_msi(msi_to(0, 0x41))));
    assert!(refused(bare.machine.route_pins(&[])));
    let mut full = Guest::new(fixture, IrqMode::Split, &[Op::Spin]);
    assert!(refused(full.vcpu.interrupt(0x41).map(|_| ())));
}

pub(super) fn msi(fixture: &dyn Fixture) {
    // `sti; hlt` lets an interrupt in only when halted.
    let program = [
        MARK,
        Op::InterruptsOn,
        Op::Halt,
        Op::InterruptsOff,
        DONE,
        Op::InterruptsOn,
        Op::Halt,
        DONE,
        Op::Spin,
    ];
    let mut guest = Guest::new(fixture, IrqMode::Split, &program);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    guest
        .machine
        .deliver_msi(msi_to(0, 0x41))
        .expect("delivered to a running vCPU");
    assert_eq!(
        guest.exits(2, 0),
        [out(VECTOR_PORT, 1, 0x41), out(0x20, 1, 2)]
    );
    let machine = Arc::clone(&guest.machine);
    let start = Barrier::new(2);
    let exit = std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            for _ in 0..10 {
                std::thread::yield_now();
            }
            machine
                .deliver_msi(msi_to(0, 0x42))
                .expect("delivered to a halted vCPU");
        });
        start.wait();
        guest.go()
    });
    assert_eq!(exit, out(VECTOR_PORT, 1, 0x42));
    assert_eq!(guest.go(), out(0x20, 1, 2));
}

pub(super) fn eoi(fixture: &dyn Fixture) {
    const LEVEL: u32 = 1 << 15;
    let program = [MARK, Op::InterruptsOn, Op::Spin];
    let mut guest = Guest::new(fixture, IrqMode::Split, &program);
    let level = msi_to(0, 0x51 | LEVEL);
    guest
        .machine
        .route_pins(&[None, Some(level), None])
        .expect("routed");
    assert_eq!(guest.go(), out(0x20, 1, 1));
    guest.machine.deliver_msi(level).expect("delivered");
    assert_eq!(
        guest.exits(2, 0),
        [out(VECTOR_PORT, 1, 0x51), Exit::Eoi { vector: 0x51 }]
    );
    guest
        .machine
        .deliver_msi(msi_to(0, 0x61))
        .expect("delivered");
    guest.kick.kick();
    let exits = guest.exits(2, 0);
    assert!(exits.contains(&out(VECTOR_PORT, 1, 0x61)), "{exits:?}");
    guest.kick.kick();
    assert_eq!(guest.go(), Exit::Kicked, "an edge is not reported");
}

pub(super) fn startup(fixture: &dyn Fixture) {
    const INIT: u32 = 5 << 8;
    const SIPI: u32 = 6 << 8;
    let machine = fixture
        .machine(IrqMode::Split, 2, &[MARK, Op::Spin])
        .expect("a machine");
    let _first = machine.create_vcpu(0).expect("the first vCPU");
    let mut second = Guest::of(Arc::clone(&machine), 1);
    assert_eq!(second.state().activity, Activity::WaitForInit);
    second.kick.kick();
    assert_eq!(second.go(), Exit::Kicked);
    machine.deliver_msi(msi_to(1, INIT)).expect("delivered");
    machine
        .deliver_msi(msi_to(1, SIPI | u32::from(fixture.sipi_vector())))
        .expect("delivered");
    assert_eq!(second.go(), out(0x20, 1, 1));
    second.vcpu.reset().expect("resets");
    assert_eq!(second.state().activity, Activity::WaitForInit);
}

pub(super) fn no_startup(fixture: &dyn Fixture) {
    let machine = fixture
        .machine(IrqMode::None, 2, &[MARK, Op::Spin])
        .expect("a machine");
    let mut second = Guest::of(machine, 1);
    assert_eq!(
        second.go(),
        Exit::Halt {
            interruptible: false
        }
    );
    fixture
        .start(IrqMode::None, &mut *second.vcpu)
        .expect("the fixture starts the program");
    assert_eq!(second.go(), out(0x20, 1, 1));
}
