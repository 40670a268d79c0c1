// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exit statuses. Ours are even, so that none collides with a debug exit, which is always odd.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The guest powered off, or was ended by the user.
    Ok,
    /// Usage, configuration or a file.
    Usage,
    /// The guest died.
    GuestDied,
    /// The host cannot.
    Host,
    /// A control operation was refused or failed; ending the VM did not succeed in time.
    Control,
    /// The guest wrote this to the debug-exit port.
    DebugExit(u32),
}

impl Status {
    /// The number, as a shell sees it: of a debug exit `(v << 1) | 1`, its low 8 bits.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 2,
            Self::GuestDied => 4,
            Self::Host => 6,
            Self::Control => 8,
            Self::DebugExit(value) => value.to_le_bytes()[0] << 1 | 1,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// An error with the status it ends the program with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// The user's input is wrong.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            status: Status::Usage,
            error: error.into(),
        }
    }

    /// The host cannot.
    pub(crate) fn host(error: impl Into<anyhow::Error>) -> Self {
        Self {
            status: Status::Host,
            error: error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_exit_is_always_odd_and_ours_are_even() {
        for value in [0, 1, 42, 0x7f, 0xff, u32::MAX] {
            assert_eq!(Status::DebugExit(value).code() & 1, 1);
        }
        for ours in [
            Status::Ok,
            Status::Usage,
            Status::GuestDied,
            Status::Host,
            Status::Control,
        ] {
            assert_eq!(ours.code() & 1, 0);
        }
        assert_eq!(Status::DebugExit(3).code(), 7);
    }
}
