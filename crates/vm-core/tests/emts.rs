// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! EMTs: how they begin, rest, wake, report and end.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "common/hooked.rs"]
mod hooked;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::{DESTROY, LIMIT, Machine, busy, spec, until};
use hooked::{Hooked, Hooks};
use vm_core::{Flight, Parts, Vm, VmError};
use vm_cpu::script::{Fault, Gate, Script, ScriptEngine};
use vm_cpu::{CpuError, IrqMode};
use vm_emt::{Flow, Phase};
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, SuspendReason};

/// vCPU `fails` cannot be made; counts those that can.
#[derive(Debug)]
struct Failing {
    fails: u32,
    alive: AtomicU32,
}

impl Hooks for Failing {
    fn vcpu(&self, id: u32) -> Result<(), CpuError> {
        if id == self.fails {
            return Err(CpuError::Unavailable {
                what: "vCPU".into(),
                hint: "none left".into(),
            });
        }
        self.alive.fetch_add(1, SeqCst);
        Ok(())
    }
}

/// Threads of this process whose names are those of EMTs of VMs in this test.
fn emt_threads(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

#[test]
fn t_e01_each_emt_knows_which_it_is_and_a_foreign_thread_is_none() {
    let machine = Machine::new(busy());
    let vm = machine.create(4);
    for v in 0..4 {
        let bells = vm.bells().clone();
        let seen = vm.on_emt(v, LIMIT, move |_| bells.current()).unwrap();
        assert_eq!(seen, Some(v));
    }
    assert_eq!(vm.bells().current(), None);
    let name = |v| {
        vm.on_emt(v, LIMIT, |_| {
            std::thread::current().name().map(String::from)
        })
    };
    assert_eq!(name(3).unwrap().as_deref(), Some("emt-3"));
}

#[test]
fn t_e02_the_only_emt_of_a_vm_is_called_emt() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    let name = vm.on_emt(0, LIMIT, |_| {
        std::thread::current().name().map(String::from)
    });
    assert_eq!(name.unwrap().as_deref(), Some("emt"));
}

#[test]
fn t_e03_a_vcpu_that_cannot_be_made_leaves_no_vcpu_and_no_thread() {
    for fails in 0..4 {
        let hooks = Arc::new(Failing {
            fails,
            alive: AtomicU32::new(0),
        });
        let engine = Hooked {
            inner: Arc::new(ScriptEngine::new(busy())),
            hooks: Arc::clone(&hooks),
        };
        let error = Vm::create(spec(4), Parts::bare(Arc::new(engine))).unwrap_err();
        assert!(error.to_string().contains("processor"), "{error}");
        assert_eq!(hooks.alive.load(SeqCst), fails, "those before it were made");
    }
}

#[test]
fn t_e04_a_failing_firmware_fails_the_create_with_its_own_error() {
    let machine = Machine::new(busy());
    machine.firmware_fails.store(true, SeqCst);
    let error = Vm::create(spec(3), machine.parts()).unwrap_err();
    let VmError::Component(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.component, "firmware");
    assert_eq!(error.source.to_string(), "the image is gone");
}

#[test]
fn t_e05_an_idle_vm_parks_its_emts_and_wakes_none_of_them() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    let parked = |v| vm.bells().word(v).phase() == Phase::Parked;
    until("all parked", || (0..3).all(parked));
    let before: Vec<_> = (0..3).map(|v| vm.bells().counts(v)).collect();
    // Whatever others do to their own VMs meanwhile.
    let other = Machine::new(busy()).create(2);
    other.power_on().unwrap();
    drop(other);
    let after: Vec<_> = (0..3).map(|v| vm.bells().counts(v)).collect();
    assert_eq!(before, after);
}

#[test]
fn t_e06_a_suspended_emt_wakes_for_a_request_and_for_a_rendezvous_and_rests_again() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    for _ in 0..100 {
        assert_eq!(vm.on_emt(1, LIMIT, |emt| emt.id()).unwrap(), 1);
        vm.meet(How::together(), |_| Ok(Flow::Continue)).unwrap();
    }
    until("at rest", || {
        (0..2).all(|v| vm.bells().word(v).phase() == Phase::Parked)
    });
    assert_eq!(vm.state(), State::Suspended);
}

#[test]
fn t_e10_a_guest_halted_with_interrupts_off_does_not_run_until_reset() {
    let machine = Machine::new(Script::new().work(3).halt_for_good());
    let mut spec = spec(1);
    spec.irq = IrqMode::None;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    until("halted", || vm.bells().word(0).phase() == Phase::Parked);
    let work = machine.engine.progress(0).work();
    for _ in 0..50 {
        vm.on_emt(0, LIMIT, |_| ()).unwrap();
    }
    assert_eq!(machine.engine.progress(0).work(), work);
    vm.reset().unwrap();
    until("guest work after reset", || {
        machine.engine.progress(0).work() > work
    });
}

#[test]
fn t_e11_destroy_ends_the_emts_and_joins_them() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    let tids: Vec<u32> = vm.status().tids.into_iter().flatten().collect();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    for tid in tids {
        let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
        assert!(
            !comm.unwrap_or_default().starts_with("emt"),
            "thread {tid} is left"
        );
    }
    assert_eq!(vm.bells().current(), None);
    assert!((0..3).all(|v| !vm.bells().live(v)));
}

#[test]
fn t_e12_a_handle_of_a_destroyed_vm_still_answers() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    let handle = vm.clone();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    drop(vm);
    assert_eq!(handle.state(), State::Terminated);
    assert!(matches!(
        handle.power_on(),
        Err(VmError::Gone { .. } | VmError::Refused { .. })
    ));
    assert!(matches!(
        handle.on_emt(0, LIMIT, |_| ()),
        Err(VmError::Gone { .. })
    ));
    assert!(handle.suspend(SuspendReason::User).is_err());
}

#[test]
fn t_e17_a_vcpu_executes_nothing_behind_the_access_that_asked_for_power_off() {
    for _ in 0..50 {
        let asks = Script::new()
            .work(5)
            .pio_write(common::PORT_POWER_OFF, 1, 0x34)
            .work(1000);
        let machine = Machine::with(ScriptEngine::new(busy()).vcpu(1, asks));
        let vm = machine.create(2);
        vm.power_on().unwrap();
        vm.wait_until(|s| s == State::Off, LIMIT).unwrap();
        assert_eq!(
            machine.engine.progress(1).work(),
            6,
            "five units and the write"
        );
    }
}

#[test]
fn t_e18_two_resets_asked_for_at_once_are_both_done_in_order() {
    let resets = Script::new().work(1).pio_write(common::PORT_RESET, 1, 1);
    let machine = Machine::new(resets);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    until("resets of both vCPUs", || vm.status().hard_resets >= 20);
    assert!(!vm.state().is_failed());
    vm.power_off().unwrap();
}

#[test]
fn t_m08_a_halted_vcpu_is_halted_still_after_suspend_and_resume() {
    let machine = Machine::new(Script::new().work(3).halt().work(1000));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    until("halted", || machine.engine.progress(0).work() >= 3);
    for _ in 0..20 {
        vm.suspend(SuspendReason::User).unwrap();
        vm.resume(ResumeReason::User).unwrap();
    }
    vm.suspend(SuspendReason::User).unwrap();
    assert!(
        machine.engine.progress(0).work() < 100,
        "nothing woke the halt"
    );
}

#[test]
fn t_m14_an_exit_the_engine_does_not_know_is_guru_meditation_with_its_code() {
    let machine = Machine::new(Script::new().fault(Fault::InternalError(0x77)));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    vm.wait_until(|s| s == State::GuruMeditation, LIMIT)
        .unwrap();
    assert!(
        vm.guru().unwrap().why.contains("119"),
        "{}",
        vm.guru().unwrap().why
    );
}

#[test]
fn t_m02_a_vcpu_that_never_exits_by_itself_is_suspended_by_one_kick() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    until("in guest", || machine.engine.progress(0).work() > 0);
    let before = vm.bells().counts(0).kicks;
    vm.suspend(SuspendReason::User).unwrap();
    let kicks = vm.bells().counts(0).kicks - before;
    assert!(kicks <= 1, "{kicks} kicks for one suspend");
}

#[test]
fn a_report_shows_what_each_emt_did_and_describes_one_that_does_not_answer() {
    let gate = Gate::new();
    let deaf = Script::new().work(1).never_leave(&gate).work(1).forever();
    let machine = Machine::with(ScriptEngine::new(busy()).vcpu(1, deaf));
    let vm = machine.create(2);
    vm.power_on().unwrap();
    gate.wait_for_arrivals(1);
    let report = vm.report(Duration::from_millis(200)).unwrap();
    let seen = report.emts[0].seen.as_ref().unwrap();
    assert!(
        seen.flights.contains(&Flight::Part("power on")),
        "{:?}",
        seen.flights
    );
    assert!(seen.flights.contains(&Flight::State(State::Running)));
    assert!(report.emts[1].seen.is_none());
    let text = report.to_string();
    assert!(
        text.contains("does not answer") && text.contains("RUNNING"),
        "{text}"
    );
    gate.release();
    until("the report of both", || {
        let report = vm.report(Duration::from_secs(60)).unwrap();
        report.emts.iter().all(|emt| emt.seen.is_some())
    });
}

#[test]
fn a_panicking_request_is_reported_and_its_emt_lives_on() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = vm.on_emt(1, LIMIT, |_| panic!("as a defect would"));
    std::panic::set_hook(hook);
    assert!(matches!(result, Err(VmError::Panicked { vcpu: 1, .. })));
    assert_eq!(vm.on_emt(1, LIMIT, |emt| emt.id()).unwrap(), 1);
    assert!(emt_threads("emt-") >= 2);
}
