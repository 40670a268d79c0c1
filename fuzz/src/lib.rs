// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is dear to make and is made once for all inputs: guest memory and the file of a disk. Both
//! are as new whenever they are asked for, so that an input does the same alone as after others.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_devices::{DiskAccess, DiskImage, GuestRam};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, MmapRegion};

const PAGE: usize = 4096;

/// Guest memory from address 0 on. Whoever writes to it marks the pages in its bitmap, which says
/// what is not zero any more.
pub struct Memory {
    ram: GuestRam,
}

impl Memory {
    /// So much, which fits below the devices of a PC.
    ///
    /// # Panics
    /// If the host has no room for it.
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).expect("of a size that fits");
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).expect("some guest memory");
        Self { ram }
    }

    /// The memory, all zeroes and unmarked.
    ///
    /// # Panics
    /// Never: it writes where memory is.
    pub fn fresh(&self) -> GuestRam {
        for region in self.ram.iter() {
            let bitmap = MmapRegion::bitmap(region);
            for (word, bits) in (0_u64..).zip(bitmap.get_and_reset()).filter(|&(_, bits)| bits != 0) {
                for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                    let at = (word * 64 + bit) * PAGE as u64;
                    let rest = usize::try_from(region.len() - at).map_or(PAGE, |rest| rest.min(PAGE));
                    let at = region.start_addr().0 + at;
                    self.ram.write_slice(&[0; PAGE][..rest], GuestAddress(at)).expect("there is memory");
                }
            }
            bitmap.reset();
        }
        self.ram.clone()
    }
}

/// The file of a disk, in memory.
pub struct Image {
    file: File,
    bytes: usize,
}

impl Image {
    /// Of so many bytes.
    ///
    /// # Panics
    /// If the host has no room for it.
    pub fn new(bytes: usize) -> Self {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory"));
        Self { file, bytes }
    }

    /// The image opened anew, all zeroes. The last one has to be gone.
    ///
    /// # Panics
    /// If the last one is still open.
    pub fn fresh(&self) -> DiskImage {
        self.file.write_all_at(&vec![0; self.bytes], 0).expect("room for it");
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        DiskImage::open(&path, DiskAccess::ReadWrite).expect("the last one is closed")
    }
}
