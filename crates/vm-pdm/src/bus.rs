// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Both buses of a VM, and the rules they share.
//!
//! # Rules
//! * An access of a size its bus knows (ports: 1, 2, 4; memory: 1, 2, 4, 8) that lies wholly in one
//!   range reaches that range's handler once, as it is.
//! * Any other access of a size the bus can carry (it crosses the end of a range, or is 3, 5, 6 or
//!   7 bytes of memory) is split into bytes in ascending order; each byte reaches the owner of its
//!   own port or address, or none. Nothing lies beyond the last port or address: no wrap-around.
//! * What nobody owns reads as all ones and swallows writes; so does an access of any other size.
//!
//! The tables never change, so dispatch takes no lock; they may be exchanged as a whole only while
//! all EMTs are gathered.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::IoCtx;
use crate::info::Page;
use crate::mmio::MmioBus;
use crate::pio::PioBus;
use crate::stats::{Scope, StatError, Unit, Value};

/// The port bus and the memory bus of a VM; shared by all EMTs as `Arc<Buses>`.
#[derive(Debug)]
pub struct Buses {
    /// Ports.
    pub pio: PioBus,
    /// Guest-physical addresses that no memory backs.
    pub mmio: MmioBus,
}

impl Buses {
    /// Reads `size` bytes from `port`; zero-extended. Never panics whatever the guest asks.
    #[inline]
    pub fn pio_read(&self, cx: &mut IoCtx, port: u16, size: u8) -> u32 {
        self.pio.read(cx, port, size)
    }

    /// Writes the low `size` bytes of `value` to `port`. Never panics whatever the guest asks.
    #[inline]
    pub fn pio_write(&self, cx: &mut IoCtx, port: u16, size: u8, value: u32) {
        self.pio.write(cx, port, size, value);
    }

    /// Reads `size` bytes at `addr`; zero-extended. Never panics whatever the guest asks.
    #[inline]
    pub fn mmio_read(&self, cx: &mut IoCtx, addr: u64, size: u8) -> u64 {
        self.mmio.read(cx, addr, size)
    }

    /// Writes the low `size` bytes of `value` at `addr`. Never panics whatever the guest asks.
    #[inline]
    pub fn mmio_write(&self, cx: &mut IoCtx, addr: u64, size: u8, value: u64) {
        self.mmio.write(cx, addr, size, value);
    }
}

impl Buses {
    /// Has `scope` show how many accesses nobody answered.
    ///
    /// # Errors
    /// [`StatError::Exists`] if something has these names.
    pub fn stats(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        const READS: &str = "reads that found no owner for a byte";
        const WRITES: &str = "writes that found no owner for a byte";
        let reader = |which: fn(&Self) -> u64| {
            let buses = Arc::clone(self);
            move || Value::Counter(which(&buses))
        };
        let times = Unit::Occurrences;
        scope
            .read(
                "pio/unassigned-reads",
                times,
                READS,
                reader(|b| b.pio.unassigned().reads),
            )?
            .read(
                "pio/unassigned-writes",
                times,
                WRITES,
                reader(|b| b.pio.unassigned().writes),
            )?
            .read(
                "mmio/unassigned-reads",
                times,
                READS,
                reader(|b| b.mmio.unassigned().reads),
            )?
            .read(
                "mmio/unassigned-writes",
                times,
                WRITES,
                reader(|b| b.mmio.unassigned().writes),
            )?;
        Ok(())
    }

    /// Writes who owns which ports and addresses, a line for each range.
    ///
    /// # Errors
    /// Those of writing.
    pub fn info(&self, page: &mut Page) -> fmt::Result {
        for (owner, first, last) in self.pio.owned() {
            writeln!(page, "ports     {first:#06x} - {last:#06x}  {owner}")?;
        }
        for (owner, first, last) in self.mmio.owned() {
            writeln!(page, "addresses {first:#018x} - {last:#018x}  {owner}")?;
        }
        Ok(())
    }
}

/// How many accesses of one bus nobody, or not for every byte somebody, answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unassigned {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The counters behind [`Unassigned`].
#[derive(Debug, Default)]
pub(crate) struct Misses {
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Misses {
    pub(crate) fn read(&self) {
        // Relaxed: a statistic that orders nothing.
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn write(&self) {
        // Relaxed: a statistic that orders nothing.
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Unassigned {
        // Relaxed: a statistic that orders nothing.
        let (reads, writes) = (
            self.reads.load(Ordering::Relaxed),
            self.writes.load(Ordering::Relaxed),
        );
        Unassigned { reads, writes }
    }
}

/// The low `size` bytes of a value as ones; all of them for 8 and more, none for 0.
#[inline]
pub(crate) fn ones(size: u8) -> u64 {
    let bits = 8 * u32::from(size.min(8));
    u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0)
}

/// Byte `i` of `value`.
pub(crate) fn byte(value: u64, i: u8) -> u64 {
    value.checked_shr(u32::from(i) * 8).unwrap_or(0) & 0xff
}
