// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Models of the cell under every interleaving, and the same models finding a defect put in.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vm-state --test loom --release`

#![cfg(loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use std::panic::{UnwindSafe, catch_unwind};
use vm_state::{Broken, Cause, State, StateCell, operations};

fn model(run: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(run);
}

/// What the model of a broken cell reports.
fn report(run: impl Fn() + Send + Sync + 'static + UnwindSafe) -> String {
    let panic = catch_unwind(|| model(run)).expect_err("the defect was not found");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .expect("a panic with a text")
}

/// A running VM, with this defect if any.
fn running(defect: Option<Broken>) -> std::sync::Arc<StateCell> {
    let (cell, creation) = match defect {
        Some(defect) => StateCell::create_broken(defect),
        None => StateCell::create(),
    };
    creation.commit(State::Created).expect("a legal end");
    let power_on = cell
        .begin(operations::POWER_ON.moves, Cause::User)
        .expect("created");
    power_on.commit(State::Running).expect("a legal end");
    cell
}

/// Powers off on another thread while this one waits for the end.
fn a_waiter(defect: Option<Broken>) {
    let cell = running(defect);
    let theirs = std::sync::Arc::clone(&cell);
    let changer = thread::spawn(move || {
        let off = theirs
            .begin(operations::POWER_OFF.moves, Cause::User)
            .expect("running");
        off.commit(State::Off).expect("a legal end");
    });
    assert_eq!(
        cell.wait_until(|state| state == State::Off, None),
        Ok(State::Off)
    );
    changer.join().expect("no panic");
}

/// Two threads change the state; the observer must see numbers in order, one call at a time.
fn an_observer(defect: Option<Broken>) {
    let cell = running(defect);
    let last = Arc::new(AtomicU64::new(cell.snapshot().sequence));
    let seen = Arc::clone(&last);
    let subscription = cell.observe(move |change| {
        assert_eq!(
            seen.load(Ordering::SeqCst) + 1,
            change.sequence,
            "told out of order"
        );
        seen.store(change.sequence, Ordering::SeqCst);
    });
    let theirs = std::sync::Arc::clone(&cell);
    let other = thread::spawn(move || {
        theirs.raise_fatal(Cause::Vcpu(0));
    });
    let _ = cell.shift(operations::SAVE.shifts, Cause::Save);
    other.join().expect("no panic");
    assert_eq!(
        last.load(Ordering::SeqCst),
        cell.snapshot().sequence,
        "a change was not told"
    );
    drop(subscription);
}

/// A fatal cause races with the end of a transition: the VM must not run on.
fn a_fatal_cause(defect: Option<Broken>) {
    let cell = running(defect);
    let suspend = cell
        .begin(operations::SUSPEND.moves, Cause::User)
        .expect("running");
    let theirs = std::sync::Arc::clone(&cell);
    let failing = thread::spawn(move || {
        theirs.raise_fatal(Cause::Vcpu(0));
    });
    let ended = suspend.undo();
    assert!(matches!(ended, State::Running | State::GuruMeditation));
    failing.join().expect("no panic");
    assert_eq!(
        cell.read(),
        State::GuruMeditation,
        "guest code runs in a dead VM"
    );
}

#[test]
fn a_waiter_never_misses_the_change_it_waits_for() {
    model(|| a_waiter(None));
}

#[test]
fn a_waiter_that_does_not_look_again_is_caught() {
    assert!(report(|| a_waiter(Some(Broken::WaitUnchecked))).contains("deadlock"));
}

#[test]
fn an_observer_is_told_everything_in_order() {
    model(|| an_observer(None));
}

#[test]
fn telling_without_regard_to_others_is_caught() {
    assert!(report(|| an_observer(Some(Broken::TellAtOnce))).contains("told out of order"));
}

#[test]
fn to_stop_telling_without_regard_to_the_queue_is_caught() {
    assert!(report(|| an_observer(Some(Broken::LeaveUnchecked))).contains("a change was not told"));
}

#[test]
fn a_fatal_cause_is_never_lost_to_the_end_of_a_transition() {
    model(|| a_fatal_cause(None));
}

#[test]
fn looking_for_a_fatal_cause_outside_the_lock_is_caught() {
    let found = report(|| a_fatal_cause(Some(Broken::FatalUnlocked)));
    assert!(found.contains("guest code runs in a dead VM"));
}

#[test]
fn two_that_begin_at_once_get_one_transition() {
    model(|| {
        let cell = running(None);
        let theirs = std::sync::Arc::clone(&cell);
        let suspend = move |cell: std::sync::Arc<StateCell>| {
            let begun = cell.begin(operations::SUSPEND.moves, Cause::User);
            begun
                .map(|suspend| suspend.commit(State::Suspended).expect("a legal end"))
                .is_ok()
        };
        let other = thread::spawn(move || suspend(theirs));
        let mine = suspend(std::sync::Arc::clone(&cell));
        let others = other.join().expect("no panic");
        assert!(mine != others, "one succeeds, one is refused");
        assert_eq!(cell.read(), State::Suspended);
    });
}

#[test]
fn a_waiter_is_woken_although_an_observer_is_told_by_a_third_thread() {
    model(|| {
        let cell = running(None);
        let _subscription = cell.observe(|change| assert!(change.new != change.old));
        let changing = std::sync::Arc::clone(&cell);
        let failing = std::sync::Arc::clone(&cell);
        let changer = thread::spawn(move || {
            let _ = changing.shift(operations::SAVE.shifts, Cause::Save);
        });
        let raiser = thread::spawn(move || {
            failing.raise_fatal(Cause::Host);
        });
        let failed = cell.wait_until(State::is_failed, None).expect("no limit");
        assert!(failed.is_failed());
        changer.join().expect("no panic");
        raiser.join().expect("no panic");
    });
}
