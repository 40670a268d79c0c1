// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A request under way, and the one way to its bytes in guest memory.
//!
//! Invariant: after a reset of the device has returned to the guest, nothing reads or writes the
//! guest's memory on behalf of an earlier request. Therefore each copy is done under the device's
//! lock, which a reset takes, and only while the epoch is still the request's; what lasts, the I/O on
//! the host, is done without it.

use vm_memory::{Bytes, GuestAddress};

use super::registers::Taken;
use super::ring::Segment;
use super::shared::Shared;

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

    /// Bytes that the device may read.
    pub(super) fn readable_bytes(&self) -> u64 {
        total(&self.taken.chain.readable)
    }

    /// Bytes that the device may write.
    pub(super) fn writable_bytes(&self) -> u64 {
        total(&self.taken.chain.writable)
    }

    /// Fills `to` from the readable part, from byte `offset` on.
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Stop> {
        let ram = &self.shared.ram;
        let mut at = 0;
        self.walk(
            &self.taken.chain.readable,
            offset,
            to.len(),
            |address, n| {
                let part = to.get_mut(at..at + n).ok_or(Stop::Fault)?;
                at += n;
                ram.read_slice(part, GuestAddress(address))
                    .map_err(|_| Stop::Fault)
            },
        )
    }

    /// Writes `from` to the writable part, from byte `offset` on.
    pub(super) fn write(&self, offset: u64, from: &[u8]) -> Result<(), Stop> {
        let ram = &self.shared.ram;
        let mut at = 0;
        self.walk(
            &self.taken.chain.writable,
            offset,
            from.len(),
            |address, n| {
                let part = from.get(at..at + n).ok_or(Stop::Fault)?;
                at += n;
                ram.write_slice(part, GuestAddress(address))
                    .map_err(|_| Stop::Fault)
            },
        )
    }

    /// Calls `copy` with the address and length of each piece of `bytes` bytes from `offset` on.
    fn walk(
        &self,
        segments: &[Segment],
        offset: u64,
        bytes: usize,
        mut copy: impl FnMut(u64, usize) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let state = self.shared.lock();
        if state.registers.epoch() != self.taken.epoch {
            return Err(Stop::Reset);
        }
        let (mut skip, mut left) = (offset, bytes);
        for segment in segments {
            let length = u64::from(segment.bytes);
            if skip >= length {
                skip -= length;
                continue;
            }
            let n = usize::try_from(length - skip)
                .unwrap_or(usize::MAX)
                .min(left);
            if n == 0 {
                break;
            }
            let address = segment.address.checked_add(skip).ok_or(Stop::Fault)?;
            copy(address, n)?;
            skip = 0;
            left -= n;
        }
        drop(state);
        if left == 0 { Ok(()) } else { Err(Stop::Fault) }
    }
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.bytes)).sum()
}
