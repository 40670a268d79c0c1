// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where a scripted vCPU's locks and flags come from: std, or the models of them under
//! `cfg(shuttle)`.
//!
//! Only what another thread waits for is modelled; counters and tables that are held for one look
//! stay std's.

#[cfg(not(shuttle))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool};

#[cfg(shuttle)]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicBool};

/// Called once a boundary. A model's scheduler has to be told of a loop that only time ends, or
/// nobody else comes to run.
pub(super) fn boundary() {
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}
