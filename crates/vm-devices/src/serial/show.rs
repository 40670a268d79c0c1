// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a serial port counts.

use std::sync::Arc;

use vm_pdm::stats::{Counter, Scope, StatError, Unit};

/// Counted under the port's lock.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counts {
    /// Bytes that the guest sent and the outbox took.
    pub(super) sent: Counter,
    /// Bytes that the guest sent without looking, and that were dropped.
    pub(super) lost: Counter,
    /// Bytes that reached the guest's FIFO.
    pub(super) received: Counter,
    /// Rising edges of the interrupt line.
    pub(super) interrupts: Counter,
}

impl Counts {
    pub(super) fn register(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        scope
            .part("sent", Unit::Bytes, "by the guest", self, |c| &c.sent)?
            .part("lost", Unit::Bytes, "sent without looking", self, |c| {
                &c.lost
            })?
            .part("received", Unit::Bytes, "by the guest", self, |c| {
                &c.received
            })?
            .part("interrupts", Unit::Occurrences, "raised", self, |c| {
                &c.interrupts
            })?;
        Ok(())
    }
}
