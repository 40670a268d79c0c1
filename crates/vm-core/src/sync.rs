// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where this crate's locks, atomics and threads come from: std, or the models of them under
//! `cfg(shuttle)`.

use std::sync::PoisonError;
use std::time::Instant;

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
    thread::JoinHandle,
};
#[cfg(not(shuttle))]
pub(crate) use vm_pdm::thread;

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
    thread::JoinHandle,
};

/// How a thread is made.
#[cfg(shuttle)]
pub(crate) fn thread(name: impl Into<String>) -> shuttle::thread::Builder {
    shuttle::thread::Builder::new().name(name.into())
}

/// Locks; a panic elsewhere while the lock was held does not spread, since every critical section
/// here is a single assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar` until it is notified or `deadline` passes; may return early. `None` if the
/// deadline had passed before.
///
/// Shuttle has no clock: under it a deadline within the next hour passes in one of eight cases, as
/// the scheduler likes, and one further off never.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Instant,
) -> Option<MutexGuard<'a, T>> {
    let left = deadline.checked_duration_since(Instant::now())?;
    #[cfg(shuttle)]
    if expires(left) {
        drop(guard);
        shuttle::thread::yield_now();
        return None;
    }
    let woken = condvar.wait_timeout(guard, left);
    Some(woken.unwrap_or_else(PoisonError::into_inner).0)
}

#[cfg(shuttle)]
fn expires(left: std::time::Duration) -> bool {
    use shuttle::rand::{Rng as _, thread_rng};
    left.as_secs() < 3600 && thread_rng().gen_ratio(1, 8)
}
