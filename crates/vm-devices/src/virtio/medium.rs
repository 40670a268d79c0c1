// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's end of a disk: what is asked of a file, and which of its refusals may pass.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, FileType, fallocate, fstat, fstatvfs};
use rustix::io::Errno;

/// A file or block device; in tests, what fails when it is told to.
pub(super) trait Medium: Debug + Send + Sync {
    /// Fills `to` from byte `at` on.
    fn read(&self, to: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `from` from byte `at` on.
    fn write(&self, from: &[u8], at: u64) -> io::Result<()>;
    /// Has everything that was written survive a loss of power.
    fn sync(&self) -> io::Result<()>;
    /// Gives room back, or zeroes it (fallocate(2)).
    fn allocate(&self, how: FallocateFlags, at: u64, bytes: u64) -> Result<(), Errno>;
    /// Bytes that its file system has left, where there is one that tells.
    fn free_bytes(&self) -> Option<u64>;
}

impl Medium for File {
    fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(to, at)
    }

    fn write(&self, from: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(from, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, how: FallocateFlags, at: u64, bytes: u64) -> Result<(), Errno> {
        fallocate(self, how, at, bytes)
    }

    fn free_bytes(&self) -> Option<u64> {
        // The file system of a block device's node is not where its bytes are.
        let mode = fstat(self).ok()?.st_mode;
        let is_file = FileType::from_raw_mode(mode).is_file();
        let figures = fstatvfs(self).ok().filter(|_| is_file)?;
        Some(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

/// Whether `error` says that the host has no room: somebody can make some, and then it works.
pub(super) fn is_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT]
        .iter()
        .any(|full| error.raw_os_error() == Some(full.raw_os_error()))
}
