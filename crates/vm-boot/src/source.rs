// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where an image's bytes are: in a file that stays open, or in memory.
//!
//! A file's bytes never stay in this process: they are copied from the page cache straight into
//! guest memory, each time anew, through a mapping that lasts as long as the copy. A mapping
//! rather than `read`: the kernel copies byte by byte where user code copies vectors. Invariant: the file is the one that was opened (it cannot vanish), and
//! a change of its size or modification time is an error, never a different kernel after a reset.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use vm_cpu::GuestRam;
use vm_memory::mmap::MmapRegion;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryError, Permissions, VolatileMemory,
};

use crate::BootError;
use crate::le::index;

/// File offsets of mappings are multiples of this.
const PAGE: u64 = 4096;

/// An image's bytes and its name.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    data: Data,
}

#[derive(Debug)]
enum Data {
    File {
        /// Shared with a mapping while that lasts.
        file: Arc<File>,
        bytes: u64,
        modified: Option<SystemTime>,
    },
    Memory(Vec<u8>),
}

impl Source {
    /// Opens a regular, non-empty file.
    pub(crate) fn open(path: &Path) -> Result<Self, BootError> {
        let name = path.display().to_string();
        let failed = |op| {
            let name = name.clone();
            move |source| BootError::File { name, op, source }
        };
        // Looked at first: opening a FIFO would wait for its writer.
        regular(&name, &fs::metadata(path).map_err(failed("open"))?)?;
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("read"))?;
        regular(&name, &metadata)?;
        if metadata.len() == 0 {
            return Err(BootError::Empty { name });
        }
        let (bytes, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Self {
            name,
            data: Data::File {
                file: Arc::new(file),
                bytes,
                modified,
            },
        })
    }

    /// Takes bytes that are already in memory.
    pub(crate) fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, BootError> {
        let name = name.to_owned();
        if bytes.is_empty() {
            return Err(BootError::Empty { name });
        }
        Ok(Self {
            name,
            data: Data::Memory(bytes),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes when it was opened.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.data {
            Data::File { bytes, .. } => *bytes,
            Data::Memory(data) => data.len() as u64,
        }
    }

    /// That the file is still what it was when it was opened.
    pub(crate) fn unchanged(&self) -> Result<(), BootError> {
        let Data::File {
            file,
            bytes,
            modified,
            ..
        } = &self.data
        else {
            return Ok(());
        };
        let now = file.metadata().map_err(|source| self.failed(source))?;
        if now.len() != *bytes || now.modified().ok() != *modified {
            return Err(BootError::Changed {
                name: self.name.clone(),
            });
        }
        Ok(())
    }

    /// Up to `limit` bytes from `offset`; fewer where the image ends.
    pub(crate) fn read(&self, offset: u64, limit: u64) -> Result<Vec<u8>, BootError> {
        let bytes = limit.min(self.bytes().saturating_sub(offset));
        let mut out = Vec::new();
        self.range(offset, bytes)
            .read_to_end(&mut out)
            .map_err(|source| self.failed(source))?;
        Ok(out)
    }

    /// A reader of `bytes` bytes from `offset`.
    pub(crate) fn range(&self, offset: u64, bytes: u64) -> Range<'_> {
        Range {
            source: self,
            at: offset,
            end: offset.saturating_add(bytes),
        }
    }

    /// Copies `bytes` bytes from `offset` into guest memory, without a buffer in between. The
    /// caller has checked that they are in the image.
    pub(crate) fn copy(
        &self,
        offset: u64,
        bytes: u64,
        ram: &GuestRam,
        address: u64,
    ) -> Result<(), BootError> {
        if bytes == 0 {
            return Ok(());
        }
        match &self.data {
            Data::File { file, .. } => self.copy_file(file, offset, bytes, ram, address),
            Data::Memory(data) => {
                let from = index(offset);
                let part = from
                    .checked_add(index(bytes))
                    .and_then(|end| data.get(from..end));
                ram.write_slice(part.unwrap_or_default(), GuestAddress(address))
                    .map_err(|source| BootError::Ram { address, source })
            }
        }
    }

    fn copy_file(
        &self,
        file: &Arc<File>,
        offset: u64,
        bytes: u64,
        ram: &GuestRam,
        address: u64,
    ) -> Result<(), BootError> {
        // A page past the end of a file that became shorter must not be touched.
        self.unchanged()?;
        let skipped = offset % PAGE;
        let mapping = MmapRegion::<()>::build(
            Some(FileOffset::from_arc(Arc::clone(file), offset - skipped)),
            index(skipped + bytes),
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        )
        .map_err(|error| self.failed(io::Error::other(error)))?;
        let failed = |source: GuestMemoryError| BootError::Ram { address, source };
        let mut from = mapping
            .as_volatile_slice()
            .offset(index(skipped))
            .map_err(|error| failed(error.into()))?;
        let slices = ram.get_slices(GuestAddress(address), index(bytes), Permissions::Write);
        for to in slices.map_err(failed)? {
            let to = to.map_err(failed)?;
            let copied = to.len();
            from.copy_to_volatile_slice(to);
            from = from.offset(copied).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> BootError {
        BootError::File {
            name: self.name.clone(),
            op: "read",
            source,
        }
    }
}

/// A part of an image, read from front to back.
#[derive(Debug)]
pub(crate) struct Range<'a> {
    source: &'a Source,
    at: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let limit = out.len().min(index(self.end.saturating_sub(self.at)));
        let Some(out) = out.get_mut(..limit) else {
            return Ok(0);
        };
        let read = match &self.source.data {
            Data::File { file, .. } => file.read_at(out, self.at)?,
            Data::Memory(data) => data.get(index(self.at)..).unwrap_or_default().read(out)?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

fn regular(name: &str, metadata: &Metadata) -> Result<(), BootError> {
    let what = if metadata.is_dir() {
        "directory"
    } else if !metadata.is_file() {
        "device, pipe or socket"
    } else {
        return Ok(());
    };
    Err(BootError::NotAFile {
        name: name.to_owned(),
        what,
    })
}
