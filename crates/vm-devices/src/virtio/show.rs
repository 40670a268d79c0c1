// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a virtio device counts, and its page.

use std::fmt::{self, Write};
use std::sync::Arc;

use vm_pdm::info::Page;
use vm_pdm::stats::{Counter, Scope, StatError, Unit};

use super::registers::Registers;
use super::shared::{Allowed, State, Thread};

/// Counted under the device's lock.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counts {
    /// Times that the guest said there is work.
    pub(super) bells: Counter,
    /// Requests, or buffers, that were given back.
    pub(super) completed: Counter,
    /// Interrupts raised.
    pub(super) interrupts: Counter,
    /// Times that the guest broke the rules.
    pub(super) broken: Counter,
    /// Requests that the host could not serve at first.
    pub(super) refused: Counter,
}

impl Counts {
    pub(super) fn register(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        scope
            .part("bells", Unit::Occurrences, "by the guest", self, |c| {
                &c.bells
            })?
            .part("completed", Unit::Occurrences, "given back", self, |c| {
                &c.completed
            })?
            .part("interrupts", Unit::Occurrences, "raised", self, |c| {
                &c.interrupts
            })?
            .part("broken", Unit::Occurrences, "by the guest", self, |c| {
                &c.broken
            })?
            .part("refused", Unit::Occurrences, "by the host", self, |c| {
                &c.refused
            })?;
        Ok(())
    }
}

/// The bytes that a console carried, counted under its lock.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Carried {
    /// Bytes that the guest sent and the outbox took.
    pub(super) sent: Counter,
    /// Bytes that reached the guest's buffers.
    pub(super) received: Counter,
}

impl Carried {
    pub(super) fn register(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        scope
            .part("sent", Unit::Bytes, "by the guest", self, |c| &c.sent)?
            .part("received", Unit::Bytes, "by the guest", self, |c| {
                &c.received
            })?;
        Ok(())
    }
}

impl Registers {
    /// A line for the device, one for each queue.
    pub(super) fn describe(&self, page: &mut Page) -> fmt::Result {
        let (status, accepted) = (self.status(), self.accepted());
        writeln!(
            page,
            "status {status:#04x}, the driver accepted {accepted:#x}"
        )?;
        for (n, ring) in self.rings().iter().enumerate() {
            match (ring.is_ready(), ring.rung) {
                (false, _) => writeln!(page, "queue {n}: not in use")?,
                (true, false) => writeln!(page, "queue {n}: {} entries, no work", ring.size)?,
                (true, true) => writeln!(page, "queue {n}: {} entries, may have work", ring.size)?,
            }
        }
        Ok(())
    }
}

impl State {
    /// The registers, and what the thread does.
    pub(super) fn describe(&self, page: &mut Page) -> fmt::Result {
        self.registers.describe(page)?;
        if let Some(drive) = &self.drive {
            match drive.image() {
                Some(image) => writeln!(page, "attached: {image}")?,
                None => writeln!(page, "attached: nothing")?,
            }
        }
        let thread = match (self.thread, self.allowed) {
            (Thread::None, _) => "does not run",
            (Thread::Busy, _) => "is in a request",
            (Thread::Idle, Allowed::Hold) => "is held",
            (Thread::Idle, Allowed::Run | Allowed::End) => "waits for work",
        };
        writeln!(page, "its thread {thread}")?;
        if self.refused.is_some() {
            writeln!(
                page,
                "a request that the host refused waits to be served anew"
            )?;
        }
        Ok(())
    }
}
