// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The memory bus: a hash of pages for small ranges, a sorted list for the few big ones.
//!
//! Invariant: a page in the hash names all small ranges that touch it, which lie side by side in
//! `ranges` because that is sorted and they are disjoint.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::builder::Claim;
use crate::bus::{Misses, byte, ones};
use crate::{IoCtx, IoHandler, Unassigned};

const PAGE_SHIFT: u32 = 12;
/// A range of more pages than this is big: it is searched for instead of hashed, so that the hash
/// stays small whatever is mapped.
const BIG_PAGES: u64 = 64;
/// No page: addresses have 64 bits, so pages have 52.
const EMPTY: u64 = u64::MAX;
/// Ranges of one page beyond which they are searched by halving.
const FEW: usize = 8;

/// The memory bus. Its rules are those of [`crate::Buses`].
pub struct MmioBus {
    slots: Box<[Slot]>,
    multiplier: u64,
    shift: u32,
    ranges: Vec<Range>,
    /// Indices of the big ranges, ascending.
    big: Vec<usize>,
    misses: Misses,
}

struct Range {
    first: u64,
    last: u64,
    handler: Arc<dyn IoHandler>,
    owner: String,
}

/// One page: the small ranges that touch it, of which the first is here itself, so that an access
/// to it looks nowhere else.
#[derive(Clone)]
struct Slot {
    page: u64,
    first: u64,
    bytes: u64,
    handler: Arc<dyn IoHandler>,
    from: u32,
    count: u32,
}

/// Fills empty slots; never called.
struct Nobody;

impl IoHandler for Nobody {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        u64::MAX
    }

    fn write(&self, _: &mut IoCtx, _: u64, _: u8, _: u64) {}
}

impl Debug for MmioBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.ranges.iter().map(|r| (&r.owner, r.first..=r.last)))
            .finish()
    }
}

impl MmioBus {
    /// `claims` are disjoint and ascending, as the builder saw to.
    pub(crate) fn new(claims: Vec<Claim>) -> Self {
        let ranges: Vec<Range> = claims
            .into_iter()
            .map(|claim| Range {
                first: claim.first,
                last: claim.last,
                handler: claim.handler,
                owner: claim.owner,
            })
            .collect();
        let is_big = |r: &Range| (r.last >> PAGE_SHIFT) - (r.first >> PAGE_SHIFT) >= BIG_PAGES;
        let big = (0..ranges.len()).filter(|&i| is_big(&ranges[i])).collect();
        let mut pages: Vec<Slot> = Vec::new();
        for (range, index) in ranges.iter().zip(0_u32..).filter(|(r, _)| !is_big(r)) {
            for page in range.first >> PAGE_SHIFT..=range.last >> PAGE_SHIFT {
                match pages.last_mut() {
                    // No big range lies between: it would have to lie within this page.
                    Some(slot) if slot.page == page => slot.count += 1,
                    _ => pages.push(Slot {
                        page,
                        first: range.first,
                        bytes: range.last - range.first + 1,
                        handler: Arc::clone(&range.handler),
                        from: index,
                        count: 1,
                    }),
                }
            }
        }
        let (slots, multiplier, shift) = hash(&pages);
        Self {
            slots,
            multiplier,
            shift,
            ranges,
            big,
            misses: Misses::default(),
        }
    }

    /// Owner, first and last address of each range, ascending.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.ranges
            .iter()
            .map(|r| (r.owner.as_str(), r.first, r.last))
    }

    /// Accesses that not every byte had an owner for.
    pub fn unassigned(&self) -> Unassigned {
        self.misses.get()
    }

    /// Reads `size` bytes at `addr`; zero-extended.
    #[inline]
    pub fn read(&self, cx: &mut IoCtx, addr: u64, size: u8) -> u64 {
        if let Some((handler, offset)) = self.quick(addr, size) {
            return handler.read(cx, offset, size) & ones(size);
        }
        self.read_slowly(cx, addr, size)
    }

    /// Writes the low `size` bytes of `value` at `addr`.
    #[inline]
    pub fn write(&self, cx: &mut IoCtx, addr: u64, size: u8, value: u64) {
        if let Some((handler, offset)) = self.quick(addr, size) {
            return handler.write(cx, offset, size, value & ones(size));
        }
        self.write_slowly(cx, addr, size, value & ones(size));
    }

    /// Handler and offset of an access that lies in the first range of its page, where the page lies
    /// in its own slot: nearly every access to a device.
    #[inline]
    fn quick(&self, addr: u64, size: u8) -> Option<(&dyn IoHandler, u64)> {
        let page = addr >> PAGE_SHIFT;
        let slot = self.slots.get(place(page, self.multiplier, self.shift))?;
        let offset = addr.wrapping_sub(slot.first);
        // An address before the range wraps to an offset beyond it.
        let inside = offset < slot.bytes && u64::from(size) <= slot.bytes - offset;
        (slot.page == page && inside && whole(size)).then(|| (slot.handler.as_ref(), offset))
    }

    fn find(&self, addr: u64) -> Option<&Range> {
        let page = addr >> PAGE_SHIFT;
        let mut at = place(page, self.multiplier, self.shift);
        loop {
            // At most a quarter of the slots is used, so an empty one ends the walk.
            let slot = &self.slots[at & (self.slots.len() - 1)];
            if slot.page == page {
                return self.in_page(slot, addr).or_else(|| self.find_big(addr));
            }
            if slot.page == EMPTY {
                return self.find_big(addr);
            }
            at += 1;
        }
    }

    fn in_page(&self, slot: &Slot, addr: u64) -> Option<&Range> {
        let from = slot.from as usize;
        let ranges = &self.ranges[from..from + slot.count as usize];
        if ranges.len() <= FEW {
            return ranges.iter().find(|range| range.has(addr));
        }
        let after = ranges.partition_point(|range| range.first <= addr);
        ranges[..after].last().filter(|range| range.has(addr))
    }

    fn find_big(&self, addr: u64) -> Option<&Range> {
        let after = self.big.partition_point(|&i| self.ranges[i].first <= addr);
        let range = &self.ranges[*self.big[..after].last()?];
        range.has(addr).then_some(range)
    }

    #[inline(never)]
    fn read_slowly(&self, cx: &mut IoCtx, addr: u64, size: u8) -> u64 {
        match self.find(addr) {
            Some(range) if range.holds(addr, size) => {
                range.handler.read(cx, addr - range.first, size) & ones(size)
            }
            _ => self.read_bytes(cx, addr, size),
        }
    }

    #[inline(never)]
    fn write_slowly(&self, cx: &mut IoCtx, addr: u64, size: u8, value: u64) {
        match self.find(addr) {
            Some(range) if range.holds(addr, size) => {
                range.handler.write(cx, addr - range.first, size, value);
            }
            _ => self.write_bytes(cx, addr, size, value),
        }
    }

    #[cold]
    fn read_bytes(&self, cx: &mut IoCtx, addr: u64, size: u8) -> u64 {
        let mut value = ones(size);
        let mut missed = !carried(size);
        for i in (0..size).take_while(|_| carried(size)) {
            match addr
                .checked_add(u64::from(i))
                .and_then(|at| Some((at, self.find(at)?)))
            {
                Some((at, range)) => {
                    let read = range.handler.read(cx, at - range.first, 1);
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
    fn write_bytes(&self, cx: &mut IoCtx, addr: u64, size: u8, value: u64) {
        let mut missed = !carried(size);
        for i in (0..size).take_while(|_| carried(size)) {
            match addr
                .checked_add(u64::from(i))
                .and_then(|at| Some((at, self.find(at)?)))
            {
                Some((at, range)) => {
                    range.handler.write(cx, at - range.first, 1, byte(value, i));
                }
                None => missed = true,
            }
        }
        if missed {
            self.misses.write();
        }
    }
}

impl Range {
    fn has(&self, addr: u64) -> bool {
        (self.first..=self.last).contains(&addr)
    }

    /// Whether an access that begins in the range is one that its handler takes whole.
    fn holds(&self, addr: u64, size: u8) -> bool {
        whole(size) && u64::from(size) - 1 <= self.last - addr
    }
}

/// Sizes that a handler takes whole.
#[inline]
fn whole(size: u8) -> bool {
    matches!(size, 1 | 2 | 4 | 8)
}

/// Sizes that the bus carries, whole or in bytes.
fn carried(size: u8) -> bool {
    (1..=8).contains(&size)
}

/// Slots for `pages` at a quarter's load or less, and the multiplier and shift that place them.
/// Of a few multipliers the one with the fewest collisions is taken: nearly always one has none.
fn hash(pages: &[Slot]) -> (Box<[Slot]>, u64, u32) {
    let bits = (pages.len() * 4)
        .next_power_of_two()
        .max(4)
        .trailing_zeros();
    let shift = u64::BITS - bits;
    let mut best: Option<(usize, Box<[Slot]>, u64)> = None;
    // 2^64 divided by the golden ratio, and what repeated multiplication makes of it: odd numbers
    // without a pattern.
    let mut multiplier = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..32 {
        let (slots, collisions) = fill(pages, multiplier, shift);
        if best.as_ref().is_none_or(|(least, ..)| collisions < *least) {
            best = Some((collisions, slots, multiplier));
        }
        if collisions == 0 {
            break;
        }
        multiplier = multiplier.wrapping_mul(0xd134_2543_de82_ef95);
    }
    let (_, slots, multiplier) = best.expect("the loop ran");
    (slots, multiplier, shift)
}

fn fill(pages: &[Slot], multiplier: u64, shift: u32) -> (Box<[Slot]>, usize) {
    let count = 1_usize << (u64::BITS - shift);
    let empty = Slot {
        page: EMPTY,
        first: 0,
        bytes: 0,
        handler: Arc::new(Nobody),
        from: 0,
        count: 0,
    };
    let mut slots = vec![empty; count].into_boxed_slice();
    let mut collisions = 0;
    for page in pages {
        let mut at = place(page.page, multiplier, shift);
        while slots[at & (count - 1)].page != EMPTY {
            at += 1;
            collisions += 1;
        }
        slots[at & (count - 1)] = page.clone();
    }
    (slots, collisions)
}

#[inline]
fn place(page: u64, multiplier: u64, shift: u32) -> usize {
    usize::try_from(page.wrapping_mul(multiplier) >> shift).unwrap_or(0)
}
