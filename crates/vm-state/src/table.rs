// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The one table of legal moves: every other statement about what is legal is computed from it.
//!
//! Invariant: each move stands here once. The set is the field's 65 pairs, minus the nine that
//! touch its two debugger states, plus two that it performs but never wrote down, plus the edges
//! that its defects need, each marked by its [`Kind`].
//!
//! A fatal cause found when a transition ends leads to GURU_MEDITATION from every transient state
//! but four: CREATING, which fails into DESTROYING, and POWERING_OFF, POWERING_OFF_LS and
//! DESTROYING, since a VM on its way out must arrive there however broken it is.

use crate::State::{
    self, Created, Creating, Destroying, FatalError, FatalErrorLs, GuruMeditation,
    GuruMeditationLs, LoadFailure, Loading, Off, OffLs, PoweringOff, PoweringOffLs, PoweringOn,
    Resetting, ResettingLs, Resuming, Running, RunningLs, Saving, SoftResetting, SoftResettingLs,
    Suspended, SuspendedExtLs, SuspendedLs, Suspending, SuspendingExtLs, SuspendingLs, Terminated,
};

/// Where a legal move comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In the field's own table.
    Original,
    /// Performed by the field's operations but absent from its table.
    Added,
    /// Needed so that a failure leads somewhere it can be left from.
    Fix,
    /// Back to where a transition began, because nothing has come of it.
    Undo,
}

/// One legal move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Where the move comes from.
    pub kind: Kind,
    /// If set, the move ends only a transition that began in this state.
    pub origin: Option<State>,
    when_dropped: bool,
}

impl Move {
    const fn new(kind: Kind, from: State, to: State) -> Self {
        Self {
            from,
            to,
            kind,
            origin: None,
            when_dropped: false,
        }
    }

    const fn only_if_begun_in(self, origin: State) -> Self {
        Self {
            origin: Some(origin),
            ..self
        }
    }

    const fn when_dropped(self) -> Self {
        Self {
            when_dropped: true,
            ..self
        }
    }
}

const fn t(from: State, to: State) -> Move {
    Move::new(Kind::Original, from, to)
}

const fn added(from: State, to: State) -> Move {
    Move::new(Kind::Added, from, to)
}

const fn fix(from: State, to: State) -> Move {
    Move::new(Kind::Fix, from, to)
}

const fn undo(from: State, to: State) -> Move {
    Move::new(Kind::Undo, from, to).when_dropped()
}

/// Every legal move. For each transient state exactly one is marked as the one that a transition
/// takes when it is dropped.
const MOVES: [Move; 74] = [
    t(Creating, Created),
    fix(Creating, Destroying).when_dropped(),
    t(Created, Loading),
    t(Created, PoweringOn),
    t(Created, PoweringOff),
    t(Loading, Suspended),
    // A dropped load cannot say whether guest memory was touched.
    t(Loading, LoadFailure).when_dropped(),
    Move::new(Kind::Undo, Loading, Created).only_if_begun_in(Created),
    fix(Loading, GuruMeditation),
    t(PoweringOn, Running),
    undo(PoweringOn, Created),
    fix(PoweringOn, GuruMeditation),
    t(Resuming, Running),
    undo(Resuming, Suspended),
    fix(Resuming, GuruMeditation),
    t(Running, PoweringOff),
    t(Running, Suspending),
    t(Running, Resetting),
    t(Running, SoftResetting),
    t(Running, RunningLs),
    t(Running, FatalError),
    t(Running, GuruMeditation),
    t(RunningLs, PoweringOffLs),
    t(RunningLs, SuspendingExtLs),
    t(RunningLs, ResettingLs),
    t(RunningLs, SoftResettingLs),
    t(RunningLs, SuspendingLs),
    t(RunningLs, Running),
    t(RunningLs, FatalErrorLs),
    t(RunningLs, GuruMeditationLs),
    // A machine that is half reset can neither go on nor be as it was.
    t(Resetting, Running).only_if_begun_in(Running),
    added(Resetting, Suspended).only_if_begun_in(Suspended),
    fix(Resetting, GuruMeditation).when_dropped(),
    t(SoftResetting, Running).only_if_begun_in(Running),
    added(SoftResetting, Suspended).only_if_begun_in(Suspended),
    fix(SoftResetting, GuruMeditation).when_dropped(),
    t(ResettingLs, SuspendingLs),
    fix(ResettingLs, GuruMeditationLs).when_dropped(),
    t(SoftResettingLs, RunningLs),
    fix(SoftResettingLs, GuruMeditationLs).when_dropped(),
    t(Suspending, Suspended),
    undo(Suspending, Running),
    fix(Suspending, GuruMeditation),
    t(SuspendingLs, SuspendedLs),
    t(SuspendingLs, Suspending),
    fix(SuspendingLs, GuruMeditationLs).when_dropped(),
    t(SuspendingExtLs, SuspendedExtLs),
    t(SuspendingExtLs, Suspending),
    fix(SuspendingExtLs, GuruMeditationLs).when_dropped(),
    t(Suspended, PoweringOff),
    t(Suspended, Saving),
    t(Suspended, Resetting),
    t(Suspended, SoftResetting),
    t(Suspended, Resuming),
    t(Suspended, Loading),
    t(SuspendedLs, Saving),
    t(SuspendedLs, Suspended),
    t(SuspendedExtLs, Saving),
    t(SuspendedExtLs, Suspended),
    t(Saving, Suspended).when_dropped(),
    fix(Saving, GuruMeditation),
    t(PoweringOff, Off).when_dropped(),
    t(PoweringOffLs, OffLs).when_dropped(),
    t(PoweringOffLs, PoweringOff),
    t(Off, Destroying),
    t(OffLs, Off),
    t(FatalError, PoweringOff),
    t(FatalErrorLs, FatalError),
    t(FatalErrorLs, PoweringOffLs),
    t(GuruMeditation, PoweringOff),
    t(GuruMeditationLs, GuruMeditation),
    t(GuruMeditationLs, PoweringOffLs),
    t(LoadFailure, PoweringOff),
    t(Destroying, Terminated).when_dropped(),
];

/// For each state, one bit for each state it may move to, and those bits again for the moves that
/// depend on where the transition began.
static SUCCESSORS: [(u32, u32); State::ALL.len()] = successors();

const fn successors() -> [(u32, u32); State::ALL.len()] {
    let mut rows = [(0, 0); State::ALL.len()];
    let mut i = 0;
    while i < MOVES.len() {
        let row = &mut rows[MOVES[i].from as usize];
        let bit = 1 << MOVES[i].to as u32;
        row.0 |= bit;
        if MOVES[i].origin.is_some() {
            row.1 |= bit;
        }
        i += 1;
    }
    rows
}

/// Every legal move, grouped by the state left.
pub fn moves() -> &'static [Move] {
    static ALL: [Move; 74] = MOVES;
    &ALL
}

/// Whether `from` may become `to`.
pub fn is_legal(from: State, to: State) -> bool {
    SUCCESSORS[usize::from(from.number())].0 & (1 << to.number()) != 0
}

/// Whether a transition that began in `origin` and is in `via` may go to `to`.
pub fn may_end(origin: State, via: State, to: State) -> bool {
    let (legal, restricted) = SUCCESSORS[usize::from(via.number())];
    let bit = 1 << to.number();
    legal & bit != 0
        && (restricted & bit == 0
            || moves()
                .iter()
                .any(|m| (m.from, m.to, m.origin) == (via, to, Some(origin))))
}

/// Where a transition in `via` goes when it is dropped.
pub fn when_dropped(via: State) -> Option<State> {
    moves()
        .iter()
        .find(|m| m.from == via && m.when_dropped)
        .map(|m| m.to)
}

/// Where a VM in `state` goes when a fatal cause takes effect: at once if guest code runs, at its
/// end in a transition. `None` in any other state, and for a VM that is still being created or is
/// on its way out.
pub fn when_fatal(state: State) -> Option<State> {
    if !state.is_running() && !state.is_transient() {
        return None;
    }
    [GuruMeditation, GuruMeditationLs]
        .into_iter()
        .find(|&to| is_legal(state, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_move_is_written_once() {
        for (i, a) in moves().iter().enumerate() {
            assert!(
                moves()[..i]
                    .iter()
                    .all(|b| (a.from, a.to) != (b.from, b.to)),
                "{a:?}"
            );
        }
    }

    #[test]
    fn each_transient_state_and_no_other_has_one_way_for_a_dropped_transition() {
        for state in State::ALL {
            let ways = moves()
                .iter()
                .filter(|m| m.from == state && m.when_dropped)
                .count();
            assert_eq!(ways, usize::from(state.is_transient()), "{state}");
        }
    }

    #[test]
    fn an_undo_leads_to_a_state_from_which_the_transition_can_begin() {
        for m in moves().iter().filter(|m| m.kind == Kind::Undo) {
            assert!(is_legal(m.to, m.from), "{m:?}");
        }
    }

    #[test]
    fn a_fatal_cause_keeps_the_live_save_informed() {
        for state in State::ALL {
            if let Some(end) = when_fatal(state) {
                assert_eq!(end.is_live_save(), state.is_live_save(), "{state}");
            }
        }
    }

    #[test]
    fn a_reset_returns_to_where_it_began_and_a_load_to_created_only_from_there() {
        assert!(may_end(Running, Resetting, Running));
        assert!(!may_end(Suspended, Resetting, Running));
        assert!(!may_end(Running, SoftResetting, Suspended));
        assert!(may_end(Created, Loading, Created));
        assert!(!may_end(Suspended, Loading, Created));
        assert!(may_end(Created, Loading, Suspended));
    }
}
