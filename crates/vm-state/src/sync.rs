// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Locks, atomics and the one thread-local: those of `std`, or a model's of them.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use std::{cell::Cell, panic::AssertUnwindSafe, time::Instant};

#[cfg(not(any(loom, shuttle)))]
std::thread_local! {
    /// How many observers this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

#[cfg(loom)]
loom::thread_local! {
    static DEPTH: Cell<u32> = Cell::new(0);
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static DEPTH: Cell<u32> = Cell::new(0);
}

/// Whether the calling thread is inside an observer.
pub(crate) fn inside_observer() -> bool {
    DEPTH.with(|depth| depth.get() > 0)
}

/// Runs `call` as an observer; false if it panicked.
///
/// A panic ends here: it belongs to the observer, and the thread may be an EMT in the middle of a
/// transition. In a loom model it goes on, because loom reports what it found by panicking.
pub(crate) fn as_observer(call: impl FnOnce()) -> bool {
    DEPTH.with(|depth| depth.set(depth.get().saturating_add(1)));
    let returned = caught(call);
    DEPTH.with(|depth| depth.set(depth.get().saturating_sub(1)));
    returned
}

fn caught(call: impl FnOnce()) -> bool {
    if cfg!(loom) {
        call();
        return true;
    }
    std::panic::catch_unwind(AssertUnwindSafe(call)).is_ok()
}

/// Locks; a poisoned lock is taken as it is, since nothing of ours unwinds while it is held.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits on `condvar` until it is notified or `deadline` has passed; may return early.
///
/// `None` if the deadline had passed before. Loom has no clock: there it waits for the notice. Under
/// shuttle a deadline within the next hour passes in one of eight cases, as the scheduler likes, and
/// one further off never.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> Option<MutexGuard<'a, T>> {
    let Some(deadline) = deadline.filter(|_| !cfg!(loom)) else {
        return Some(
            condvar
                .wait(guard)
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    };
    let left = deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())?;
    #[cfg(shuttle)]
    if expires(left) {
        drop(guard);
        shuttle::thread::yield_now();
        return None;
    }
    let woken = condvar.wait_timeout(guard, left);
    Some(woken.unwrap_or_else(std::sync::PoisonError::into_inner).0)
}

#[cfg(shuttle)]
fn expires(left: std::time::Duration) -> bool {
    use shuttle::rand::{Rng as _, thread_rng};
    left.as_secs() < 3600 && thread_rng().gen_ratio(1, 8)
}
