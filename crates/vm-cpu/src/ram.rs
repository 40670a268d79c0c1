// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guest memory and where it lies.

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::CpuError;

/// Guest memory: one type for every crate. Every write through it, a device's or a loader's, marks the
/// pages it touches in a bitmap beside each region; what a vCPU writes, its engine tracks. Clones are
/// the same memory and the same bitmap.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// Where guest memory lies: below the 32-bit hole, and the rest above 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamLayout {
    /// Bytes of guest memory in all.
    pub bytes: u64,
}

impl RamLayout {
    /// First address of the hole below 4 GiB, kept for devices.
    pub const HOLE_START: u64 = 0xc000_0000;
    /// First address above the hole.
    pub const HOLE_END: u64 = 0x1_0000_0000;

    /// Most that can be asked for: half of what an x86-64 process can address with four levels of
    /// page tables (AMD64 APM volume 2, 5.3), since the program needs some too.
    pub const MOST_BYTES: u64 = 1 << 46;

    /// The ranges as (address, bytes), ascending.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let low = self.bytes.min(Self::HOLE_START);
        let high = self.bytes - low;
        let mut ranges = vec![(0, low)];
        if high > 0 {
            ranges.push((Self::HOLE_END, high));
        }
        ranges
    }

    /// Maps guest memory, zeroed, not yet touched.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host has no room for the mapping or for the bitmap beside it,
    /// [`CpuError::Invalid`] for 0 bytes and for more than a process can address.
    pub fn allocate(&self) -> Result<GuestRam, CpuError> {
        if self.bytes == 0 || !self.bytes.is_multiple_of(4096) {
            return Err(CpuError::Invalid {
                what: "memory".into(),
                why: format!("{} bytes is not a positive multiple of 4096", self.bytes),
            });
        }
        if self.bytes > Self::MOST_BYTES {
            return Err(CpuError::Invalid {
                what: "memory".into(),
                why: format!(
                    "{} bytes are beyond the address space: {} at most",
                    self.bytes,
                    Self::MOST_BYTES
                ),
            });
        }
        self.has_room_for_bitmap()?;
        let ranges: Vec<_> = self
            .ranges()
            .into_iter()
            .map(|(at, bytes)| {
                usize::try_from(bytes)
                    .map(|bytes| (GuestAddress(at), bytes))
                    .map_err(|_| CpuError::Invalid {
                        what: "memory".into(),
                        why: "beyond the address space".into(),
                    })
            })
            .collect::<Result<_, _>>()?;
        GuestRam::from_ranges(&ranges).map_err(|e| CpuError::Host {
            op: "mmap of guest memory",
            vcpu: None,
            source: std::io::Error::other(e.to_string()),
        })
    }

    /// Refuses what the host has no bitmap for: vm-memory makes one bit a page before it maps, and a
    /// failure there would end the process.
    fn has_room_for_bitmap(&self) -> Result<(), CpuError> {
        let bytes = usize::try_from(self.bytes / 4096 / 8).unwrap_or(usize::MAX);
        let failed = |e: std::collections::TryReserveError| CpuError::Host {
            op: "bitmap of guest memory",
            vcpu: None,
            source: std::io::Error::other(e),
        };
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_no_process_can_address_is_refused_with_the_most_there_can_be() {
        for bytes in [RamLayout::MOST_BYTES + 4096, 1 << 60, !4095] {
            match (RamLayout { bytes }).allocate() {
                Err(CpuError::Invalid { what, why }) => {
                    assert_eq!(what, "memory");
                    assert!(why.contains(&RamLayout::MOST_BYTES.to_string()), "{why}");
                }
                other => panic!("{bytes:#x}: {other:?}"),
            }
        }
    }
}
