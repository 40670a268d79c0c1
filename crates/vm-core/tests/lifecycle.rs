// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The life of a VM on scripted vCPUs, by the operations and what they refuse.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DESTROY, LIMIT, Machine, busy, spec, taken, until};
use vm_core::{Ending, VmError};
use vm_cpu::script::{Gate, Script, ScriptEngine};
use vm_state::{ResumeReason, State, SuspendReason};

fn refused(result: &Result<(), VmError>) -> bool {
    matches!(result, Err(VmError::Refused { .. }))
}

#[test]
fn t_s03_power_on_runs_every_vcpu_and_powers_devices_on_in_between() {
    let machine = Machine::new(busy());
    let vm = machine.create(4);
    assert_eq!(vm.state(), State::Created);
    assert_eq!(taken(&machine.log), ["firmware"]);
    vm.power_on().unwrap();
    assert_eq!(vm.state(), State::Running);
    assert_eq!(taken(&machine.log), ["first power_on", "second power_on"]);
    for v in 0..4 {
        let progress = machine.engine.progress(v);
        until("guest work", || progress.work() > 0);
    }
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(vm.state(), State::Terminated);
}

#[test]
fn t_s04_power_on_of_a_running_vm_is_refused_and_tells_no_device() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    taken(&machine.log);
    assert!(refused(&vm.power_on()));
    assert_eq!(vm.state(), State::Running);
    assert!(taken(&machine.log).is_empty());
}

#[test]
fn no_guest_code_runs_while_suspended_and_it_goes_on_after_resume() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    vm.power_on().unwrap();
    let progress: Vec<_> = (0..3).map(|v| machine.engine.progress(v)).collect();
    for p in &progress {
        until("guest work", || p.work() > 0);
    }
    taken(&machine.log);
    vm.suspend(SuspendReason::User).unwrap();
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(taken(&machine.log), ["second suspend", "first suspend"]);
    let before: Vec<u64> = progress.iter().map(|p| p.work()).collect();
    for _ in 0..100 {
        vm.on_emt(1, LIMIT, |_| ()).unwrap();
    }
    let after: Vec<u64> = progress.iter().map(|p| p.work()).collect();
    assert_eq!(before, after);
    vm.resume(ResumeReason::User).unwrap();
    assert_eq!(taken(&machine.log), ["first resume", "second resume"]);
    for (p, before) in progress.iter().zip(before) {
        until("work after resume", || p.work() > before);
    }
}

#[test]
fn hard_reset_keeps_a_running_vm_running_and_a_suspended_one_suspended() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    taken(&machine.log);
    vm.reset().unwrap();
    assert_eq!(vm.state(), State::Running);
    assert_eq!(
        taken(&machine.log),
        ["first reset", "second reset", "firmware"]
    );
    vm.suspend(SuspendReason::User).unwrap();
    vm.reset().unwrap();
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(vm.status().hard_resets, 2);
    vm.resume(ResumeReason::User).unwrap();
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn the_same_threads_serve_the_vm_before_and_after_a_reset() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    vm.power_on().unwrap();
    let before = vm.status().tids;
    vm.reset().unwrap();
    assert_eq!(vm.status().tids, before);
    assert!(before.iter().all(Option::is_some));
}

#[test]
fn t_s28_destroy_of_a_running_vm_is_refused_and_it_goes_on() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    assert!(refused(&vm.destroy(DESTROY)));
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn sd_v07_destroy_is_accepted_in_off_alone_and_a_refused_one_changes_nothing() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    let refused_in = |state: State| {
        taken(&machine.log);
        assert!(refused(&vm.destroy(DESTROY)), "{state}");
        assert_eq!(vm.state(), state);
        assert!(taken(&machine.log).is_empty(), "no device hears of it");
    };
    refused_in(State::Created);
    vm.power_on().unwrap();
    refused_in(State::Running);
    vm.suspend(SuspendReason::User).unwrap();
    refused_in(State::Suspended);
    vm.resume(ResumeReason::User).unwrap();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    refused_in(State::Terminated);
}

#[test]
fn t_c07_observers_see_a_whole_life_in_order() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    let _watch = vm.observe(move |change| into.lock().unwrap().push((change.old, change.new)));
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    let states: Vec<State> = seen.lock().unwrap().iter().map(|(_, new)| *new).collect();
    assert_eq!(
        states,
        [
            State::PoweringOn,
            State::Running,
            State::Suspending,
            State::Suspended,
            State::Resuming,
            State::Running,
            State::PoweringOff,
            State::Off,
            State::Destroying,
            State::Terminated
        ]
    );
}

#[test]
fn t_s32_a_device_that_cannot_power_on_leaves_the_vm_created() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    *machine.fails.lock().unwrap() = Some("power_on");
    assert!(matches!(vm.power_on(), Err(VmError::Device(_))));
    assert_eq!(vm.state(), State::Created);
    *machine.fails.lock().unwrap() = None;
    vm.power_on().unwrap();
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn a_device_that_cannot_suspend_leaves_the_vm_running() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    *machine.fails.lock().unwrap() = Some("suspend");
    assert!(matches!(
        vm.suspend(SuspendReason::User),
        Err(VmError::Device(_))
    ));
    assert_eq!(vm.state(), State::Running);
    for v in 0..2 {
        let progress = machine.engine.progress(v);
        let before = progress.work();
        until("work after the failed suspend", || progress.work() > before);
    }
}

#[test]
fn a_device_that_cannot_resume_leaves_the_vm_suspended() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    *machine.fails.lock().unwrap() = Some("resume");
    assert!(matches!(
        vm.resume(ResumeReason::User),
        Err(VmError::Device(_))
    ));
    assert_eq!(vm.state(), State::Suspended);
    *machine.fails.lock().unwrap() = None;
    vm.resume(ResumeReason::User).unwrap();
}

#[test]
fn a_late_vcpu_is_named_and_the_vm_is_as_before() {
    let gate = Gate::new();
    let deaf = Script::new()
        .work(1)
        .pio_write(0x80, 1, 7)
        .never_leave(&gate)
        .work(1)
        .forever();
    let engine = ScriptEngine::new(busy()).vcpu(1, deaf);
    let machine = Machine::with(engine);
    let mut spec = spec(3);
    spec.gather_limit = Duration::from_millis(200);
    let vm = vm_core::Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    gate.wait_for_arrivals(1);
    let result = vm.suspend(SuspendReason::User);
    let Err(VmError::Late {
        vcpu: 1, exit, rip, ..
    }) = result
    else {
        panic!("{result:?}")
    };
    assert_eq!(
        (exit, rip),
        ("pio-write", 1),
        "its last exit, and the step it was at"
    );
    assert_eq!(vm.state(), State::Running);
    gate.release();
    until("suspend once it comes", || {
        vm.suspend(SuspendReason::User).is_ok()
    });
    assert_eq!(vm.state(), State::Suspended);
}

#[test]
fn t_c06_a_blocking_operation_on_an_emt_or_in_an_observer_is_refused() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    let inner = vm.clone();
    let on_emt = vm
        .on_emt(1, LIMIT, move |_| inner.suspend(SuspendReason::User))
        .unwrap();
    assert!(matches!(on_emt, Err(VmError::WouldBlock { .. })));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (into, inner) = (Arc::clone(&seen), vm.clone());
    let watch = vm.observe(move |_| {
        into.lock()
            .unwrap()
            .push(inner.suspend(SuspendReason::User));
    });
    vm.suspend(SuspendReason::User).unwrap();
    drop(watch);
    let results = seen.lock().unwrap();
    assert!(!results.is_empty());
    assert!(
        results
            .iter()
            .all(|r| matches!(r, Err(VmError::WouldBlock { .. }))),
        "{results:?}"
    );
}

#[test]
fn two_suspends_at_once_one_succeeds_one_is_refused() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    for _ in 0..100 {
        let other = vm.clone();
        let thread = std::thread::Builder::new()
            .spawn(move || other.suspend(SuspendReason::User))
            .unwrap();
        let mine = vm.suspend(SuspendReason::User);
        let theirs = thread.join().unwrap();
        assert!(mine.is_ok() != theirs.is_ok(), "{mine:?} {theirs:?}");
        assert!(refused(&mine) || refused(&theirs));
        vm.resume(ResumeReason::User).unwrap();
    }
}

#[test]
fn two_vms_live_in_one_process_and_do_not_touch_each_other() {
    let (a, b) = (Machine::new(busy()), Machine::new(busy()));
    let (vm_a, vm_b) = (a.create(2), b.create(2));
    vm_a.power_on().unwrap();
    vm_b.power_on().unwrap();
    vm_a.suspend(SuspendReason::User).unwrap();
    let before = b.engine.progress(0).work();
    until("the other VM goes on", || {
        b.engine.progress(0).work() > before
    });
    assert_eq!(vm_b.state(), State::Running);
    // An EMT of one VM is a stranger to the other.
    let inner = vm_b.clone();
    vm_a.on_emt(0, LIMIT, move |_| inner.suspend(SuspendReason::User))
        .unwrap()
        .unwrap();
    assert_eq!(vm_b.state(), State::Suspended);
    vm_a.power_off().unwrap();
    vm_a.destroy(DESTROY).unwrap();
    vm_b.resume(ResumeReason::User).unwrap();
}

#[test]
fn a_request_runs_on_its_emt_with_the_result_carried_back() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    for v in 0..3 {
        let (id, name) = vm
            .on_emt(v, LIMIT, |emt| {
                (emt.id(), std::thread::current().name().map(str::to_owned))
            })
            .unwrap();
        assert_eq!((id, name), (v, Some(format!("emt-{v}"))));
    }
    vm.power_on().unwrap();
    assert_eq!(vm.on_emt(2, LIMIT, |emt| emt.id()).unwrap(), 2);
}

#[test]
fn power_off_is_accepted_from_created_running_and_suspended() {
    for prepare in [0, 1, 2] {
        let machine = Machine::new(busy());
        let vm = machine.create(2);
        if prepare > 0 {
            vm.power_on().unwrap();
        }
        if prepare > 1 {
            vm.suspend(SuspendReason::User).unwrap();
        }
        vm.power_off().unwrap();
        assert_eq!(vm.state(), State::Off);
        assert_eq!(vm.ending(), Some(Ending::PowerOff));
        assert!(refused(&vm.power_off()));
        vm.destroy(DESTROY).unwrap();
    }
}

#[test]
fn sd_v08_destroy_names_the_emt_that_does_not_come_and_can_be_repeated() {
    let gate = Gate::new();
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_off().unwrap();
    let (blocked, entered) = (gate.clone(), Arc::new(std::sync::Barrier::new(2)));
    let inside = Arc::clone(&entered);
    let holder = vm.clone();
    let thread = std::thread::Builder::new()
        .spawn(move || {
            holder.on_emt(1, LIMIT, move |_| {
                inside.wait();
                // Deaf, as an EMT stuck in a host call is.
                let (lock, cond) = (Mutex::new(()), std::sync::Condvar::new());
                let _ = cond.wait_timeout(lock.lock().unwrap(), Duration::from_millis(300));
                drop(blocked);
            })
        })
        .unwrap();
    entered.wait();
    let result = vm.destroy(Duration::from_millis(20));
    assert!(
        matches!(result, Err(VmError::Late { vcpu: 1, .. })),
        "{result:?}"
    );
    thread.join().unwrap().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(vm.state(), State::Terminated);
}
