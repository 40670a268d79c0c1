// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A word that threads can sleep on: the one waiting primitive of the core.
//!
//! Invariant: a waiter names the value it saw; a waker changes the value first and wakes second. So
//! no wake is lost, and every return from [`Futex::wait`] is followed by another look.

use std::time::Instant;

use crate::sync::AtomicU32;
#[cfg(any(loom, shuttle))]
use crate::sync::{Condvar, Mutex};
use std::sync::atomic::Ordering::SeqCst;

/// Every waiter, whatever its mask: see [`Futex::wait`].
pub const ANYONE: u32 = u32::MAX;

/// A 32-bit word with SeqCst operations on which threads can sleep.
///
/// Under `cfg(loom)` and `cfg(shuttle)` the same type is a modelled atomic with a modelled sleep, so
/// that models see it.
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    #[cfg(any(loom, shuttle))]
    bed: std::sync::Arc<(Mutex<()>, Condvar)>,
}

/// Where the sleepers of one [`Futex`] are found, valid even after the futex is gone.
///
/// A completer takes the key first, then makes the change after which the waiter may free the word,
/// then wakes by the key. A wake of an address that was reused is a spurious wake there, which every
/// futex waiter stands.
#[derive(Debug)]
pub struct FutexKey {
    #[cfg(not(any(loom, shuttle)))]
    address: *const u32,
    #[cfg(any(loom, shuttle))]
    bed: std::sync::Arc<(Mutex<()>, Condvar)>,
}

impl Futex {
    /// A word of the given value.
    #[must_use]
    pub fn new(value: u32) -> Self {
        Self {
            word: AtomicU32::new(value),
            #[cfg(any(loom, shuttle))]
            bed: std::sync::Arc::new((Mutex::new(()), Condvar::new())),
        }
    }

    /// The word now.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.word.load(SeqCst)
    }

    /// Sets the bits and returns the word before.
    pub fn fetch_or(&self, bits: u32) -> u32 {
        self.word.fetch_or(bits, SeqCst)
    }

    /// Keeps only the bits and returns the word before.
    pub fn fetch_and(&self, bits: u32) -> u32 {
        self.word.fetch_and(bits, SeqCst)
    }

    /// Adds, wrapping, and returns the word before.
    pub fn fetch_add(&self, more: u32) -> u32 {
        self.word.fetch_add(more, SeqCst)
    }

    /// Replaces `from` by `to`.
    ///
    /// # Errors
    /// The word as it was, if it was not `from`.
    pub fn compare_exchange(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.word.compare_exchange(from, to, SeqCst, SeqCst)
    }

    /// Sleeps while the word is `expected`, until woken with a mask that shares a bit with `mask`
    /// (not 0), or until `deadline`. May return for no reason. `false` iff the deadline passed.
    ///
    /// # Thread
    /// Blocks the caller.
    #[cfg(not(any(loom, shuttle)))]
    pub fn wait(&self, expected: u32, mask: u32, deadline: Option<Instant>) -> bool {
        crate::sys::wait(&self.word, expected, mask, deadline)
    }

    /// The modelled sleep: the kernel's atomic "compare, then sleep", with a lock. Masks are not
    /// modelled (every wake wakes all, which waiters must stand); deadlines are as far as the model
    /// can (`sync::expires`).
    #[cfg(any(loom, shuttle))]
    pub fn wait(&self, expected: u32, _mask: u32, deadline: Option<Instant>) -> bool {
        if crate::sync::expires(deadline) {
            return false;
        }
        let guard = self
            .bed
            .0
            .lock()
            .expect("no thread of a model panics holding it");
        if self.load() == expected {
            drop(
                self.bed
                    .1
                    .wait(guard)
                    .expect("no thread of a model panics holding it"),
            );
        }
        true
    }

    /// The key of this word's sleepers.
    #[must_use]
    pub fn key(&self) -> FutexKey {
        FutexKey {
            #[cfg(not(any(loom, shuttle)))]
            address: self.word.as_ptr(),
            #[cfg(any(loom, shuttle))]
            bed: std::sync::Arc::clone(&self.bed),
        }
    }
}

impl FutexKey {
    /// Wakes one sleeper: one system call.
    pub fn wake_one(&self) {
        self.wake(1, ANYONE);
    }

    /// Wakes every sleeper whose mask shares a bit with `mask`: one system call.
    pub fn wake_all(&self, mask: u32) {
        self.wake(i32::MAX, mask);
    }

    #[cfg(not(any(loom, shuttle)))]
    fn wake(&self, count: i32, mask: u32) {
        crate::sys::wake(self.address, count, mask);
    }

    #[cfg(any(loom, shuttle))]
    fn wake(&self, _count: i32, _mask: u32) {
        let _guard = self
            .bed
            .0
            .lock()
            .expect("no thread of a model panics holding it");
        self.bed.1.notify_all();
    }
}
