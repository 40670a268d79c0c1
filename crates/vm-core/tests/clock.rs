// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The virtual clock runs while the VM does, and its timers fire while it runs.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DESTROY, Machine, busy, spec};
use vm_core::{Vm, VmError};
use vm_cpu::script::{Fault, Script};
use vm_pdm::{Timer, Timers};
use vm_state::{ResumeReason, State, SuspendReason};

const LONG: Duration = Duration::from_secs(60);

fn running(script: Script) -> (Machine, Vm) {
    let machine = Machine::new(script);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    (machine, vm)
}

/// Whether the clock runs; if not, it says the same twice.
fn runs(vm: &Vm) -> bool {
    let clock = vm.timers().clock();
    assert!(clock.is_running() || clock.now_ns() == clock.now_ns());
    clock.is_running()
}

#[test]
fn the_clock_runs_in_exactly_the_states_in_which_the_vm_does() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    assert!(!runs(&vm));
    assert_eq!(vm.timers().clock().now_ns(), 0);
    vm.power_on().unwrap();
    assert!(runs(&vm));
    vm.suspend(SuspendReason::User).unwrap();
    assert!(!runs(&vm));
    vm.reset().unwrap();
    assert!(!runs(&vm), "a suspended VM that is reset stays suspended");
    vm.resume(ResumeReason::User).unwrap();
    assert!(runs(&vm));
    vm.reset().unwrap();
    assert!(runs(&vm));
    vm.power_off().unwrap();
    assert!(!runs(&vm));
    vm.destroy(DESTROY).unwrap();
    assert!(!runs(&vm));
}

#[test]
fn an_operation_that_fails_leaves_the_clock_as_the_vm_is() {
    let (machine, vm) = running(busy());
    *machine.fails.lock().unwrap() = Some("suspend");
    vm.suspend(SuspendReason::User).unwrap_err();
    assert!(runs(&vm));
    *machine.fails.lock().unwrap() = Some("resume");
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap_err();
    assert_eq!(vm.state(), State::Suspended);
    assert!(!runs(&vm));
}

#[test]
fn the_clock_of_a_vm_that_died_is_held() {
    let (_machine, vm) = running(busy());
    vm.fail().unwrap();
    assert_eq!(vm.state(), State::FatalError);
    assert!(!runs(&vm));

    let (_machine, vm) = running(Script::new().work(1).fault(Fault::Shutdown));
    vm.wait_until(|s| s == State::GuruMeditation, Some(LONG))
        .unwrap();
    let clock = vm.timers().clock();
    common::until("the clock is held", || !clock.is_running());
}

/// A timer that says that its callback began, and waits to be let go.
fn slow(timers: &Timers) -> (Timer, Receiver<()>, Sender<()>) {
    let (begin, began) = channel();
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let timer = timers.timer("slow", move |_| {
        begin.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
    });
    (timer.unwrap(), began, go)
}

#[test]
fn a_suspend_waits_for_the_callback_that_runs_and_none_runs_after_it() {
    let (_machine, vm) = running(busy());
    let (timer, began, go) = slow(vm.timers());
    timer.arm(0);
    began.recv_timeout(LONG).unwrap();
    std::thread::scope(|scope| {
        let suspend = scope.spawn(|| vm.suspend(SuspendReason::User));
        vm.wait_until(|s| s == State::Suspending, Some(LONG))
            .unwrap();
        assert_eq!(vm.state(), State::Suspending);
        go.send(()).unwrap();
        suspend.join().unwrap().unwrap();
    });
    timer.arm(0);
    assert!(began.try_recv().is_err());
    go.send(()).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    began.recv_timeout(LONG).unwrap();
}

#[test]
fn a_callback_that_does_not_end_is_named_and_the_vm_runs_on() {
    let machine = Machine::new(busy());
    let mut spec = spec(1);
    spec.quiesce_limit = Duration::ZERO;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    let (timer, began, go) = slow(vm.timers());
    timer.arm(0);
    began.recv_timeout(LONG).unwrap();
    let late = vm.suspend(SuspendReason::User).unwrap_err();
    assert!(
        matches!(&late, VmError::Pending { devices, .. } if devices == "timer \"slow\""),
        "{late}"
    );
    assert_eq!(vm.state(), State::Running);
    assert!(runs(&vm));
    go.send(()).unwrap();
}

#[test]
fn a_board_gets_the_timers_of_its_vm() {
    let machine = Machine::new(busy());
    let mut parts = machine.parts();
    let mut make = parts.board;
    let kept: Arc<Mutex<Option<Timer>>> = Arc::default();
    let (tell, told) = channel();
    let slot = Arc::clone(&kept);
    parts.board = Box::new(move |cx| {
        let tell = tell.clone();
        let timer = cx.timers.timer("board", move |_| tell.send(()).unwrap())?;
        timer.arm_in(Duration::from_millis(1));
        *slot.lock().unwrap() = Some(timer);
        make(cx)
    });
    let vm = Vm::create(spec(1), parts).unwrap();
    assert!(told.try_recv().is_err(), "the VM does not run yet");
    vm.power_on().unwrap();
    told.recv_timeout(LONG).unwrap();
}
