// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a cell answers when it does not do what was asked. In each case nothing has changed and
//! no observer was called, except where [`IllegalTarget`] says otherwise.

use crate::State;

/// A transition that was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The VM is in none of the states from which the operation starts.
    #[error("not possible while the VM is {actual}; possible in {}", names(wanted))]
    Source {
        /// The states from which it would have been possible, in the order tried.
        wanted: Vec<State>,
        /// The state the VM is in.
        actual: State,
    },
    /// The list asked for a move that the table does not have, or of the wrong sort: `begin` enters
    /// a transient state, `shift` joins two that are not.
    #[error("no operation may take a VM from {from} to {to}; the table has no such move")]
    NotInTable {
        /// The state the VM is in.
        from: State,
        /// The state asked for.
        to: State,
    },
    /// The caller is an observer: it would wait for its own return, or overtake what the observers
    /// after it are yet to be told.
    #[error(
        "an observer cannot change the state it is told of (VM is {actual}); hand it to a thread"
    )]
    InObserver {
        /// The state the VM is in.
        actual: State,
    },
}

impl Refused {
    /// The state the VM is in.
    pub fn actual(&self) -> State {
        match *self {
            Self::Source { actual, .. } | Self::InObserver { actual } => actual,
            Self::NotInTable { from, .. } => from,
        }
    }
}

/// A transition that could not end where its holder wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a transition from {from} in {via} cannot go to {to}; it was given up and ended in {ended}"
)]
pub struct IllegalTarget {
    /// Where the transition began.
    pub from: State,
    /// The transient state it was in.
    pub via: State,
    /// The state asked for.
    pub to: State,
    /// Where it ended instead, as if dropped.
    pub ended: State,
}

/// A wait that did not see what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The limit has passed.
    #[error("the VM was still {actual} when the time was up")]
    Timeout {
        /// The state the VM was in.
        actual: State,
    },
    /// The caller is an observer: the change it waits for could not be told while it waits.
    #[error(
        "an observer cannot wait for the state to change (VM is {actual}); hand it to a thread"
    )]
    InObserver {
        /// The state the VM is in.
        actual: State,
    },
}

fn names(states: &[State]) -> String {
    if states.is_empty() {
        return "no state".to_owned();
    }
    states
        .iter()
        .map(|state| state.name())
        .collect::<Vec<_>>()
        .join(", ")
}
