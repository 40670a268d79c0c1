// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The states a VM can be in, and what can be said of one state alone.
//!
//! Invariant: the numeric order is the order of life; it is for sorting only. Whether a state is
//! running, powered on or in between is an explicit list, never a range.

use std::{fmt, str::FromStr};

/// A state of a VM.
///
/// `Ls` stands for "a live save (snapshot or teleport) is in its first step"; such a state is left
/// by whoever drives the live save. The field's two debugger states do not exist here: nothing
/// would enter them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Being constructed.
    Creating,
    /// Constructed, never powered.
    Created,
    /// A saved state is being restored.
    Loading,
    /// Devices and vCPUs are being started.
    PoweringOn,
    /// Devices are being told that the VM goes on.
    Resuming,
    /// Guest code runs.
    Running,
    /// Guest code runs while a live save streams memory.
    RunningLs,
    /// Hard reset.
    Resetting,
    /// Hard reset during a live save; ends suspended.
    ResettingLs,
    /// Soft reset.
    SoftResetting,
    /// Soft reset during a live save; ends running.
    SoftResettingLs,
    /// Devices are being quiesced.
    Suspending,
    /// Suspend by the live save itself, or the tail of a hard reset during it.
    SuspendingLs,
    /// Suspend by somebody else during a live save.
    SuspendingExtLs,
    /// No guest code runs, devices are quiet.
    Suspended,
    /// Suspended by the live save, whose last step is pending.
    SuspendedLs,
    /// Suspended by somebody else while the live save is not finished.
    SuspendedExtLs,
    /// The final state is being written.
    Saving,
    /// Devices are being powered off.
    PoweringOff,
    /// Power off during a live save.
    PoweringOffLs,
    /// Powered off; the only state from which destroy is accepted.
    Off,
    /// Powered off, and the live save has not noticed yet.
    OffLs,
    /// A runtime error that cannot be survived was raised.
    FatalError,
    /// The same during a live save.
    FatalErrorLs,
    /// A vCPU or the VMM hit a condition that it cannot go on from.
    GuruMeditation,
    /// The same during a live save.
    GuruMeditationLs,
    /// A restore failed after guest memory was touched; power off is the only way.
    LoadFailure,
    /// Being torn down.
    Destroying,
    /// Gone; nothing follows.
    Terminated,
}

impl State {
    /// Every state, in numeric order.
    pub const ALL: [Self; 29] = [
        Self::Creating,
        Self::Created,
        Self::Loading,
        Self::PoweringOn,
        Self::Resuming,
        Self::Running,
        Self::RunningLs,
        Self::Resetting,
        Self::ResettingLs,
        Self::SoftResetting,
        Self::SoftResettingLs,
        Self::Suspending,
        Self::SuspendingLs,
        Self::SuspendingExtLs,
        Self::Suspended,
        Self::SuspendedLs,
        Self::SuspendedExtLs,
        Self::Saving,
        Self::PoweringOff,
        Self::PoweringOffLs,
        Self::Off,
        Self::OffLs,
        Self::FatalError,
        Self::FatalErrorLs,
        Self::GuruMeditation,
        Self::GuruMeditationLs,
        Self::LoadFailure,
        Self::Destroying,
        Self::Terminated,
    ];

    /// The number by which the state is stored: its place in [`State::ALL`].
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The state with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name the field uses, as in `RUNNING_LS`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Created => "CREATED",
            Self::Loading => "LOADING",
            Self::PoweringOn => "POWERING_ON",
            Self::Resuming => "RESUMING",
            Self::Running => "RUNNING",
            Self::RunningLs => "RUNNING_LS",
            Self::Resetting => "RESETTING",
            Self::ResettingLs => "RESETTING_LS",
            Self::SoftResetting => "SOFT_RESETTING",
            Self::SoftResettingLs => "SOFT_RESETTING_LS",
            Self::Suspending => "SUSPENDING",
            Self::SuspendingLs => "SUSPENDING_LS",
            Self::SuspendingExtLs => "SUSPENDING_EXT_LS",
            Self::Suspended => "SUSPENDED",
            Self::SuspendedLs => "SUSPENDED_LS",
            Self::SuspendedExtLs => "SUSPENDED_EXT_LS",
            Self::Saving => "SAVING",
            Self::PoweringOff => "POWERING_OFF",
            Self::PoweringOffLs => "POWERING_OFF_LS",
            Self::Off => "OFF",
            Self::OffLs => "OFF_LS",
            Self::FatalError => "FATAL_ERROR",
            Self::FatalErrorLs => "FATAL_ERROR_LS",
            Self::GuruMeditation => "GURU_MEDITATION",
            Self::GuruMeditationLs => "GURU_MEDITATION_LS",
            Self::LoadFailure => "LOAD_FAILURE",
            Self::Destroying => "DESTROYING",
            Self::Terminated => "TERMINATED",
        }
    }

    /// Whether guest code may run.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::RunningLs)
    }

    /// Whether an operation is under way. A [`StateCell`](crate::StateCell) is in such a state
    /// exactly while one [`Transition`](crate::Transition) exists.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Creating
                | Self::Loading
                | Self::PoweringOn
                | Self::Resuming
                | Self::Resetting
                | Self::ResettingLs
                | Self::SoftResetting
                | Self::SoftResettingLs
                | Self::Suspending
                | Self::SuspendingLs
                | Self::SuspendingExtLs
                | Self::Saving
                | Self::PoweringOff
                | Self::PoweringOffLs
                | Self::Destroying
        )
    }

    /// Whether a live save is in progress and has to be told how it ends.
    pub const fn is_live_save(self) -> bool {
        matches!(
            self,
            Self::RunningLs
                | Self::ResettingLs
                | Self::SoftResettingLs
                | Self::SuspendingLs
                | Self::SuspendingExtLs
                | Self::SuspendedLs
                | Self::SuspendedExtLs
                | Self::PoweringOffLs
                | Self::OffLs
                | Self::FatalErrorLs
                | Self::GuruMeditationLs
        )
    }

    /// Whether the guest is dead: only power off is left.
    pub const fn is_failed(self) -> bool {
        matches!(
            self,
            Self::FatalError
                | Self::FatalErrorLs
                | Self::GuruMeditation
                | Self::GuruMeditationLs
                | Self::LoadFailure
        )
    }

    /// Whether the guest has been started and not been powered off, nor died.
    pub const fn is_powered_on(self) -> bool {
        matches!(
            self,
            Self::PoweringOn
                | Self::Resuming
                | Self::Running
                | Self::RunningLs
                | Self::Resetting
                | Self::ResettingLs
                | Self::SoftResetting
                | Self::SoftResettingLs
                | Self::Suspending
                | Self::SuspendingLs
                | Self::SuspendingExtLs
                | Self::Suspended
                | Self::SuspendedLs
                | Self::SuspendedExtLs
                | Self::Saving
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no [`State`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no VM state is called {0:?}; names are written as in RUNNING_LS")]
pub struct UnknownState(pub String);

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| UnknownState(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_place_as_number_and_reads_back_by_name() {
        for (place, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.number()), place);
            assert_eq!(State::from_number(state.number()), Some(state));
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!(State::from_number(29), None);
        assert!(State::ALL.is_sorted());
    }

    #[test]
    fn the_name_says_whether_a_live_save_is_on() {
        for state in State::ALL {
            assert_eq!(
                state.is_live_save(),
                state.name().ends_with("_LS"),
                "{state}"
            );
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_and_bounded() {
        let refused = "running".parse::<State>();
        assert_eq!(refused, Err(UnknownState("running".into())));
        let long = "x".repeat(100_000).parse::<State>();
        assert!(long.is_err_and(|error| error.to_string().len() < 200));
    }

    #[test]
    fn powering_on_counts_as_powered_on_and_failed_states_do_not() {
        assert!(State::PoweringOn.is_powered_on());
        assert!(
            State::ALL
                .iter()
                .all(|s| !(s.is_failed() && s.is_powered_on()))
        );
        assert!(
            State::ALL
                .iter()
                .all(|s| !s.is_running() || s.is_powered_on())
        );
    }
}
