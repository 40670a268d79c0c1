// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The states of a save, driven by a scripted saver: whoever interferes, the VM leaves every `_LS`
//! state.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use common::{DESTROY, LIMIT, Log, Machine, busy, note, taken, until};
use vm_core::{
    BoxError, Cancel, CancelError, Closing, Emt, Intent, SaveError, Saved, Saver, SuspendedBy, Vm,
    VmError, Vote,
};
use vm_cpu::script::{Fault, Script, ScriptEngine};
use vm_state::{ResumeReason, State, SuspendReason};

/// Where a scripted saver fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fails {
    Never,
    Open,
    Pass(u32),
    Finish,
    Close,
}

/// Runs `live` passes, telling each on a channel and waiting there for leave to go on.
struct Scripted {
    live: u32,
    fails: Fails,
    log: Log,
    pass: Sender<Cancel>,
    go: Receiver<()>,
}

/// The test's side of it.
struct Steps {
    log: Log,
    pass: Receiver<Cancel>,
    go: Sender<()>,
}

fn scripted(live: u32, fails: Fails) -> (Scripted, Steps) {
    let ((pass, passes), (go, gone)) = (channel(), channel());
    let log = Log::default();
    let saver = Scripted {
        live,
        fails,
        log: log.clone(),
        pass,
        go: gone,
    };
    (
        saver,
        Steps {
            log,
            pass: passes,
            go,
        },
    )
}

impl Scripted {
    fn at(&self, here: Fails, what: &str) -> Result<(), BoxError> {
        note(&self.log, what);
        if self.fails == here {
            Err(format!("{what} refused").into())
        } else {
            Ok(())
        }
    }
}

impl Saver for Scripted {
    fn open(&mut self) -> Result<(), BoxError> {
        self.at(Fails::Open, "open")
    }
    fn pass(&mut self, pass: u32, cancel: &Cancel) -> Result<Vote, BoxError> {
        self.at(Fails::Pass(pass), "pass")?;
        self.pass.send(cancel.clone()).unwrap();
        self.go.recv_timeout(LIMIT.unwrap()).unwrap();
        Ok(if pass + 1 < self.live {
            Vote::Again
        } else {
            Vote::Done
        })
    }
    fn finish(&mut self, emt: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        assert_eq!(emt.id(), 0);
        emt.settled()?.state()?;
        self.at(Fails::Finish, "finish")
    }
    fn close(&mut self, closing: Closing) -> Result<(), BoxError> {
        self.at(
            Fails::Close,
            if closing == Closing::Keep {
                "keep"
            } else {
                "drop"
            },
        )
    }
}

impl Steps {
    /// Waits for the saver to be in a live pass; gives its view of a cancel.
    fn in_pass(&self) -> Cancel {
        self.pass.recv_timeout(LIMIT.unwrap()).unwrap()
    }
    fn go_on(&self) {
        self.go.send(()).unwrap();
    }
}

fn start(vm: &Vm, mut saver: Scripted, intent: Intent) -> JoinHandle<Result<Saved, VmError>> {
    let vm = vm.clone();
    std::thread::Builder::new()
        .spawn(move || vm.save(&mut saver, intent))
        .unwrap()
}

fn running() -> (Machine, Vm) {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    vm.power_on().unwrap();
    (machine, vm)
}

fn why(result: Result<Saved, VmError>) -> SaveError {
    match result {
        Err(VmError::Save { source }) => source,
        other => panic!("not a failed save: {other:?}"),
    }
}

fn end(vm: &Vm) {
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(vm.state(), State::Terminated);
}

#[test]
fn a_live_save_runs_its_passes_beside_the_guest_and_ends_suspended() {
    let (machine, vm) = running();
    let (saver, steps) = scripted(3, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    for _ in 0..3 {
        steps.in_pass();
        assert_eq!(vm.state(), State::RunningLs);
        let before = machine.engine.progress(0).work();
        until("guest work beside the save", || {
            machine.engine.progress(0).work() > before
        });
        steps.go_on();
    }
    let saved = save.join().unwrap().unwrap();
    assert_eq!(
        saved,
        Saved {
            passes: 3,
            suspended_by: SuspendedBy::Save
        }
    );
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(
        taken(&steps.log),
        ["open", "pass", "pass", "pass", "finish", "keep"]
    );
    vm.resume(ResumeReason::User).unwrap();
    end(&vm);
}

#[test]
fn a_save_of_a_suspended_vm_is_one_final_pass() {
    let (_machine, vm) = running();
    vm.suspend(SuspendReason::User).unwrap();
    let (saver, steps) = scripted(3, Fails::Never);
    let saved = start(&vm, saver, Intent::Snapshot).join().unwrap().unwrap();
    assert_eq!(
        saved,
        Saved {
            passes: 0,
            suspended_by: SuspendedBy::Other
        }
    );
    assert_eq!(taken(&steps.log), ["open", "finish", "keep"]);
    assert_eq!(vm.state(), State::Suspended);
    end(&vm);
}

#[test]
fn t_s14_a_hard_reset_during_a_live_save_suspends_and_the_save_completes() {
    let (machine, vm) = running();
    let (saver, steps) = scripted(2, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    taken(&machine.log);
    vm.reset().unwrap();
    assert_eq!(vm.state(), State::SuspendedLs);
    let expected = [
        "first reset",
        "second reset",
        "firmware",
        "second suspend",
        "first suspend",
    ];
    assert_eq!(taken(&machine.log), expected);
    steps.go_on();
    steps.in_pass();
    steps.go_on();
    let saved = save.join().unwrap().unwrap();
    assert_eq!(saved.suspended_by, SuspendedBy::Other);
    assert_eq!((vm.state(), vm.status().hard_resets), (State::Suspended, 1));
    end(&vm);
}

#[test]
fn t_s18_a_suspend_during_a_live_save_lets_the_save_complete_and_keeps_its_reason() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    vm.suspend(SuspendReason::HostSuspend).unwrap();
    assert_eq!(vm.state(), State::SuspendedExtLs);
    steps.go_on();
    assert_eq!(
        save.join().unwrap().unwrap().suspended_by,
        SuspendedBy::Other
    );
    assert_eq!(vm.state(), State::Suspended);
    let reason = vm.state_cell().snapshot().last_suspend;
    assert_eq!(reason, Some(SuspendReason::HostSuspend));
    end(&vm);
}

#[test]
fn t_p16_a_save_leaves_the_last_suspend_reason_alone() {
    let (_machine, vm) = running();
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    steps.go_on();
    save.join().unwrap().unwrap();
    assert_eq!(
        vm.state_cell().snapshot().last_suspend,
        Some(SuspendReason::User)
    );
    end(&vm);
}

#[test]
fn t_s19_a_power_off_during_a_live_save_ends_it_and_the_vm_can_be_destroyed() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(100, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    vm.power_off().unwrap();
    assert_eq!(vm.state(), State::OffLs);
    steps.go_on();
    assert!(matches!(why(save.join().unwrap()), SaveError::PoweredOff));
    assert_eq!(vm.state(), State::Off);
    assert_eq!(taken(&steps.log), ["open", "pass", "drop"]);
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn t_s20_a_save_that_cannot_open_leaves_the_vm_running() {
    let (machine, vm) = running();
    let (saver, steps) = scripted(1, Fails::Open);
    let result = start(&vm, saver, Intent::Teleport).join().unwrap();
    assert!(matches!(why(result), SaveError::Saver(_)));
    assert_eq!(vm.state(), State::Running);
    assert!(!vm.teleported());
    assert_eq!(taken(&steps.log), ["open"]);
    let before = machine.engine.progress(0).work();
    until("guest work", || machine.engine.progress(0).work() > before);
    end(&vm);
}

#[test]
fn a_save_that_fails_in_a_pass_leaves_the_vm_running_and_a_later_one_works() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(5, Fails::Pass(1));
    let save = start(&vm, saver, Intent::Teleport);
    steps.in_pass();
    assert!(vm.teleported());
    steps.go_on();
    assert!(matches!(why(save.join().unwrap()), SaveError::Saver(_)));
    assert_eq!(vm.state(), State::Running);
    assert!(!vm.teleported(), "the failed teleport leaves no flag");
    assert_eq!(taken(&steps.log), ["open", "pass", "pass", "drop"]);
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    steps.go_on();
    save.join().unwrap().unwrap();
    end(&vm);
}

#[test]
fn a_save_that_fails_at_the_end_leaves_the_vm_suspended() {
    for fails in [Fails::Finish, Fails::Close] {
        let (_machine, vm) = running();
        let (saver, steps) = scripted(1, fails);
        let save = start(&vm, saver, Intent::Snapshot);
        steps.in_pass();
        steps.go_on();
        assert!(matches!(why(save.join().unwrap()), SaveError::Saver(_)));
        assert_eq!(vm.state(), State::Suspended);
        vm.resume(ResumeReason::StateSaved).unwrap();
        end(&vm);
    }
}

#[test]
fn t_s15_a_save_is_not_disturbed_by_a_soft_reset_requests_and_refused_operations() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    assert!(matches!(
        vm.resume(ResumeReason::User),
        Err(VmError::Refused { .. })
    ));
    assert!(matches!(vm.power_on(), Err(VmError::Refused { .. })));
    assert!(matches!(vm.destroy(DESTROY), Err(VmError::Refused { .. })));
    vm.on_emt(2, LIMIT, |_| ()).unwrap();
    vm.soft_reset().unwrap();
    assert_eq!(vm.status().soft_resets, 1);
    assert_eq!(vm.state(), State::RunningLs);
    steps.go_on();
    save.join().unwrap().unwrap();
    end(&vm);
}

#[test]
fn sd_l16_a_second_save_is_told_that_one_is_under_way() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    let (second, second_steps) = scripted(1, Fails::Never);
    assert!(matches!(
        why(start(&vm, second, Intent::Snapshot).join().unwrap()),
        SaveError::Busy
    ));
    assert!(
        taken(&second_steps.log).is_empty(),
        "the second saver was not opened"
    );
    steps.go_on();
    save.join().unwrap().unwrap();
    end(&vm);
}

#[test]
fn t_s21_a_save_in_a_state_without_one_is_refused_and_closes_its_saver() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    let (saver, steps) = scripted(1, Fails::Never);
    let result = start(&vm, saver, Intent::Teleport).join().unwrap();
    assert!(matches!(result, Err(VmError::Refused { .. })), "{result:?}");
    assert_eq!(vm.state(), State::Created);
    assert!(!vm.teleported());
    assert_eq!(taken(&steps.log), ["open", "drop"]);
    end(&vm);
}

#[test]
fn a_cancelled_save_leaves_the_vm_running_and_can_be_cancelled_once() {
    let (_machine, vm) = running();
    assert_eq!(vm.cancel_save(), Err(CancelError::NothingPending));
    let (saver, steps) = scripted(100, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    vm.cancel_save().unwrap();
    assert_eq!(vm.cancel_save(), Err(CancelError::AlreadyCancelled));
    steps.go_on();
    assert!(matches!(why(save.join().unwrap()), SaveError::Cancelled));
    assert_eq!(vm.state(), State::Running);
    assert_eq!(vm.cancel_save(), Err(CancelError::NothingPending));
    end(&vm);
}

#[test]
fn a_power_off_while_the_save_holds_the_vm_suspended_cancels_it_and_is_done() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(2, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    let cancel = steps.in_pass();
    vm.suspend(SuspendReason::User).unwrap();
    let other = vm.clone();
    let off = std::thread::Builder::new()
        .spawn(move || other.power_off())
        .unwrap();
    until("the power-off cancels", || cancel.is_cancelled());
    steps.go_on();
    assert!(save.join().unwrap().is_err());
    off.join().unwrap().unwrap();
    assert_eq!(vm.state(), State::Off);
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn a_guru_during_a_live_save_ends_the_save_and_stays() {
    let gate = vm_cpu::script::Gate::new();
    let engine =
        ScriptEngine::new(busy()).vcpu(1, Script::new().never_leave(&gate).fault(Fault::Shutdown));
    let machine = Machine::with(engine);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    let (saver, steps) = scripted(100, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    let cancel = steps.in_pass();
    gate.release();
    vm.wait_until(|s| s == State::GuruMeditationLs, LIMIT)
        .unwrap();
    until("the guru cancels", || cancel.is_cancelled());
    steps.go_on();
    assert!(matches!(why(save.join().unwrap()), SaveError::Died));
    assert_eq!(vm.state(), State::GuruMeditation);
    end(&vm);
}

#[test]
fn t_c17_a_fatal_error_during_a_live_save_ends_the_save_and_stays() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(100, Fails::Never);
    let save = start(&vm, saver, Intent::Snapshot);
    steps.in_pass();
    vm.fail().unwrap();
    assert_eq!(vm.state(), State::FatalErrorLs);
    steps.go_on();
    assert!(matches!(why(save.join().unwrap()), SaveError::Died));
    assert_eq!(vm.state(), State::FatalError);
    end(&vm);
}

#[test]
fn t_s07_t_p15_a_teleported_vm_says_so_until_it_is_resumed() {
    let (_machine, vm) = running();
    let (saver, steps) = scripted(1, Fails::Never);
    let save = start(&vm, saver, Intent::Teleport);
    steps.in_pass();
    steps.go_on();
    save.join().unwrap().unwrap();
    assert!(vm.teleported());
    let seen = Arc::new(AtomicBool::new(false));
    let (flag, handle) = (Arc::clone(&seen), vm.clone());
    let watch = vm.observe(move |change| {
        if change.new == State::Running {
            flag.store(handle.teleported(), SeqCst);
        }
    });
    vm.resume(ResumeReason::TeleportFailed).unwrap();
    drop(watch);
    assert!(seen.load(SeqCst), "observers of RUNNING still saw the flag");
    assert!(!vm.teleported());
    end(&vm);
}
