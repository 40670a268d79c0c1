// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Validated descriptor chains, and the one way to the bytes they name (virtio 1.2, 2.7).
//!
//! Invariant: a chain has an end, at most [`CHAIN_MAX`] descriptors, and its readable part before its
//! writable part. Everything else is a broken queue. Where the descriptors point is not looked at when
//! a chain is taken: every access to guest memory checks that anew.

use virtio_queue::DescriptorChain;
use vm_memory::bitmap::{AtomicBitmap, RefSlice};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, VolatileSlice,
};

use crate::GuestRam as Ram;

/// Descriptors of one chain, at most.
pub(super) const CHAIN_MAX: usize = 256;

/// The guest broke the rules of the queue: only a device reset helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// A chain names memory that there is not, or fewer bytes than are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault;

/// A part of guest memory that a descriptor names; it may lie anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) bytes: u32,
}

/// The descriptors of one request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
}

impl Chain {
    pub(super) fn collect(mut descriptors: DescriptorChain<&Ram>) -> Result<Self, Broken> {
        let mut chain = Self {
            head: descriptors.head_index(),
            ..Self::default()
        };
        // The iterator ends without a word at whatever is wrong: then the last one names a next.
        let mut is_complete = false;
        for descriptor in descriptors.by_ref() {
            if chain.readable.len() + chain.writable.len() == CHAIN_MAX {
                return Err(Broken);
            }
            let segment = Segment {
                address: descriptor.addr().0,
                bytes: descriptor.len(),
            };
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(Broken);
            }
            is_complete = !descriptor.has_next();
        }
        if is_complete { Ok(chain) } else { Err(Broken) }
    }

    /// Bytes that the device may read.
    pub(super) fn readable_bytes(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    pub(super) fn writable_bytes(&self) -> u64 {
        total(&self.writable)
    }

    /// Fills `to` from the readable part, from byte `offset` on.
    pub(super) fn read(&self, ram: &Ram, offset: u64, to: &mut [u8]) -> Result<(), Fault> {
        let mut at = 0;
        walk(&self.readable, offset, to.len(), |address, n| {
            let part = to.get_mut(at..at + n).ok_or(Fault)?;
            at += n;
            match in_one_region(ram, address, n) {
                Some(bytes) => {
                    bytes.copy_to(part);
                    Ok(())
                }
                None => ram.read_slice(part, address).map_err(|_| Fault),
            }
        })
    }

    /// Writes `from` to the writable part, from byte `offset` on.
    pub(super) fn write(&self, ram: &Ram, offset: u64, from: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        walk(&self.writable, offset, from.len(), |address, n| {
            let part = from.get(at..at + n).ok_or(Fault)?;
            at += n;
            match in_one_region(ram, address, n) {
                Some(bytes) => {
                    bytes.copy_from(part);
                    Ok(())
                }
                None => ram.write_slice(part, address).map_err(|_| Fault),
            }
        })
    }
}

/// These bytes of guest memory, if one region has them all, which is the rule. Then the next region is
/// not looked for behind each piece: of a request of 254 pages that saves 45,000 of 280,000 instructions.
fn in_one_region(
    ram: &Ram,
    address: GuestAddress,
    bytes: usize,
) -> Option<VolatileSlice<'_, RefSlice<'_, AtomicBitmap>>> {
    let region = ram.find_region(address)?;
    let at = region.to_region_addr(address)?;
    region.get_slice(at, bytes).ok()
}

/// Calls `copy` with the address and length of each piece of `bytes` bytes from `offset` on.
fn walk(
    segments: &[Segment],
    offset: u64,
    bytes: usize,
    mut copy: impl FnMut(GuestAddress, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
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
        let address = segment.address.checked_add(skip).ok_or(Fault)?;
        copy(GuestAddress(address), n)?;
        skip = 0;
        left -= n;
    }
    if left == 0 { Ok(()) } else { Err(Fault) }
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.bytes)).sum()
}
