// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An operation under way: owned, so that it cannot be forgotten in a transient state.

use crate::{Cause, IllegalTarget, State, StateCell, table};
use std::sync::Arc;

/// An operation under way on a [`StateCell`], which is in [`via`](Self::via) while this exists.
///
/// It may be begun on one thread and ended on another. Dropped, it is undone along the table's undo
/// edge (POWERING_ON to CREATED, RESUMING to SUSPENDED, SUSPENDING to RUNNING, SAVING to
/// SUSPENDED), or goes where a failure leads: POWERING_OFF to OFF, CREATING by DESTROYING to
/// TERMINATED, LOADING to LOAD_FAILURE, the rest to GURU_MEDITATION or GURU_MEDITATION_LS.
#[must_use = "a transition that is dropped is undone, or fails"]
#[derive(Debug)]
pub struct Transition {
    cell: Arc<StateCell>,
    from: State,
    /// Transient until the transition has ended, then where it ended.
    via: State,
    why: Cause,
}

impl Transition {
    pub(crate) fn new(cell: Arc<StateCell>, from: State, via: State, why: Cause) -> Self {
        Self {
            cell,
            from,
            via,
            why,
        }
    }

    /// The state in which it began.
    pub fn from(&self) -> State {
        self.from
    }

    /// The transient state the VM is in.
    pub fn via(&self) -> State {
        self.via
    }

    /// Why it was begun.
    pub fn why(&self) -> Cause {
        self.why
    }

    /// The cell it is a transition of.
    pub fn cell(&self) -> &Arc<StateCell> {
        &self.cell
    }

    /// Ends in `to` and gives the state entered, which is GURU_MEDITATION or GURU_MEDITATION_LS
    /// if a fatal cause was raised meanwhile.
    ///
    /// # Errors
    ///
    /// [`IllegalTarget`]: the table has no such end for this transition; it has been given up, as
    /// if dropped.
    ///
    /// # States
    ///
    /// `via` to `to`.
    pub fn commit(mut self, to: State) -> Result<State, IllegalTarget> {
        if to.is_transient() || !table::may_end(self.from, self.via, to) {
            return Err(self.give_up(to));
        }
        self.via = self.cell.end(self.via, to, self.why);
        Ok(self.via)
    }

    /// Goes on through another transient state, as a hard reset during a live save does, or a
    /// failed create on its way to TERMINATED.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    ///
    /// # States
    ///
    /// `via` to `next`.
    pub fn then(mut self, next: State) -> Result<Self, IllegalTarget> {
        if !next.is_transient() || !table::may_end(self.from, self.via, next) {
            return Err(self.give_up(next));
        }
        self.cell.step(next, self.why);
        self.via = next;
        Ok(self)
    }

    /// Ends as if dropped, and gives the state entered.
    ///
    /// # States
    ///
    /// `via` to where a dropped transition goes, with [`Cause::Abandoned`].
    pub fn undo(mut self) -> State {
        self.abandon()
    }

    fn abandon(&mut self) -> State {
        if self.via.is_transient() {
            self.via = self.cell.abandon(self.via);
        }
        self.via
    }

    fn give_up(mut self, to: State) -> IllegalTarget {
        let via = self.via;
        IllegalTarget {
            from: self.from,
            via,
            to,
            ended: self.abandon(),
        }
    }
}

impl Drop for Transition {
    fn drop(&mut self) {
        self.abandon();
    }
}
