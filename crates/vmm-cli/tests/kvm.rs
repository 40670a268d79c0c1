// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lifecycle on KVM, with guests of a few bytes. One printed line where KVM does not open.

mod kvm_guest;

use kvm_guest::{LIMIT, SPIN, create, engine};
use vm_core::{Ending, Vm};
use vm_cpu::IrqMode;
use vm_state::{ResumeReason, State, SuspendReason};

/// `mov al, 42; out 0xf4, al; hlt`.
const DEBUG_EXIT: &[u8] = &[0xb0, 42, 0xe6, 0xf4, 0xf4];
/// `1: out 0x80, al; inc ax; jmp 1b`: leaves all the time.
const POST: &[u8] = &[0xe6, 0x80, 0x40, 0xeb, 0xfb];
/// `mov eax, cr0; or al, 1; mov cr0, eax; mov ax, 8; mov ds, ax`: a selector outside the empty GDT,
/// with an empty IDT, is a triple fault.
const TRIPLE_FAULT: &[u8] = &[
    0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xb8, 0x08, 0x00, 0x8e, 0xd8,
];

fn ended(vm: &Vm) -> State {
    let over = |s| matches!(s, State::Off | State::GuruMeditation);
    vm.wait_until(over, Some(LIMIT)).expect("the VM ends")
}

#[test]
fn a_guest_that_spins_with_interrupts_off_is_suspended_reset_and_powered_off() {
    let Some(engine) = engine() else { return };
    for irq in [IrqMode::None, IrqMode::Split] {
        let vm = create(&engine, SPIN, irq, 2);
        vm.power_on().unwrap();
        for _ in 0..20 {
            vm.suspend(SuspendReason::User).unwrap();
            vm.resume(ResumeReason::User).unwrap();
        }
        vm.reset().unwrap();
        vm.power_off().unwrap();
        vm.destroy(LIMIT).unwrap();
        assert_eq!(vm.state(), State::Terminated);
    }
}

#[test]
fn a_guest_that_exits_all_the_time_is_suspended_between_whole_accesses() {
    let Some(engine) = engine() else { return };
    let vm = create(&engine, POST, IrqMode::None, 1);
    vm.power_on().unwrap();
    for _ in 0..50 {
        vm.suspend(SuspendReason::User).unwrap();
        let state = |emt: &mut vm_core::Emt| emt.settled().and_then(|s| s.state());
        let one = vm.on_emt(0, Some(LIMIT), state).unwrap().unwrap();
        let two = vm.on_emt(0, Some(LIMIT), state).unwrap().unwrap();
        assert_eq!(one.gprs, two.gprs);
        let (_, rip) = vm.bells().last_exit(0);
        assert!(rip == 0 || (0x1000..0x1010).contains(&rip), "{rip:#x}");
        vm.resume(ResumeReason::User).unwrap();
    }
}

#[test]
fn a_debug_exit_of_the_guest_ends_the_vm_with_its_value() {
    let Some(engine) = engine() else { return };
    let vm = create(&engine, DEBUG_EXIT, IrqMode::None, 1);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::DebugExit(42)));
}

#[test]
fn a_triple_fault_is_guru_meditation_with_registers() {
    let Some(engine) = engine() else { return };
    let vm = create(&engine, TRIPLE_FAULT, IrqMode::None, 1);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::GuruMeditation);
    let report = vm.guru().unwrap();
    assert_eq!(report.why, "triple fault");
    assert!(report.registers.is_some());
}
