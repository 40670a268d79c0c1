// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where this crate's atomics come from: std, or the models of them under `cfg(loom)` and
//! `cfg(shuttle)`.
//!
//! What is not part of the doorbell protocol (counters, the kick slot, the list of watchers, the
//! number that tells VMs apart) stays std's even in a model: it orders nothing, and modelling it
//! would only multiply the interleavings.

#[cfg(any(loom, shuttle))]
use std::time::Instant;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::AtomicU32;

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, atomic::AtomicU32};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, atomic::AtomicU32};

#[cfg(not(any(loom, shuttle)))]
std::thread_local! {
    /// Which EMT of which VM the calling thread is: (VM number, vCPU); VM number 0 is "none".
    pub(crate) static ME: std::cell::Cell<(u64, u32)> = const { std::cell::Cell::new((0, 0)) };
}

#[cfg(loom)]
loom::thread_local! {
    /// Which EMT of which VM the calling thread is: (VM number, vCPU); VM number 0 is "none".
    pub(crate) static ME: std::cell::Cell<(u64, u32)> = std::cell::Cell::new((0, 0));
}

#[cfg(shuttle)]
shuttle::thread_local! {
    /// Which EMT of which VM the calling thread is: (VM number, vCPU); VM number 0 is "none".
    pub(crate) static ME: std::cell::Cell<(u64, u32)> = std::cell::Cell::new((0, 0));
}

/// Whether a modelled sleep ends by its deadline. Loom has no clock: only what has passed already.
#[cfg(loom)]
pub(crate) fn expires(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| Instant::now() >= at)
}

/// Whether a modelled sleep ends by its deadline, a choice of the scheduler's that replays.
///
/// A model has no clock. A deadline within the next hour may pass at any moment, so a sleep until
/// then ends in one of eight cases without a wake, after any number of steps of other threads; one
/// further off never passes. A sleep that does not end so lasts until it is woken: nothing may
/// depend on a deadline to make progress.
#[cfg(shuttle)]
pub(crate) fn expires(deadline: Option<Instant>) -> bool {
    use shuttle::rand::{Rng as _, thread_rng};

    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
    let Some(at) = deadline else { return false };
    let left = at.saturating_duration_since(Instant::now());
    let expires = left.is_zero() || (left < HOUR && thread_rng().gen_ratio(1, 8));
    if expires {
        shuttle::thread::yield_now();
    }
    expires
}
