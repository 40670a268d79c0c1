// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The operations' effects on the VM's state, case by case.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod common;

use std::sync::{Arc, Mutex, OnceLock};

use common::{DESTROY, LIMIT, Machine, PORT_RESET, busy, note, spec, taken, until};
use vm_core::{Ending, OnReset, Vm, VmError};
use vm_cpu::script::{ApStart, Fault, Script, ScriptEngine};
use vm_cpu::x86::Activity;
use vm_emt::Phase;
use vm_state::{ResumeReason, State, SuspendReason};

fn running(vcpus: u32) -> (Machine, Vm) {
    let machine = Machine::new(busy());
    let vm = machine.create(vcpus);
    vm.power_on().unwrap();
    taken(&machine.log);
    (machine, vm)
}

fn at_rest(vm: &Vm, vcpus: u32) {
    until("all EMTs rest", || {
        (0..vcpus).all(|v| vm.bells().word(v).phase() == Phase::Parked)
    });
}

#[test]
fn t_s05_suspend_records_its_reason_and_devices_are_quiet_before_it_shows() {
    let (machine, vm) = running(2);
    let log = machine.log.clone();
    let _watch = vm.observe(move |change| note(&log, change.new.to_string()));
    vm.suspend(SuspendReason::HostBatteryLow).unwrap();
    let expected = ["SUSPENDING", "second suspend", "first suspend", "SUSPENDED"];
    let mut seen = taken(&machine.log);
    // SUSPENDING is told by whichever thread comes to it, perhaps beside the devices' hooks.
    let at = seen.iter().position(|what| what == "SUSPENDING").unwrap();
    let first = seen.remove(at);
    seen.insert(0, first);
    assert_eq!(seen, expected);
    let reason = vm.state_cell().snapshot().last_suspend;
    assert_eq!(reason, Some(SuspendReason::HostBatteryLow));
}

#[test]
fn t_s08_of_two_resumes_at_once_one_succeeds_and_devices_resume_once() {
    let (machine, vm) = running(2);
    for _ in 0..50 {
        vm.suspend(SuspendReason::User).unwrap();
        taken(&machine.log);
        let other = vm.clone();
        let theirs = std::thread::Builder::new()
            .spawn(move || other.resume(ResumeReason::User))
            .unwrap();
        let mine = vm.resume(ResumeReason::User);
        assert!(mine.is_ok() != theirs.join().unwrap().is_ok());
        assert_eq!(taken(&machine.log), ["first resume", "second resume"]);
    }
}

#[test]
fn t_s09_power_off_is_accepted_from_each_of_its_sources() {
    let off = |vm: &Vm, from: State| {
        assert_eq!(vm.state(), from);
        vm.power_off().unwrap();
        assert_eq!(vm.state(), State::Off, "from {from}");
        vm.destroy(DESTROY).unwrap();
    };
    off(&Machine::new(busy()).create(2), State::Created);
    off(&running(2).1, State::Running);
    let (_machine, vm) = running(2);
    vm.suspend(SuspendReason::User).unwrap();
    off(&vm, State::Suspended);
    let (_machine, vm) = running(2);
    vm.fail().unwrap();
    off(&vm, State::FatalError);
    let machine = Machine::new(Script::new().fault(Fault::Shutdown));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    vm.wait_until(|s| s == State::GuruMeditation, LIMIT)
        .unwrap();
    off(&vm, State::GuruMeditation);
}

#[test]
fn t_s10_power_off_of_a_vm_that_is_off_or_gone_is_refused_and_changes_nothing() {
    let (machine, vm) = running(2);
    vm.power_off().unwrap();
    taken(&machine.log);
    assert!(matches!(vm.power_off(), Err(VmError::Refused { .. })));
    assert_eq!(vm.state(), State::Off);
    assert!(taken(&machine.log).is_empty());
    vm.destroy(DESTROY).unwrap();
    assert!(matches!(
        vm.power_off(),
        Err(VmError::Gone { .. } | VmError::Refused { .. })
    ));
    assert_eq!(vm.state(), State::Terminated);
}

#[test]
fn sd_p10_power_off_of_a_suspended_vm_tells_each_device_once_and_suspends_none_again() {
    let (machine, vm) = running(2);
    vm.suspend(SuspendReason::User).unwrap();
    let suspended = ["second suspend", "first suspend"];
    assert_eq!(taken(&machine.log), suspended);
    vm.power_off().unwrap();
    assert_eq!(taken(&machine.log), ["second power_off", "first power_off"]);
}

#[test]
fn sd_v06_where_a_reset_is_to_power_off_a_soft_reset_is_still_one() {
    let machine = Machine::new(busy());
    let mut policy = spec(2);
    policy.on_reset = OnReset::PowerOff;
    let vm = Vm::create(policy, machine.parts()).unwrap();
    vm.power_on().unwrap();
    vm.soft_reset().unwrap();
    assert_eq!(vm.state(), State::Running);
    assert_eq!((vm.status().soft_resets, vm.ending()), (1, None));
}

#[test]
fn t_s11_power_off_tells_each_device_once_in_reverse() {
    let (machine, vm) = running(4);
    vm.power_off().unwrap();
    assert_eq!(taken(&machine.log), ["second power_off", "first power_off"]);
    at_rest(&vm, 4);
}

#[test]
fn t_s12_a_hard_reset_counts_as_hard_and_keeps_running() {
    let (_machine, vm) = running(2);
    vm.reset().unwrap();
    let status = vm.status();
    assert_eq!((status.hard_resets, status.soft_resets), (1, 0));
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn t_s13_sd_v05_a_suspended_vm_that_is_reset_begins_anew_on_resume_with_aps_waiting() {
    let script = Script::new().work(1000).halt_for_good();
    let machine = Machine::with(ScriptEngine::new(script).aps(ApStart::AfterSipi));
    let vm = machine.create(2);
    vm.power_on().unwrap();
    until("vCPU 0 works", || machine.engine.progress(0).work() > 10);
    vm.suspend(SuspendReason::User).unwrap();
    vm.reset().unwrap();
    assert_eq!((vm.state(), vm.status().hard_resets), (State::Suspended, 1));
    let at = |v| {
        let state = vm.on_emt(v, LIMIT, |emt| emt.settled().and_then(|s| s.state()));
        let state = state.unwrap().unwrap();
        (state.gprs.rip, state.gprs.rcx, state.activity)
    };
    assert_eq!(at(0), (0, 0, Activity::Running), "the reset vector");
    assert_eq!(at(1).2, Activity::WaitForInit);
    let before = machine.engine.progress(0).work();
    vm.resume(ResumeReason::User).unwrap();
    until("all the work again", || {
        machine.engine.progress(0).work() >= before + 1000
    });
    assert_eq!(machine.engine.progress(1).work(), 0);
}

#[test]
fn a_soft_reset_counts_as_soft_and_loads_nothing_anew() {
    let (machine, vm) = running(2);
    vm.soft_reset().unwrap();
    let status = vm.status();
    assert_eq!((status.hard_resets, status.soft_resets), (0, 1));
    assert_eq!(vm.state(), State::Running);
    assert!(!taken(&machine.log).contains(&"firmware".to_owned()));
}

#[test]
fn t_s16_sd_v06_power_off_instead_of_reset_ends_the_vm_once_and_counts_no_reset() {
    let machine = Machine::new(Script::new().pio_write(PORT_RESET, 1, 1).work(5));
    let mut policy = spec(2);
    policy.on_reset = OnReset::PowerOff;
    let vm = Vm::create(policy, machine.parts()).unwrap();
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let _watch = vm.observe(move |change| {
        if change.new == State::PoweringOff {
            *count.lock().unwrap() += 1;
        }
    });
    vm.power_on().unwrap();
    vm.wait_until(|s| s == State::Off, LIMIT).unwrap();
    assert_eq!(
        (*seen.lock().unwrap(), vm.ending()),
        (1, Some(Ending::GuestReset))
    );
    assert_eq!(vm.status().hard_resets, 0);
}

#[test]
fn t_s17_a_refused_reset_says_nothing_of_an_ending() {
    let machine = Machine::new(busy());
    let mut policy = spec(1);
    policy.on_reset = OnReset::PowerOff;
    let vm = Vm::create(policy, machine.parts()).unwrap();
    vm.power_off().unwrap();
    assert_eq!(vm.ending(), Some(Ending::PowerOff));
    assert!(matches!(vm.reset(), Err(VmError::Refused { .. })));
    assert_eq!(vm.ending(), Some(Ending::PowerOff));
    assert_eq!(vm.status().hard_resets, 0);
}

#[test]
fn t_s26_destroy_tells_terminated_and_later_calls_are_refused() {
    let (_machine, vm) = running(2);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    let _watch = vm.observe(move |change| into.lock().unwrap().push(change.new));
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(seen.lock().unwrap().last(), Some(&State::Terminated));
    assert!(vm.suspend(SuspendReason::User).is_err());
    assert!(vm.destroy(DESTROY).is_err());
}

#[test]
fn t_s27_destroy_from_an_emt_is_refused_and_the_vm_stays_off() {
    let (_machine, vm) = running(2);
    vm.power_off().unwrap();
    let inner = vm.clone();
    let result = vm
        .on_emt(1, LIMIT, move |_| inner.destroy(DESTROY))
        .unwrap();
    assert!(
        matches!(result, Err(VmError::WouldBlock { .. })),
        "{result:?}"
    );
    assert_eq!(vm.state(), State::Off);
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn t_s29_a_guru_on_one_vcpu_takes_all_others_out_of_the_guest_for_good() {
    let engine = ScriptEngine::new(busy()).vcpu(2, Script::new().work(9).fault(Fault::Shutdown));
    let machine = Machine::with(engine);
    let vm = machine.create(4);
    vm.power_on().unwrap();
    vm.wait_until(|s| s == State::GuruMeditation, LIMIT)
        .unwrap();
    at_rest(&vm, 4);
    let work = || {
        (0..4)
            .map(|v| machine.engine.progress(v).work())
            .collect::<Vec<_>>()
    };
    let (before, parks) = (work(), vm.bells().counts(3).parks);
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!((work(), vm.bells().counts(3).parks), (before, parks));
}

#[test]
fn t_s30_the_emts_of_a_vm_in_fatal_error_rest() {
    let (machine, vm) = running(3);
    vm.fail().unwrap();
    at_rest(&vm, 3);
    let counts = || (0..3).map(|v| vm.bells().counts(v)).collect::<Vec<_>>();
    let before = counts();
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!(counts(), before, "an EMT spins");
    assert!(matches!(
        vm.resume(ResumeReason::User),
        Err(VmError::Refused { .. })
    ));
    assert!(matches!(vm.reset(), Err(VmError::Refused { .. })));
    assert_eq!(vm.state(), State::FatalError);
    taken(&machine.log);
}

/// Collects the records of `vm.transition`.
struct Records(Mutex<Vec<String>>);

impl log::Log for Records {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "vm.transition"
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

#[test]
fn t_s35_each_transition_writes_one_record_before_observers_hear_of_it() {
    static RECORDS: OnceLock<Records> = OnceLock::new();
    let records = RECORDS.get_or_init(|| Records(Mutex::default()));
    log::set_logger(records).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let machine = Machine::new(busy());
    let mut named = spec(2);
    named.name = "s35".into();
    let vm = Vm::create(named, machine.parts()).unwrap();
    let mine = || {
        let all = records.0.lock().unwrap();
        all.iter()
            .filter(|text| text.starts_with("s35: "))
            .cloned()
            .collect::<Vec<_>>()
    };
    let late = Arc::new(Mutex::new(Vec::new()));
    let missing = Arc::clone(&late);
    let _watch = vm.observe(move |change| {
        let text = format!("s35: {} -> {} ({})", change.old, change.new, change.cause);
        let all = records.0.lock().unwrap();
        if !all.contains(&text) {
            missing.lock().unwrap().push(text);
        }
    });
    vm.power_on().unwrap();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(*late.lock().unwrap(), Vec::<String>::new());
    assert_eq!(
        mine(),
        [
            "s35: CREATING -> CREATED (user)",
            "s35: CREATED -> POWERING_ON (user)",
            "s35: POWERING_ON -> RUNNING (user)",
            "s35: RUNNING -> POWERING_OFF (user)",
            "s35: POWERING_OFF -> OFF (user)",
            "s35: OFF -> DESTROYING (destroy)",
            "s35: DESTROYING -> TERMINATED (destroy)",
        ]
    );
}
