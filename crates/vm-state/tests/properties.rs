// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Random lives: whatever is asked in whatever order, the cell stays inside the table.

use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use vm_state::{
    Cause, Change, State, StateCell, Transition,
    operations::{INTERNAL, Operation, PUBLIC},
    table,
};

#[derive(Debug, Clone)]
enum Step {
    Begin(usize),
    Shift(usize),
    Commit(usize),
    Then(usize),
    Drop,
    Fatal,
}

fn operations() -> Vec<Operation> {
    PUBLIC.into_iter().chain(INTERNAL).collect()
}

fn step() -> impl Strategy<Value = Step> {
    let operations = 0..operations().len();
    let states = 0..State::ALL.len();
    prop_oneof![
        6 => operations.clone().prop_map(Step::Begin),
        2 => operations.prop_map(Step::Shift),
        6 => states.clone().prop_map(Step::Commit),
        1 => states.prop_map(Step::Then),
        1 => Just(Step::Drop),
        1 => Just(Step::Fatal),
    ]
}

/// Performs one step; `held` is the transition under way, if any.
fn perform(cell: &Arc<StateCell>, held: &mut Option<Transition>, step: &Step) {
    match *step {
        Step::Begin(which) => {
            if let Ok(begun) = cell.begin(operations()[which].moves, Cause::User) {
                assert!(held.is_none(), "two transitions at once");
                *held = Some(begun);
            }
        }
        Step::Shift(which) => {
            let shifted = cell.shift(operations()[which].shifts, Cause::User);
            assert!(
                shifted.is_err() || held.is_none(),
                "moved under a transition"
            );
        }
        Step::Commit(to) => {
            // Mostly an end that the table has, else nearly every life would be short.
            let Some(transition) = held.take() else {
                return;
            };
            let ends: Vec<_> = State::ALL
                .into_iter()
                .filter(|&end| table::may_end(transition.from(), transition.via(), end))
                .collect();
            let to = if to % 8 == 0 {
                State::ALL[to]
            } else {
                ends[to % ends.len()]
            };
            let _ = transition.commit(to);
        }
        Step::Then(to) => {
            let Some(transition) = held.take() else {
                return;
            };
            *held = transition.then(State::ALL[to]).ok();
        }
        Step::Drop => *held = None,
        Step::Fatal => {
            cell.raise_fatal(Cause::Host);
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_calls_leaves_the_table(steps in prop::collection::vec(step(), 0..200)) {
        let (cell, creation) = StateCell::create();
        let record = Arc::new(Mutex::new(Vec::<Change>::new()));
        let into = Arc::clone(&record);
        let _subscription =
            cell.observe(move |change| into.lock().expect("not poisoned").push(*change));
        let mut held = Some(creation);
        for step in &steps {
            perform(&cell, &mut held, step);
            prop_assert_eq!(cell.read().is_transient(), held.is_some());
            prop_assert!(!(cell.read().is_running() && cell.fatal().is_some()));
        }
        drop(held);
        prop_assert!(!cell.read().is_transient());

        let changes = record.lock().expect("not poisoned");
        let mut state = State::Creating;
        for (number, change) in (1..).zip(changes.iter()) {
            prop_assert_eq!((change.sequence, change.old), (number, state));
            prop_assert!(table::is_legal(change.old, change.new), "{:?}", change);
            state = change.new;
        }
        prop_assert_eq!(state, cell.read());
    }
}
