// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where an image's bytes are: in a file that stays open, or in memory.
//!
//! A file's bytes never stay in this process: they go from the page cache straight into guest
//! memory, each time anew. Invariant: the file is the one that was opened (it cannot vanish), and
//! a change of its size or modification time is an error, never a different kernel after a reset.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use vm_cpu::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::BootError;
use crate::le::index;

/// An image's bytes and its name.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    data: Data,
}

#[derive(Debug)]
enum Data {
    File {
        file: File,
        /// Held while the file's position is in use; `read_at` does not use it.
        position: Mutex<()>,
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
                file,
                position: Mutex::new(()),
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

    /// Copies `bytes` bytes from `offset` into guest memory, without a buffer in between.
    pub(crate) fn copy(
        &self,
        offset: u64,
        bytes: u64,
        ram: &GuestRam,
        address: u64,
    ) -> Result<(), BootError> {
        let to = GuestAddress(address);
        match &self.data {
            Data::File { file, position, .. } => {
                let _held = position.lock().unwrap_or_else(PoisonError::into_inner);
                let mut file = file;
                file.seek(SeekFrom::Start(offset))
                    .map_err(|source| self.failed(source))?;
                ram.read_exact_volatile_from(to, &mut file, index(bytes))
            }
            Data::Memory(data) => {
                let from = index(offset);
                let part = from
                    .checked_add(index(bytes))
                    .and_then(|end| data.get(from..end));
                ram.write_slice(part.unwrap_or_default(), to)
            }
        }
        .map_err(|source| self.copy_failed(address, source))
    }

    /// A failed copy is the file's fault if it has become another one meanwhile.
    fn copy_failed(&self, address: u64, source: vm_memory::GuestMemoryError) -> BootError {
        match self.unchanged() {
            Ok(()) => BootError::Ram { address, source },
            Err(changed) => changed,
        }
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
