// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kit checks, and what it may find.

use std::fmt;
use std::time::Duration;

use super::Trouble;

/// One property of a vCPU loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// While suspended no guest runs; after resume all do.
    SuspendStopsGuests,
    /// A suspended vCPU answers requests, and does not spin.
    SuspendedVcpusSleepAndAnswer,
    /// Suspends at the same time all return, and the VM is suspended.
    ConcurrentSuspends,
    /// Suspend and resume as fast as they go, with requests between.
    SuspendStorm,
    /// A request runs once, on its vCPU's thread, and its caller gets its answer.
    RequestsRunOnce,
    /// A kick that lands just before the guest is entered is not lost.
    KickAtEntry,
    /// In a meeting every vCPU runs the callback once, and no guest runs.
    MeetingHoldsAll,
    /// Meetings begun at the same time all take place.
    ConcurrentMeetings,
    /// Suspends, requests and meetings begun at the same time all come to an end.
    ManyInitiators,
    /// A vCPU that does not come is named within the limit, and the loop works afterwards.
    LateVcpuIsNamed,
    /// After a request timed out, the next one gets its own answer.
    LateReplyIsNotTheNext,
    /// Destroying the loop lets go of whoever waits, and nothing runs afterwards.
    DestroyReleasesWaiters,
    /// A suspended loop can be destroyed.
    DestroyWhileSuspended,
}

impl Check {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 13] = [
        Self::SuspendStopsGuests,
        Self::SuspendedVcpusSleepAndAnswer,
        Self::ConcurrentSuspends,
        Self::SuspendStorm,
        Self::RequestsRunOnce,
        Self::KickAtEntry,
        Self::MeetingHoldsAll,
        Self::ConcurrentMeetings,
        Self::ManyInitiators,
        Self::LateVcpuIsNamed,
        Self::LateReplyIsNotTheNext,
        Self::DestroyReleasesWaiters,
        Self::DestroyWhileSuspended,
    ];

    /// Its name in a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SuspendStopsGuests => "suspend stops every guest",
            Self::SuspendedVcpusSleepAndAnswer => "suspended vCPUs sleep and answer",
            Self::ConcurrentSuspends => "concurrent suspends",
            Self::SuspendStorm => "suspend storm",
            Self::RequestsRunOnce => "requests run once",
            Self::KickAtEntry => "kick at entry",
            Self::MeetingHoldsAll => "a meeting holds all",
            Self::ConcurrentMeetings => "concurrent meetings",
            Self::ManyInitiators => "many initiators",
            Self::LateVcpuIsNamed => "a late vCPU is named",
            Self::LateReplyIsNotTheNext => "a late reply is not the next",
            Self::DestroyReleasesWaiters => "destroy releases waiters",
            Self::DestroyWhileSuspended => "destroy while suspended",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is wrong with the loop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The loop could not be made.
    #[error("the loop could not be made: {why}")]
    NotMade {
        /// What the maker said.
        why: String,
    },
    /// A guest that should run does not.
    #[error("the guest of vCPU {vcpu} does not run")]
    NoProgress {
        /// Whose.
        vcpu: u32,
    },
    /// Suspend returned before this vCPU was out of the guest, or let it in again.
    #[error("the guest of vCPU {vcpu} ran while the VM was suspended")]
    RanWhileSuspended {
        /// Whose.
        vcpu: u32,
    },
    /// The meeting did not hold this vCPU.
    #[error("the guest of vCPU {vcpu} ran during a meeting")]
    RanInMeeting {
        /// Whose.
        vcpu: u32,
    },
    /// The vCPU's thread burns its processor while the VM is suspended.
    #[error("vCPU {vcpu} used {used:?} of processor time in {of:?} of being suspended: it spins")]
    Spun {
        /// Whose thread.
        vcpu: u32,
        /// Processor time.
        used: Duration,
        /// Elapsed time.
        of: Duration,
    },
    /// An operation failed that should not have.
    #[error("{step} failed: {trouble}")]
    Failed {
        /// What was done.
        step: &'static str,
        /// What the loop said.
        trouble: Trouble,
    },
    /// A vCPU in the guest did not see a request: its kick was lost.
    #[error("vCPU {vcpu} never saw a request; its kick was lost (after {before} that were not)")]
    LostKick {
        /// Whose.
        vcpu: u32,
        /// Kicks that worked before it.
        before: u32,
    },
    /// The vCPU entered the guest again before it looked at what it had been kicked for.
    #[error("vCPU {vcpu} left the guest {exits} times before it saw the request it was kicked for")]
    KickNotLookedAt {
        /// Whose.
        vcpu: u32,
        /// Exits from before the request to when it ran.
        exits: u64,
    },
    /// A request or callback ran on another thread than its vCPU's.
    #[error("a request for vCPU {vcpu} did not run on that vCPU's thread")]
    WrongThread {
        /// Whose.
        vcpu: u32,
    },
    /// A caller got an answer that is not its own.
    #[error("a request to vCPU {vcpu} was answered with {got}, the answer of another: not {want}")]
    WrongReply {
        /// Whose.
        vcpu: u32,
        /// Its own answer.
        want: u64,
        /// What it got.
        got: u64,
    },
    /// A request or callback did not run as often as it had to.
    #[error("work for vCPU {vcpu} ran {times} times, not once")]
    NotOnce {
        /// Whose.
        vcpu: u32,
        /// How often it ran.
        times: u32,
    },
    /// An operation said that it was done although this vCPU could not have taken part.
    #[error("{step} said it was done although vCPU {vcpu} was held up elsewhere")]
    DoneWithout {
        /// What was done.
        step: &'static str,
        /// Who was missing.
        vcpu: u32,
    },
    /// Something was late, and the loop does not say who.
    #[error("{step} timed out and does not name vCPU {vcpu}, which was late")]
    NotNamed {
        /// What was done.
        step: &'static str,
        /// Who was late.
        vcpu: u32,
    },
    /// Something was late, and the loop names another vCPU.
    #[error("{step} names vCPU {named} as late; it was vCPU {vcpu}")]
    WronglyNamed {
        /// What was done.
        step: &'static str,
        /// Who was late.
        vcpu: u32,
        /// Who was named.
        named: u32,
    },
    /// A caller waited until its own limit passed, though the loop was destroyed long before.
    #[error("a caller that waited for vCPU {vcpu} was not let go when the loop was destroyed")]
    LeftWaiting {
        /// For whom it waited.
        vcpu: u32,
    },
    /// A request ran, or was said to have run, after destroy had returned.
    #[error("a request to vCPU {vcpu} ran after the loop was destroyed")]
    RanAfterDestroy {
        /// Whose.
        vcpu: u32,
    },
    /// An operation did not return, long after its limit.
    #[error("stuck: {step} did not return")]
    Stuck {
        /// The last thing begun.
        step: &'static str,
    },
    /// The loop panicked.
    #[error("the loop panicked in or after: {step}")]
    Panicked {
        /// The last thing begun.
        step: &'static str,
    },
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was found.
    Passed,
    /// Not checked, and why.
    Skipped(&'static str),
    /// The first thing found.
    Failed(Finding),
}

impl From<Finding> for Outcome {
    fn from(finding: Finding) -> Self {
        Self::Failed(finding)
    }
}

/// What came of all checks. Its `Display` is a table, one line a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    results: Vec<(Check, Outcome)>,
    abandoned: u32,
}

impl Report {
    pub(super) fn add(&mut self, check: Check, (outcome, left_behind): (Outcome, u32)) {
        self.results.push((check, outcome));
        self.abandoned += left_behind;
    }

    /// Each check with its outcome, in the order in which they ran.
    #[must_use]
    pub fn results(&self) -> &[(Check, Outcome)] {
        &self.results
    }

    /// Whether nothing was found. Skipped checks do not count against the loop.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.findings().next().is_none()
    }

    /// What was found, by which check.
    pub fn findings(&self) -> impl Iterator<Item = (Check, &Finding)> {
        self.results
            .iter()
            .filter_map(|(check, outcome)| match outcome {
                Outcome::Failed(finding) => Some((*check, finding)),
                Outcome::Passed | Outcome::Skipped(_) => None,
            })
    }

    /// The outcome of `check`, if it ran.
    #[must_use]
    pub fn outcome(&self, check: Check) -> Option<&Outcome> {
        let found = self.results.iter().find(|(which, _)| *which == check);
        found.map(|(_, outcome)| outcome)
    }

    /// How many loops hung and were left behind with their threads.
    #[must_use]
    pub fn abandoned(&self) -> u32 {
        self.abandoned
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, outcome) in &self.results {
            match outcome {
                Outcome::Passed => writeln!(f, "{check:<33} passed")?,
                Outcome::Skipped(why) => writeln!(f, "{check:<33} skipped: {why}")?,
                Outcome::Failed(finding) => writeln!(f, "{check:<33} FAILED: {finding}")?,
            }
        }
        Ok(())
    }
}
