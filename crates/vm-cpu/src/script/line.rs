// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What reaches a scripted vCPU from outside: kicks, interrupts, INIT and start-up IPIs.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

use vm_emt::Kick;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard};

/// Interrupts that wait.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Requested vectors, one bit each.
    irr: [u64; 4],
    /// Non-maskable interrupts, at most 2.
    pub(super) nmi: u8,
    pub(super) init: bool,
    pub(super) sipi: Option<u8>,
}

impl Waiting {
    pub(super) fn request(&mut self, vector: u8) {
        self.irr[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    /// Takes the highest vector.
    pub(super) fn take(&mut self) -> Option<u8> {
        for bank in (0..4u8).rev() {
            let word = &mut self.irr[usize::from(bank)];
            if let Some(bit) = (0..64u8).rev().find(|bit| *word & (1 << bit) != 0) {
                *word &= !(1 << bit);
                return Some(bank << 6 | bit);
            }
        }
        None
    }

    pub(super) fn any_vector(&self) -> bool {
        self.irr != [0; 4]
    }

    pub(super) fn request_nmi(&mut self) {
        self.nmi = (self.nmi + 1).min(2);
    }

    pub(super) fn take_nmi(&mut self) -> bool {
        let waits = self.nmi > 0;
        self.nmi = self.nmi.saturating_sub(1);
        waits
    }

    fn any(&self) -> bool {
        self.any_vector() || self.nmi > 0 || self.init || self.sipi.is_some()
    }

    /// The IRR as a LAPIC page holds it: eight 32-bit registers, 16 bytes apart, from 0x200.
    pub(super) fn store(&self, page: &mut [u8]) {
        for (i, at) in (0x200..0x280).step_by(16).enumerate() {
            let word = (self.irr[i / 2] >> (32 * (i % 2))) & 0xffff_ffff;
            page[at..at + 4].copy_from_slice(&word.to_le_bytes()[..4]);
        }
    }

    pub(super) fn load(page: &[u8]) -> Self {
        let mut waiting = Self::default();
        for (i, at) in (0x200..0x280).step_by(16).enumerate() {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&page[at..at + 4]);
            waiting.irr[i / 2] |= u64::from_le_bytes(bytes) << (32 * (i % 2));
        }
        waiting
    }
}

/// The way into one vCPU. The flags are hints that save the lock; truth is under it.
#[derive(Debug, Default)]
pub(super) struct Line {
    kicked: AtomicBool,
    interrupted: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Kick for Line {
    fn kick(&self) {
        self.kicked.store(true, SeqCst);
        // The lock orders this notification after a waiter's look at the flag.
        drop(self.lock());
        self.changed.notify_all();
    }
}

impl Line {
    pub(super) fn kicked(&self) -> bool {
        self.kicked.load(SeqCst)
    }

    pub(super) fn use_up_kick(&self) {
        self.kicked.store(false, SeqCst);
    }

    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(SeqCst)
    }

    /// Changes what waits; wakes the vCPU if it waits inside the engine.
    pub(super) fn change<T>(&self, how: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.lock();
        let result = how(&mut waiting);
        self.interrupted.store(waiting.any(), SeqCst);
        drop(waiting);
        self.changed.notify_all();
        result
    }

    /// Blocks until a kick, or until `ready` says that what waits concerns the vCPU.
    pub(super) fn wait_until(&self, ready: impl Fn(&Waiting) -> bool) {
        let mut waiting = self.lock();
        while !self.kicked() && !ready(&waiting) {
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_taken_highest_first() {
        let mut waiting = Waiting::default();
        for vector in [0x20, 0xef, 0x41] {
            waiting.request(vector);
        }
        let taken: Vec<_> = std::iter::from_fn(|| waiting.take()).collect();
        assert_eq!(taken, [0xef, 0x41, 0x20]);
    }

    #[test]
    fn requested_vectors_survive_the_register_page() {
        let mut waiting = Waiting::default();
        for vector in [0x10, 0x3f, 0x40, 0x61, 0xff] {
            waiting.request(vector);
        }
        let mut page = vec![0; 1024];
        waiting.store(&mut page);
        assert_eq!(Waiting::load(&page), waiting);
    }
}
