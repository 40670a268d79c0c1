// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a model asked of its cell, asked of the crate's own.

use super::cell::{Act, Ask, Cell};
use std::sync::{Arc, Mutex, PoisonError};
use vm_state::{Cause, Change, State, StateCell, Subscription, Transition, table};

/// A real cell, with the transition under way and an observer.
pub(crate) struct Real {
    cell: Arc<StateCell>,
    transition: Option<Transition>,
    told: Arc<Mutex<Vec<Change>>>,
    _observer: Subscription,
}

impl Real {
    /// A cell to which everything in `acts` was done, with the same answers and states as the
    /// model's, and an observer who saw a legal path.
    pub(crate) fn after(acts: &[Act]) -> Self {
        let (cell, creation) = StateCell::create();
        let told: Arc<Mutex<Vec<Change>>> = Arc::default();
        let observer = cell.observe({
            let told = Arc::clone(&told);
            move |change| {
                told.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(*change);
            }
        });
        let mut real = Self {
            cell,
            transition: Some(creation),
            told,
            _observer: observer,
        };
        let mut model = Cell::creating();
        for &(ask, expected) in acts {
            assert_eq!(real.ask(ask), model.ask(ask), "{ask:?} in {acts:?}");
            let (state, _, fatal) = real.seen();
            assert_eq!(
                (state, fatal),
                (model.state, model.fatal),
                "{ask:?} in {acts:?}"
            );
            assert_eq!(state, expected, "{ask:?} in {acts:?}");
            assert_eq!(state.is_transient(), real.transition.is_some(), "{acts:?}");
        }
        real.told_legally();
        real
    }

    fn told_legally(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::Creating;
        for (number, change) in (1..).zip(&*told) {
            assert_eq!((change.sequence, change.old), (number, state), "{change:?}");
            assert!(table::is_legal(change.old, change.new), "{change:?}");
            state = change.new;
        }
        assert_eq!(state, self.cell.read(), "the observer was told everything");
    }

    /// Does what is asked; false if it is refused.
    pub(crate) fn ask(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Begin(moves) => {
                let Ok(begun) = self.cell.begin(moves, Cause::User) else {
                    return false;
                };
                self.transition = Some(begun);
                true
            }
            Ask::Shift(moves) => self.cell.shift(moves, Cause::User).is_ok(),
            Ask::Commit(to) => self.end(|t| t.commit(to).is_ok()),
            Ask::Then(next) => {
                let stepped = self.transition.take().map(|t| t.then(next));
                let next = stepped.and_then(Result::ok);
                let done = next.is_some();
                self.transition = next;
                done
            }
            Ask::Drop => self.end(|t| {
                drop(t);
                true
            }),
            Ask::Raise => {
                self.cell.raise_fatal(Cause::Host);
                true
            }
        }
    }

    fn end(&mut self, how: impl FnOnce(Transition) -> bool) -> bool {
        self.transition.take().is_some_and(how)
    }

    /// Everything that can be seen of it.
    pub(crate) fn seen(&self) -> (State, u64, bool) {
        let snapshot = self.cell.snapshot();
        (snapshot.state, snapshot.sequence, snapshot.fatal.is_some())
    }
}
