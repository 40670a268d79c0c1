// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The operations on a VM as data: from where each may be called, through what, to where.
//!
//! Invariant: each pair is a move of the table, and each move of the table is in an operation or
//! in [`AUTOMATIC`] (the tests of this crate prove both). Whoever carries an operation out passes
//! its `moves` to [`StateCell::begin`](crate::StateCell::begin) and its `shifts` to
//! [`StateCell::shift`](crate::StateCell::shift), so that there is no second list.

use crate::State::{
    self, Created, Creating, Destroying, FatalError, FatalErrorLs, GuruMeditation,
    GuruMeditationLs, LoadFailure, Loading, Off, OffLs, PoweringOff, PoweringOffLs, PoweringOn,
    Resetting, ResettingLs, Resuming, Running, RunningLs, Saving, SoftResetting, SoftResettingLs,
    Suspended, SuspendedExtLs, SuspendedLs, Suspending, SuspendingExtLs, SuspendingLs, Terminated,
};
use crate::table;

/// Something that can be done to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What it is called in errors, diagrams and logs.
    pub name: &'static str,
    /// `(from, via)`: where it begins and the transient state it passes, in the order tried.
    pub moves: &'static [(State, State)],
    /// `(from, to)`: what it does at once, in the order tried, if no pair of `moves` matches.
    pub shifts: &'static [(State, State)],
    /// `(via, to)`: how a transition of it may end or go on, the intended end first.
    pub finals: &'static [(State, State)],
}

/// Makes a VM.
pub const CREATE: Operation = Operation {
    name: "create",
    moves: &[],
    shifts: &[],
    finals: &[(Creating, Created)],
};

/// Starts devices and vCPUs for the first time.
pub const POWER_ON: Operation = Operation {
    name: "power on",
    moves: &[(Created, PoweringOn)],
    shifts: &[],
    finals: &[(PoweringOn, Running)],
};

/// Stops guest code and quiesces devices.
pub const SUSPEND: Operation = Operation {
    name: "suspend",
    moves: &[(Running, Suspending), (RunningLs, SuspendingExtLs)],
    shifts: &[],
    finals: &[(Suspending, Suspended), (SuspendingExtLs, SuspendedExtLs)],
};

/// Lets a suspended VM go on.
pub const RESUME: Operation = Operation {
    name: "resume",
    moves: &[(Suspended, Resuming)],
    shifts: &[],
    finals: &[(Resuming, Running)],
};

/// Writes a saved state; of a running VM by a live save, whose first step it begins.
pub const SAVE: Operation = Operation {
    name: "save",
    moves: &[(Suspended, Saving)],
    shifts: &[(Running, RunningLs)],
    finals: &[(Saving, Suspended)],
};

/// Sends the VM to another host; otherwise as [`SAVE`].
pub const TELEPORT: Operation = Operation {
    name: "teleport",
    ..SAVE
};

/// Restores a saved state. Refused before guest memory was touched it returns to where it began.
pub const LOAD: Operation = Operation {
    name: "load",
    moves: &[(Created, Loading), (Suspended, Loading)],
    shifts: &[],
    finals: &[
        (Loading, Suspended),
        (Loading, LoadFailure),
        (Loading, Created),
    ],
};

/// Powers the devices off; the guest is gone.
pub const POWER_OFF: Operation = Operation {
    name: "power off",
    moves: &[
        (Running, PoweringOff),
        (Suspended, PoweringOff),
        (LoadFailure, PoweringOff),
        (GuruMeditation, PoweringOff),
        (FatalError, PoweringOff),
        (Created, PoweringOff),
        (RunningLs, PoweringOffLs),
        (GuruMeditationLs, PoweringOffLs),
        (FatalErrorLs, PoweringOffLs),
    ],
    shifts: &[],
    finals: &[(PoweringOff, Off), (PoweringOffLs, OffLs)],
};

/// Resets the machine as its reset line does; during a live save it ends suspended.
pub const HARD_RESET: Operation = Operation {
    name: "hard reset",
    moves: &[
        (Running, Resetting),
        (Suspended, Resetting),
        (RunningLs, ResettingLs),
    ],
    shifts: &[],
    finals: &[
        (Resetting, Running),
        (Resetting, Suspended),
        (ResettingLs, SuspendingLs),
        (SuspendingLs, SuspendedLs),
    ],
};

/// Resets the CPUs, with devices told of it, as firmware does for a warm start.
pub const SOFT_RESET: Operation = Operation {
    name: "soft reset",
    moves: &[
        (Running, SoftResetting),
        (Suspended, SoftResetting),
        (RunningLs, SoftResettingLs),
    ],
    shifts: &[],
    finals: &[
        (SoftResetting, Running),
        (SoftResetting, Suspended),
        (SoftResettingLs, RunningLs),
    ],
};

/// Tears a powered-off VM down.
pub const DESTROY: Operation = Operation {
    name: "destroy",
    moves: &[(Off, Destroying)],
    shifts: &[],
    finals: &[(Destroying, Terminated)],
};

/// Internal to a live save: suspends the VM for its last step.
pub const LIVE_SUSPEND: Operation = Operation {
    name: "live suspend",
    moves: &[(RunningLs, SuspendingLs)],
    shifts: &[
        (OffLs, Off),
        (FatalErrorLs, FatalError),
        (GuruMeditationLs, GuruMeditation),
    ],
    finals: &[(SuspendingLs, SuspendedLs)],
};

/// Internal to a live save: its last step.
pub const LIVE_FINISH: Operation = Operation {
    name: "live finish",
    moves: &[(SuspendedLs, Saving), (SuspendedExtLs, Saving)],
    shifts: &[],
    finals: &[(Saving, Suspended)],
};

/// Internal to a live save: it failed or was cancelled in its first step, and nobody may be left
/// waiting for it.
pub const LIVE_END: Operation = Operation {
    name: "live end",
    moves: &[],
    shifts: &[
        (OffLs, Off),
        (FatalErrorLs, FatalError),
        (GuruMeditationLs, GuruMeditation),
        (SuspendedLs, Suspended),
        (SuspendedExtLs, Suspended),
        (RunningLs, Running),
    ],
    finals: &[],
};

/// Internal: a runtime error that cannot be survived.
pub const FATAL_ERROR: Operation = Operation {
    name: "fatal error",
    moves: &[],
    shifts: &[(Running, FatalError), (RunningLs, FatalErrorLs)],
    finals: &[],
};

/// Internal: what [`StateCell::raise_fatal`](crate::StateCell::raise_fatal) does to a running VM.
pub const GURU: Operation = Operation {
    name: "guru",
    moves: &[],
    shifts: &[(Running, GuruMeditation), (RunningLs, GuruMeditationLs)],
    finals: &[],
};

/// The operations that a VM's owner calls, in the order of a life.
pub const PUBLIC: [Operation; 10] = [
    POWER_ON, SUSPEND, RESUME, SAVE, TELEPORT, LOAD, POWER_OFF, HARD_RESET, SOFT_RESET, DESTROY,
];

/// The operations that a VM's own parts carry out.
pub const INTERNAL: [Operation; 6] = [
    CREATE,
    LIVE_SUSPEND,
    LIVE_FINISH,
    LIVE_END,
    FATAL_ERROR,
    GURU,
];

/// The moves that belong to no operation, and whose they are: those of a transition that fails, and
/// three that the live save may use for a transition it overtakes.
pub const AUTOMATIC: [(State, State, &str); 18] = [
    (Creating, Destroying, "failed create"),
    (PoweringOn, Created, "undo"),
    (Resuming, Suspended, "undo"),
    (Suspending, Running, "undo"),
    (Loading, GuruMeditation, "fatal cause"),
    (PoweringOn, GuruMeditation, "fatal cause"),
    (Resuming, GuruMeditation, "fatal cause"),
    (Resetting, GuruMeditation, "fatal cause"),
    (SoftResetting, GuruMeditation, "fatal cause"),
    (Suspending, GuruMeditation, "fatal cause"),
    (Saving, GuruMeditation, "fatal cause"),
    (ResettingLs, GuruMeditationLs, "fatal cause"),
    (SoftResettingLs, GuruMeditationLs, "fatal cause"),
    (SuspendingLs, GuruMeditationLs, "fatal cause"),
    (SuspendingExtLs, GuruMeditationLs, "fatal cause"),
    (SuspendingLs, Suspending, "live save gone"),
    (SuspendingExtLs, Suspending, "live save gone"),
    (PoweringOffLs, PoweringOff, "live save gone"),
];

impl Operation {
    /// Whether it may be called in `state`.
    pub fn accepts(&self, state: State) -> bool {
        self.moves
            .iter()
            .chain(self.shifts)
            .any(|&(from, _)| from == state)
    }

    /// Where it leads from `state` if nothing fails; `None` if it may not be called there.
    pub fn leads_to(&self, state: State) -> Option<State> {
        let &(_, mut to) = self
            .moves
            .iter()
            .chain(self.shifts)
            .find(|&&(from, _)| from == state)?;
        while to.is_transient() {
            let end = |&&(via, end): &&(State, State)| via == to && table::may_end(state, via, end);
            to = self.finals.iter().find(end)?.1;
        }
        Some(to)
    }

    /// The moves it makes, whole: `moves`, `shifts` and `finals`.
    pub fn pairs(&self) -> impl Iterator<Item = (State, State)> {
        self.moves
            .iter()
            .chain(self.shifts)
            .chain(self.finals)
            .copied()
    }
}
