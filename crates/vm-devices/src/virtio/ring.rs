// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One virtqueue: its registers, and what leaves and comes back (virtio 1.2, 2.7).

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::chain::{Broken, Chain};
use crate::GuestRam as Ram;

/// Entries of a queue, at most.
pub(super) const QUEUE_MAX: u16 = 256;

/// Feature: both sides say from which index on they want to be notified.
pub(super) const F_EVENT_IDX: u64 = 1 << 29;

/// One queue.
#[derive(Debug)]
pub(super) struct Ring {
    queue: Queue,
    /// As the driver wrote them; they count when it says that the queue is ready.
    pub(super) size: u32,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// There may be something in it.
    pub(super) rung: bool,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            queue: Queue::new(QUEUE_MAX).expect("a power of two"),
            size: QUEUE_MAX.into(),
            descriptors: 0,
            available: 0,
            used: 0,
            rung: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    /// Takes what the driver wrote, if that is a queue; from here on it is looked at.
    pub(super) fn enable(&mut self, ram: &Ram, features: u64) -> Result<(), Broken> {
        let size = u16::try_from(self.size).map_err(|_| Broken)?;
        self.queue.reset();
        let queue = &mut self.queue;
        queue.try_set_size(size).map_err(|_| Broken)?;
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .map_err(|_| Broken)?;
        queue
            .try_set_avail_ring_address(GuestAddress(self.available))
            .map_err(|_| Broken)?;
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .map_err(|_| Broken)?;
        // The queue crate takes an available ring at 0 for one that was never set.
        if self.available == 0 {
            return Err(Broken);
        }
        // Sizes of the three parts: virtio 1.2, 2.7; both rings with their event index.
        let entries = usize::from(size);
        for (address, bytes, access) in [
            (self.descriptors, 16 * entries, Permissions::Read),
            (self.available, 6 + 2 * entries, Permissions::Read),
            (self.used, 6 + 8 * entries, Permissions::ReadWrite),
        ] {
            if !ram.check_range(GuestAddress(address), bytes, access) {
                return Err(Broken);
            }
        }
        queue.set_event_idx(features & F_EVENT_IDX != 0);
        queue.set_ready(true);
        Ok(())
    }

    /// It is not looked at any more.
    pub(super) fn disable(&mut self) {
        self.queue.set_ready(false);
        self.rung = false;
    }

    /// The next request. `None` with `rung` still set: look again.
    pub(super) fn pop(&mut self, ram: &Ram) -> Result<Option<Chain>, Broken> {
        self.queue.disable_notification(ram).map_err(|_| Broken)?;
        let next = self.queue.iter(ram).map_err(|_| Broken)?.next();
        if let Some(descriptors) = next {
            return Chain::collect(descriptors).map(Some);
        }
        self.rung = self.queue.enable_notification(ram).map_err(|_| Broken)?;
        Ok(None)
    }

    /// Gives a request back with `bytes` written to it; whether the driver wants to be interrupted.
    pub(super) fn complete(&mut self, ram: &Ram, head: u16, bytes: u32) -> Result<bool, Broken> {
        self.queue.add_used(ram, head, bytes).map_err(|_| Broken)?;
        self.queue.needs_notification(ram).map_err(|_| Broken)
    }
}
