// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest can ask for: power-off, reset, debug exit, and how it can die.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::Ordering;

use common::{
    LIMIT, Machine, PORT_DEBUG_EXIT, PORT_POWER_OFF, PORT_RESET, busy, spec, taken, until,
};
use vm_core::{Ending, OnReset, TripleFault, Vm};
use vm_cpu::script::{Fault, Script, ScriptEngine};
use vm_state::{ResumeReason, State, SuspendReason};

fn ended(vm: &Vm) -> State {
    vm.wait_until(|s| matches!(s, State::Off | State::GuruMeditation), LIMIT)
        .expect("the VM ends")
}

#[test]
fn a_guest_that_powers_off_ends_off_and_runs_no_further() {
    let machine = Machine::new(
        Script::new()
            .work(3)
            .pio_write(PORT_POWER_OFF, 1, 0x34)
            .work(100),
    );
    let vm = machine.create(1);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::GuestPowerOff));
    // Three units of work and the write itself.
    assert_eq!(machine.engine.progress(0).work(), 4);
}

#[test]
fn a_guest_power_off_on_another_vcpu_than_0_ends_the_vm() {
    let engine = ScriptEngine::new(busy()).vcpu(
        2,
        Script::new().work(100).pio_write(PORT_POWER_OFF, 1, 0x34),
    );
    let machine = Machine::with(engine);
    let vm = machine.create(4);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::GuestPowerOff));
}

#[test]
fn a_guest_reset_reloads_the_firmware_and_begins_again() {
    let machine = Machine::new(Script::new().work(1).pio_write(PORT_RESET, 1, 1).work(1));
    let vm = machine.create(2);
    taken(&machine.log);
    vm.power_on().unwrap();
    until("five resets", || vm.status().hard_resets >= 5);
    vm.power_off().unwrap();
    let log = taken(&machine.log);
    assert!(
        log.iter().filter(|l| *l == "firmware").count() >= 5,
        "{log:?}"
    );
}

#[test]
fn power_off_instead_of_reset_ends_off_and_counts_no_reset() {
    let machine = Machine::new(Script::new().pio_write(PORT_RESET, 1, 1).work(100));
    let mut spec = spec(2);
    spec.on_reset = OnReset::PowerOff;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::GuestReset));
    assert_eq!(vm.status().hard_resets, 0);
}

#[test]
fn a_debug_exit_carries_its_value() {
    let machine = Machine::new(Script::new().pio_write(PORT_DEBUG_EXIT, 4, 42));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::DebugExit(42)));
}

#[test]
fn t_m13_a_triple_fault_is_guru_meditation_by_default_with_a_report() {
    let engine = ScriptEngine::new(busy()).vcpu(1, Script::new().work(1).fault(Fault::Shutdown));
    let machine = Machine::with(engine);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::GuruMeditation);
    let report = vm.guru().unwrap();
    assert_eq!((report.vcpu, report.why.as_str()), (1, "triple fault"));
    assert!(report.registers.is_some());
    assert!(vm.resume(ResumeReason::User).is_err());
    vm.power_off().unwrap();
    assert_eq!(vm.state(), State::Off);
}

#[test]
fn after_a_guru_no_vcpu_executes_guest_code() {
    let engine = ScriptEngine::new(busy()).vcpu(1, Script::new().work(1).fault(Fault::Shutdown));
    let machine = Machine::with(engine);
    let vm = machine.create(3);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::GuruMeditation);
    for v in 0..3 {
        vm.on_emt(v, LIMIT, |_| ()).unwrap();
    }
    let work = |v: u32| machine.engine.progress(v).work();
    let before = [work(0), work(1), work(2)];
    for _ in 0..100 {
        vm.on_emt(0, LIMIT, |_| ()).unwrap();
    }
    assert_eq!(before, [work(0), work(1), work(2)]);
}

#[test]
fn t_m12_a_triple_fault_resets_where_the_policy_says_so() {
    let machine = Machine::new(Script::new().work(1).fault(Fault::Shutdown));
    let mut spec = spec(1);
    spec.on_triple_fault = TripleFault::Reset;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    until("three resets", || vm.status().hard_resets >= 3);
}

#[test]
fn a_triple_fault_powers_off_where_the_policy_says_so() {
    let machine = Machine::new(Script::new().work(1).fault(Fault::Shutdown));
    let mut spec = spec(2);
    spec.on_triple_fault = TripleFault::PowerOff;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::TripleFault));
}

#[test]
fn every_way_an_engine_can_fail_ends_in_guru_meditation() {
    for fault in [Fault::InternalError(1), Fault::FailEntry(7), Fault::Host] {
        let machine = Machine::new(Script::new().work(1).fault(fault).work(1).forever());
        let vm = machine.create(1);
        vm.power_on().unwrap();
        assert_eq!(ended(&vm), State::GuruMeditation, "{fault:?}");
        assert!(!vm.guru().unwrap().why.is_empty());
        vm.power_off().unwrap();
    }
}

#[test]
fn t_m15_a_host_without_memory_suspends_the_vm_and_resume_tries_the_same_again() {
    let machine = Machine::new(Script::new().work(1).fault(Fault::MemoryFault(0x1000)));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    for _ in 0..3 {
        vm.wait_until(|s| s == State::Suspended, LIMIT).unwrap();
        let rip = vm.on_emt(0, LIMIT, |emt| {
            emt.settled().unwrap().start().unwrap().gprs.rip
        });
        assert_eq!(rip.unwrap(), 1, "the instruction that needs the memory");
        let last = vm.state_cell().snapshot().last_suspend;
        assert_eq!(last, Some(SuspendReason::RuntimeError));
        let text = vm.errors().last_runtime.unwrap().to_string();
        assert!(
            text.contains("HostMemory") && text.contains("0x1000"),
            "{text}"
        );
        vm.resume(ResumeReason::User).unwrap();
    }
    assert_eq!(vm.errors().vm_errors, 0);
}

#[test]
fn a_host_without_memory_whose_vm_cannot_be_suspended_is_a_guru_not_a_loop() {
    let machine = Machine::new(Script::new().work(1).fault(Fault::MemoryFault(0x1000)));
    let vm = machine.create(1);
    *machine.fails.lock().unwrap() = Some("suspend");
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::GuruMeditation);
    assert!(vm.guru().unwrap().why.contains("0x1000"));
    assert_eq!(vm.errors().runtime_errors, 1);
}

#[test]
fn a_firmware_that_cannot_be_loaded_again_ends_a_reset_in_guru_meditation() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    machine.firmware_fails.store(true, Ordering::SeqCst);
    let error = vm.reset().unwrap_err();
    assert!(error.to_string().contains("firmware"), "{error}");
    assert_eq!(vm.state(), State::GuruMeditation);
    vm.power_off().unwrap();
}

#[test]
fn a_guest_power_off_that_loses_to_a_suspend_happens_after_resume() {
    for _ in 0..200 {
        let machine = Machine::new(
            Script::new()
                .work(20)
                .pio_write(PORT_POWER_OFF, 1, 0x34)
                .work(100),
        );
        let vm = machine.create(2);
        vm.power_on().unwrap();
        if vm.suspend(SuspendReason::User).is_ok() {
            let _ = vm.resume(ResumeReason::User);
        }
        assert_eq!(ended(&vm), State::Off);
    }
}

#[test]
fn an_access_nobody_answers_reads_all_ones_and_the_guest_goes_on() {
    let script = Script::new()
        .pio_expect(0x1234, 1, 0xff)
        .pio_expect(0x1234, 2, 0xffff)
        .pio_expect(0x1234, 4, 0xffff_ffff)
        .mmio_write(0xd000_0000, 8, 1)
        .pio_write(PORT_DEBUG_EXIT, 1, 1);
    let machine = Machine::new(script);
    let vm = machine.create(1);
    vm.power_on().unwrap();
    assert_eq!(ended(&vm), State::Off);
    assert_eq!(vm.ending(), Some(Ending::DebugExit(1)));
}

#[test]
fn t_m07_string_accesses_are_finished_before_the_vm_counts_as_suspended() {
    let script = Script::new().then(vm_cpu::script::Step::PioWriteEach {
        port: 0x80,
        size: 1,
        values: (0..200).collect(),
    });
    let machine = Machine::new(script.work(1).forever());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    for _ in 0..50 {
        vm.suspend(SuspendReason::User).unwrap();
        vm.on_emt(0, LIMIT, |emt| emt.settled().map(drop))
            .unwrap()
            .unwrap();
        vm.resume(ResumeReason::User).unwrap();
    }
}
