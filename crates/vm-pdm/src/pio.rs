// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The port bus: one table entry for each port.
//!
//! Invariant: `table[port]` is the index of the range that holds `port`, or `NOBODY`, which is
//! beyond every index.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::builder::{Claim, MAX_RANGES};
use crate::bus::{Misses, byte, ones};
use crate::{IoCtx, IoHandler, Unassigned};

const PORTS: usize = 1 << 16;
const NOBODY: u16 = u16::MAX;

/// The port bus. Its rules are those of [`crate::Buses`].
pub struct PioBus {
    table: Box<[u16; PORTS]>,
    ranges: Vec<Range>,
    /// Apart from the ranges, which stay small: dispatch needs no names.
    owners: Vec<String>,
    misses: Misses,
}

struct Range {
    handler: Arc<dyn IoHandler>,
    first: u32,
    ports: u32,
}

impl Debug for PioBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.owners
                    .iter()
                    .zip(self.ranges.iter().map(|r| r.first..r.first + r.ports)),
            )
            .finish()
    }
}

impl PioBus {
    /// `claims` are disjoint, below 65536 and at most [`MAX_RANGES`], as the builder saw to.
    pub(crate) fn new(claims: impl Iterator<Item = Claim>) -> Self {
        let mut table: Box<[u16; PORTS]> = vec![NOBODY; PORTS]
            .into_boxed_slice()
            .try_into()
            .expect("made with that many entries");
        let mut owners = Vec::new();
        let ranges: Vec<Range> = claims
            .map(|claim| {
                owners.push(claim.owner);
                Range {
                    handler: claim.handler,
                    first: u32::try_from(claim.first).expect("a port"),
                    ports: u32::try_from(claim.last - claim.first + 1).expect("ports"),
                }
            })
            .collect();
        debug_assert!(ranges.len() <= MAX_RANGES, "the builder limits them");
        for (range, index) in ranges.iter().zip(0_u16..) {
            let first = range.first as usize;
            table[first..first + range.ports as usize].fill(index);
        }
        Self {
            table,
            ranges,
            owners,
            misses: Misses::default(),
        }
    }

    /// Owner, first and last port of each range, ascending.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        let ranges = self.owners.iter().zip(&self.ranges);
        ranges.map(|(owner, r)| (owner.as_str(), r.first, r.first + r.ports - 1))
    }

    /// Accesses that not every byte had an owner for.
    pub fn unassigned(&self) -> Unassigned {
        self.misses.get()
    }

    /// Reads `size` bytes from `port`; zero-extended.
    #[inline]
    pub fn read(&self, cx: &mut IoCtx, port: u16, size: u8) -> u32 {
        if let Some((handler, offset)) = self.whole(port, size) {
            return low_u32(handler.read(cx, offset, size) & ones(size));
        }
        low_u32(self.read_bytes(cx, port, size))
    }

    /// Writes the low `size` bytes of `value` to `port`.
    #[inline]
    pub fn write(&self, cx: &mut IoCtx, port: u16, size: u8, value: u32) {
        let value = u64::from(value) & ones(size);
        if let Some((handler, offset)) = self.whole(port, size) {
            return handler.write(cx, offset, size, value);
        }
        self.write_bytes(cx, port, size, value);
    }

    /// Handler and offset of an access that lies in one range.
    #[inline]
    fn whole(&self, port: u16, size: u8) -> Option<(&dyn IoHandler, u64)> {
        let range = self.find(port)?;
        let offset = u32::from(port) - range.first;
        let fits = carried(size) && offset + u32::from(size) <= range.ports;
        fits.then(|| (range.handler.as_ref(), u64::from(offset)))
    }

    #[inline]
    fn find(&self, port: u16) -> Option<&Range> {
        self.ranges.get(usize::from(self.table[usize::from(port)]))
    }

    #[cold]
    fn read_bytes(&self, cx: &mut IoCtx, port: u16, size: u8) -> u64 {
        let mut value = ones(size.min(4));
        let mut missed = !carried(size);
        for i in (0..size).take_while(|_| carried(size)) {
            match port
                .checked_add(u16::from(i))
                .and_then(|at| Some((at, self.find(at)?)))
            {
                Some((at, range)) => {
                    let read = range
                        .handler
                        .read(cx, u64::from(u32::from(at) - range.first), 1);
                    let shift = u32::from(i) * 8;
                    value = value & !(0xff << shift) | (read & 0xff) << shift;
                }
                None => missed = true,
            }
        }
        if missed {
            self.misses.read();
        }
        value
    }

    #[cold]
    fn write_bytes(&self, cx: &mut IoCtx, port: u16, size: u8, value: u64) {
        let mut missed = !carried(size);
        for i in (0..size).take_while(|_| carried(size)) {
            match port
                .checked_add(u16::from(i))
                .and_then(|at| Some((at, self.find(at)?)))
            {
                Some((at, range)) => {
                    range.handler.write(
                        cx,
                        u64::from(u32::from(at) - range.first),
                        1,
                        byte(value, i),
                    );
                }
                None => missed = true,
            }
        }
        if missed {
            self.misses.write();
        }
    }
}

/// Sizes that `IN` and `OUT` have.
#[inline]
fn carried(size: u8) -> bool {
    matches!(size, 1 | 2 | 4)
}

#[inline]
fn low_u32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("32 bits")
}
