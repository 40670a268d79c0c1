// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From when to when an observer is called, and what is let go of with it.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};
use vm_state::{Cause, Refused, State, StateCell, as_observer, in_observer, operations};

fn running() -> Arc<StateCell> {
    let (cell, creation) = StateCell::create();
    creation.commit(State::Created).expect("a legal end");
    let power_on = cell.begin(operations::POWER_ON.moves, Cause::User);
    let power_on = power_on.expect("a created VM can be powered on");
    power_on.commit(State::Running).expect("a legal end");
    cell
}

#[test]
fn a_subscription_says_after_which_change_it_began() {
    let cell = running();
    let subscription = cell.observe(|_| ());
    assert_eq!(subscription.since(), 3);
    assert_eq!(format!("{subscription:?}"), "Subscription { since: 3, .. }");
}

#[test]
fn what_an_observer_held_is_let_go_of_with_its_subscription() {
    let cell = running();
    let held = Arc::new(());
    let captured = Arc::clone(&held);
    let subscription = cell.observe(move |_| {
        let _held = &captured;
    });
    assert_eq!(Arc::strong_count(&held), 2);
    drop(subscription);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn an_observer_is_not_told_of_changes_made_before_it_came_but_told_later() {
    let cell = running();
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let _slow = cell.observe(move |change| {
        if change.sequence == 4 {
            entered.send(()).expect("the test waits");
            let released = released.lock().expect("not poisoned");
            released.recv().expect("the test releases it");
        }
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let teller = scope.spawn(|| cell.shift(operations::SAVE.shifts, Cause::Save));
        has_entered.recv().expect("the change is told");
        let ended = cell.shift(operations::LIVE_END.shifts, Cause::Save);
        assert_eq!(ended, Ok(State::Running), "told later: somebody is telling");
        let into = Arc::clone(&told);
        let late = cell.observe(move |change| {
            into.lock().expect("not poisoned").push(change.sequence);
        });
        assert_eq!(late.since(), 5);
        let again = cell.shift(operations::SAVE.shifts, Cause::Save);
        assert_eq!(again, Ok(State::RunningLs));
        release.send(()).expect("the observer waits");
        let shifted = teller.join().expect("no panic");
        assert_eq!(shifted, Ok(State::RunningLs));
    });
    assert_eq!(*told.lock().expect("not poisoned"), [6]);
}

#[test]
fn an_operation_that_begins_nowhere_is_refused_in_words() {
    let cell = running();
    let refused = cell.begin(&[], Cause::User).expect_err("no pair");
    assert!(matches!(refused, Refused::Source { .. }));
    assert_eq!(
        refused.to_string(),
        "not possible while the VM is RUNNING; possible in no state"
    );
}

#[test]
fn what_runs_as_an_observer_is_inside_one_and_a_panic_ends_there() {
    let mut inside = false;
    assert!(as_observer(|| inside = in_observer()));
    assert!(inside && !in_observer());
    assert!(!as_observer(|| panic!("on purpose")));
    assert!(!in_observer(), "nor after a panic");
}
