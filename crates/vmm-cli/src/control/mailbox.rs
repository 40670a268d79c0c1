// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM tells one client: changes, errors and images in a bounded queue, and a descriptor to sleep on.
//!
//! The observers that fill it may run on an EMT, so they never wait: a client that does not keep up
//! loses what there is no room for, which is counted, and is dropped for it by its own thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use vm_core::ErrorEvent;
use vm_state::Change;

use crate::reach::Changed;

/// Changes and errors that may wait for one client.
const LIMIT: usize = 1024;

/// One thing the VM tells.
#[derive(Debug)]
pub(super) enum Told {
    /// The state changed.
    Change(Change),
    /// Something went wrong. Its text is bounded by the VM.
    Error(ErrorEvent),
    /// An image came or went.
    Backend(Changed),
}

/// One client's queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    wake: OwnedFd,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    told: VecDeque<Told>,
    lost: u64,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            queue: Mutex::default(),
        })
    }

    /// Adds what is told, or counts it as lost. Never waits.
    pub(super) fn push(&self, told: Told) {
        let mut queue = self.queue();
        let rouse = if queue.told.len() < LIMIT {
            queue.told.push_back(told);
            queue.told.len() == 1
        } else {
            queue.lost += 1;
            queue.lost == 1
        };
        drop(queue);
        if rouse {
            self.rouse();
        }
    }

    /// Makes [`wake`](Self::wake) readable.
    pub(super) fn rouse(&self) {
        // Full means that it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Makes [`wake`](Self::wake) wait for the next; look into the queue after it.
    pub(super) fn slept(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }

    /// Readable when there is something to look at.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The oldest of it.
    pub(super) fn pop(&self) -> Option<Told> {
        self.queue().told.pop_front()
    }

    /// How much was lost since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.queue().lost)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Each change to it is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
