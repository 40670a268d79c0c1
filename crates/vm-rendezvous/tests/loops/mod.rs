// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! vCPU loops for the kit to run on, and the guest that all of them run.

pub(crate) mod field;
pub(crate) mod ours;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use vm_rendezvous::kit::EntryHook;

/// Steps a guest makes before it notices a kick, as a signal takes its time to arrive.
const STEPS: u32 = 64;

/// A guest that counts until it is kicked, and the door to it.
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) progress: AtomicU64,
    pub(crate) exits: AtomicU64,
    kicked: AtomicBool,
    inside: AtomicBool,
    hook: Mutex<Option<EntryHook>>,
}

impl Guest {
    pub(crate) fn set_hook(&self, hook: EntryHook) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// The embedder's last words before the guest.
    pub(crate) fn at_door(&self) {
        let hook = self
            .hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(hook) = hook {
            hook();
        }
    }

    pub(crate) fn run(&self) {
        self.inside.store(true, SeqCst);
        while !self.kicked.swap(false, SeqCst) {
            for _ in 0..STEPS {
                self.progress.fetch_add(1, SeqCst);
                std::thread::yield_now();
            }
        }
        self.inside.store(false, SeqCst);
        self.exits.fetch_add(1, SeqCst);
    }

    /// A kick that is kept until the guest is entered.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, SeqCst);
    }

    /// A signal alone: outside the guest its handler does nothing.
    pub(crate) fn signal(&self) {
        if self.inside.load(SeqCst) {
            self.kick();
        }
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}
