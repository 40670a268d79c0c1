// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a state cell does, as a pure value, and a record of what was asked of it.
//!
//! Invariant: each verdict comes from the crate's own table; `replay` proves that the crate's cell
//! gives the same ones.

use vm_state::{State, table};

pub(crate) type Pairs = &'static [(State, State)];

/// A state cell, as far as its behaviour depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Cell {
    pub(crate) state: State,
    /// Where the transition under way began.
    pub(crate) origin: Option<State>,
    pub(crate) fatal: bool,
}

/// What is asked of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ask {
    Begin(Pairs),
    Shift(Pairs),
    Commit(State),
    Then(State),
    Drop,
    Raise,
}

/// What was asked, and the state after it.
pub(crate) type Act = (Ask, State);

impl Cell {
    pub(crate) fn creating() -> Self {
        Self {
            state: State::Creating,
            origin: Some(State::Creating),
            fatal: false,
        }
    }

    /// Does what is asked; false if it is refused, and then nothing is changed unless a transition
    /// was to end where it must not.
    pub(crate) fn ask(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Begin(moves) => self.enter(moves, State::is_transient),
            Ask::Shift(moves) => self.enter(moves, |to| !to.is_transient()),
            Ask::Commit(to) => {
                if to.is_transient() || !self.may_end(to) {
                    self.abandon();
                    return false;
                }
                self.end(to);
                true
            }
            Ask::Then(next) => {
                if !next.is_transient() || !self.may_end(next) {
                    self.abandon();
                    return false;
                }
                self.state = next;
                true
            }
            Ask::Drop => {
                self.abandon();
                true
            }
            Ask::Raise => {
                self.fatal = true;
                if self.state.is_running() {
                    self.state = table::when_fatal(self.state).unwrap_or(self.state);
                }
                true
            }
        }
    }

    fn enter(&mut self, moves: Pairs, fits: fn(State) -> bool) -> bool {
        let Some(&(from, to)) = moves.iter().find(|(from, _)| *from == self.state) else {
            return false;
        };
        if from.is_transient() || !fits(to) || !table::is_legal(from, to) {
            return false;
        }
        self.state = to;
        self.origin = to.is_transient().then_some(from);
        true
    }

    fn may_end(self, to: State) -> bool {
        self.origin
            .is_some_and(|origin| table::may_end(origin, self.state, to))
    }

    fn end(&mut self, to: State) {
        let guru = table::when_fatal(self.state).filter(|_| self.fatal);
        self.state = guru.unwrap_or(to);
        self.origin = None;
    }

    fn abandon(&mut self) {
        while let Some(to) = table::when_dropped(self.state) {
            if to.is_transient() {
                self.state = to;
            } else {
                self.end(to);
            }
        }
    }
}
