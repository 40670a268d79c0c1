// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A request under way, and the one way to its bytes in guest memory.
//!
//! Invariant: after a reset of the device has returned to the guest, nothing reads or writes the
//! guest's memory on behalf of an earlier request. Therefore each copy is done under the device's
//! lock, which a reset takes, and only while the epoch is still the request's; what lasts, the I/O on
//! the host, is done without it.

use std::sync::{Arc, MutexGuard};

use super::chain::Fault;
use super::image::DiskImage;
use super::registers::Taken;
use super::shared::{Shared, State};

/// Why a request cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The device was reset meanwhile: nobody waits for an answer.
    Reset,
    /// It names memory that there is not, or fewer bytes than it needs.
    Fault,
    /// The host cannot do it now: it is served anew after a resume.
    Refused(Refusal),
}

impl From<Fault> for Stop {
    fn from(_: Fault) -> Self {
        Self::Fault
    }
}

/// Why the host cannot serve a request now, and what to do: see [`vm_pdm::RuntimeError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) id: &'static str,
    pub(super) message: String,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Request<'a> {
    shared: &'a Shared,
    taken: &'a Taken,
}

/// What serves requests; it lives on the device's thread.
pub(super) trait Backend: Send {
    /// Serves a request; the bytes written to its writable part.
    ///
    /// # Errors
    /// [`Stop::Reset`]: drop it. [`Stop::Fault`]: it cannot even be answered. [`Stop::Refused`], if
    /// the request can wait: ask again, as if it had never been served.
    fn serve(&mut self, request: &Request<'_>) -> Result<u32, Stop>;
}

impl<'a> Request<'a> {
    pub(super) fn new(shared: &'a Shared, taken: &'a Taken) -> Self {
        Self { shared, taken }
    }

    /// Whether the driver accepted all of `features`.
    pub(super) fn has(&self, features: u64) -> bool {
        self.taken.features & features == features
    }

    /// Whether there is a VM that can be suspended, and so somebody to resume it.
    pub(super) fn can_wait(&self) -> bool {
        self.shared.lock().link.is_some()
    }

    /// The image that it is for, unless that was detached since it was taken.
    pub(super) fn image(&self) -> Option<Arc<DiskImage>> {
        let state = self.shared.lock();
        let is_same = state.registers.generation() == self.taken.generation;
        let drive = state.drive.as_ref().filter(|_| is_same)?;
        drive.image().cloned()
    }

    /// Bytes that the device may read.
    pub(super) fn readable_bytes(&self) -> u64 {
        self.taken.chain.readable_bytes()
    }

    /// Bytes that the device may write.
    pub(super) fn writable_bytes(&self) -> u64 {
        self.taken.chain.writable_bytes()
    }

    /// Fills `to` from the readable part, from byte `offset` on.
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Stop> {
        let _state = self.current()?;
        let chain = &self.taken.chain;
        Ok(chain.read(&self.shared.ram, offset, to)?)
    }

    /// Writes `from` to the writable part, from byte `offset` on.
    pub(super) fn write(&self, offset: u64, from: &[u8]) -> Result<(), Stop> {
        let _state = self.current()?;
        let chain = &self.taken.chain;
        Ok(chain.write(&self.shared.ram, offset, from)?)
    }

    /// The lock, under which this epoch lasts.
    fn current(&self) -> Result<MutexGuard<'_, State>, Stop> {
        let state = self.shared.lock();
        if state.registers.epoch() == self.taken.epoch {
            Ok(state)
        } else {
            Err(Stop::Reset)
        }
    }
}
