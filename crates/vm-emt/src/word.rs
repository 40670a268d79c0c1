// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The doorbell word: its bits and a readable snapshot of it.

use std::fmt;

/// Somebody published something since the EMT last cleared this bit.
pub(crate) const PENDING: u32 = 1;
/// The EMT is in the guest, or past the check before it: a ring must kick.
pub(crate) const IN_GUEST: u32 = 2;
/// The EMT sleeps on the word, or is past the check before: a ring must wake.
pub(crate) const PARKED: u32 = 4;
/// A thread is enrolled as this EMT.
pub(crate) const LIVE: u32 = 8;
/// That thread has left and the watchers are being told; nobody may enroll before they know, or they
/// would take the next EMT for the last.
pub(crate) const LEAVING: u32 = 16;
/// Somebody holds the EMT in its sleep: it does not leave PARKED until this is clear. A ring
/// meanwhile wakes nobody; whoever lets go finds PENDING and owes the wake.
pub(crate) const HELD: u32 = 32;
/// The EMT's deadline passed while it was held: whoever lets go owes the wake for that too.
pub(crate) const DUE: u32 = 64;

/// Where an EMT is, as its doorbell word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Awake in the embedder's code; it looks at its bell before it enters or parks.
    Idle,
    /// In the guest, or about to enter it.
    InGuest,
    /// Asleep on its bell.
    Parked,
}

/// A snapshot of one EMT's doorbell word: for errors that name who was late, and for the decision
/// to spin. Stale as soon as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Word(pub(crate) u32);

impl Word {
    /// Somebody rang and the EMT has not attended yet.
    #[must_use]
    pub const fn pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// A thread is enrolled as this EMT.
    #[must_use]
    pub const fn live(self) -> bool {
        self.0 & LIVE != 0
    }

    /// It is held in its sleep ([`Bells::hold`](crate::Bells::hold)).
    #[must_use]
    pub const fn held(self) -> bool {
        self.0 & HELD != 0
    }

    /// Where the EMT is.
    #[must_use]
    pub const fn phase(self) -> Phase {
        if self.0 & IN_GUEST != 0 {
            Phase::InGuest
        } else if self.0 & PARKED != 0 {
            Phase::Parked
        } else {
            Phase::Idle
        }
    }

    /// Enrolled and awake in the embedder's code: the only case in which spinning for its answer
    /// can be cheaper than sleeping.
    #[must_use]
    pub const fn awake(self) -> bool {
        self.0 & (LIVE | IN_GUEST | PARKED) == LIVE
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.live() {
            return f.write_str("not enrolled");
        }
        f.write_str(match self.phase() {
            Phase::Idle => "awake",
            Phase::InGuest => "in the guest",
            Phase::Parked if self.held() => "parked and held there",
            Phase::Parked => "parked",
        })?;
        f.write_str(if self.pending() {
            ", rung"
        } else {
            ", not rung"
        })
    }
}
