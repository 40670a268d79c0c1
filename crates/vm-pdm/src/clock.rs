// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The virtual clock: nanoseconds that pass only while the VM runs.
//!
//! Invariant: while it is held it says the same, and it never goes back but by [`VirtualClock::set`].

use std::fmt::{self, Debug};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Nanoseconds from anywhere that never go back.
type Source = Box<dyn Fn() -> u64 + Send + Sync>;

/// Nanoseconds that the VM has been running. Begins at 0, held; [`Timers`](crate::Timers) has it run.
/// Any thread.
pub struct VirtualClock {
    source: Source,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// What the clock said when it was last started, held or set.
    ns: u64,
    /// What the source said when the clock was started; `None` while it is held.
    since: Option<u64>,
}

impl Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualClock")
            .field("state", &*self.lock())
            .finish_non_exhaustive()
    }
}

impl VirtualClock {
    /// A clock that follows the host's monotonic one while it runs.
    pub(crate) fn of_host() -> Self {
        let epoch = Instant::now();
        Self::of(Box::new(move || {
            u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
        }))
    }

    /// A clock that follows `source` while it runs.
    pub(crate) fn of(source: Source) -> Self {
        let state = Mutex::new(State { ns: 0, since: None });
        Self { source, state }
    }

    /// What it says, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let state = self.lock();
        self.says(*state)
    }

    /// What it says if it runs.
    pub(crate) fn running_ns(&self) -> Option<u64> {
        let state = self.lock();
        state.since.map(|_| self.says(*state))
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.lock().since.is_some()
    }

    /// Has it run on from what it says.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        state.since.get_or_insert_with(&self.source);
    }

    /// Has it stay at what it says.
    pub(crate) fn hold(&self) {
        let mut state = self.lock();
        state.ns = self.says(*state);
        state.since = None;
    }

    /// Has it say `ns`; whether it was held, without which nothing changes.
    pub(crate) fn set(&self, ns: u64) -> bool {
        let mut state = self.lock();
        if state.since.is_none() {
            state.ns = ns;
        }
        state.since.is_none()
    }

    fn says(&self, state: State) -> u64 {
        let passed = state
            .since
            .map_or(0, |since| (self.source)().saturating_sub(since));
        state.ns.saturating_add(passed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
