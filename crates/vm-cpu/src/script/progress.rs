// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a scripted vCPU did, counted from outside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::Exit;

/// Counters of one vCPU. They only grow; reset and restore leave them alone.
#[derive(Debug, Default)]
pub struct Progress {
    work: AtomicU64,
    entries: AtomicU64,
    exits: AtomicU64,
    kicks: AtomicU64,
    interrupts: AtomicU64,
    last_exit: Mutex<Option<Exit>>,
}

impl Progress {
    /// Units of work and steps executed.
    pub fn work(&self) -> u64 {
        self.work.load(SeqCst)
    }

    /// Times the vCPU entered the guest.
    pub fn entries(&self) -> u64 {
        self.entries.load(SeqCst)
    }

    /// Times it left.
    pub fn exits(&self) -> u64 {
        self.exits.load(SeqCst)
    }

    /// Times it left as [`Exit::Kicked`].
    pub fn kicks(&self) -> u64 {
        self.kicks.load(SeqCst)
    }

    /// Interrupts taken.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(SeqCst)
    }

    /// Why it left the guest last.
    pub fn last_exit(&self) -> Option<Exit> {
        *self
            .last_exit
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether it is in the guest at the moment.
    pub fn in_guest(&self) -> bool {
        self.exits() < self.entries()
    }

    pub(super) fn note_work(&self, units: u64) {
        self.work.fetch_add(units, SeqCst);
    }

    pub(super) fn note_entry(&self) {
        self.entries.fetch_add(1, SeqCst);
    }

    pub(super) fn note_interrupt(&self) {
        self.interrupts.fetch_add(1, SeqCst);
    }

    pub(super) fn note_exit(&self, exit: Option<Exit>) {
        if exit == Some(Exit::Kicked) {
            self.kicks.fetch_add(1, SeqCst);
        }
        *self
            .last_exit
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = exit;
        self.exits.fetch_add(1, SeqCst);
    }
}
