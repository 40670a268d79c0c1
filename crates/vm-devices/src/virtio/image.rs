// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A disk image: a file or block device of the host, opened and checked before a VM starts.

use std::fmt::{self, Display};
use std::fs::{OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::medium::Medium;

/// Bytes of a sector, the unit of a disk's size (virtio 1.2, 5.2).
pub(super) const SECTOR: u64 = 512;

/// What a guest may do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

impl Display for DiskAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}

/// A disk image that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host does not open it.
    #[error("disk {}: {source}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("disk {}: is a {what}, give a file or a block device", path.display())]
    Kind {
        /// The image.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Its size is no whole number of sectors, or it is empty.
    #[error(
        "disk {}: its size, {bytes} bytes, is not a positive multiple of 512; `truncate -s %512` rounds it up",
        path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another program writes to it, or reads what this one would write to.
    #[error("disk {}: is in use by another VM; end that one, or let both only read", path.display())]
    Busy {
        /// The image.
        path: PathBuf,
    },
}

/// A disk image that is open. Its lock (flock, exclusive unless read-only) is held until it is
/// dropped.
#[derive(Debug)]
pub struct DiskImage {
    pub(super) file: Box<dyn Medium>,
    pub(super) sectors: u64,
    pub(super) access: DiskAccess,
    path: PathBuf,
}

/// Its path, and what is known of it.
impl Display for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, sectors, access) = (self.path.display(), self.sectors, self.access);
        write!(f, "{path} ({sectors} sectors, {access})")
    }
}

impl DiskImage {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(path: &Path, access: DiskAccess) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        // Looked at before it is opened, because opening a pipe would wait.
        let kind = path.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() {
                "directory"
            } else {
                "pipe, socket or character device"
            };
            return Err(DiskError::Kind {
                path: path.to_owned(),
                what,
            });
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(access == DiskAccess::ReadWrite)
            .open(path)
            .map_err(failed)?;
        let locked = match access {
            DiskAccess::ReadOnly => file.try_lock_shared(),
            DiskAccess::ReadWrite => file.try_lock(),
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => DiskError::Busy {
                path: path.to_owned(),
            },
            TryLockError::Error(source) => failed(source),
        })?;
        // The length of a block device is where its end is.
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError::Size {
                path: path.to_owned(),
                bytes,
            });
        }
        Ok(Self {
            file: Box::new(file),
            sectors: bytes / SECTOR,
            access,
            path: path.to_owned(),
        })
    }

    /// An image that is `file`.
    #[cfg(test)]
    pub(super) fn of(file: Box<dyn Medium>, path: &Path, sectors: u64) -> Self {
        Self {
            file,
            sectors,
            access: DiskAccess::ReadWrite,
            path: path.to_owned(),
        }
    }

    /// Its size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What the guest may do with it.
    pub fn access(&self) -> DiskAccess {
        self.access
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
