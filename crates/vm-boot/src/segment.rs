// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bytes of a file and where they go in guest memory.

use crate::source::Source;
use crate::{BootError, Protocol};

/// A loadable segment: `file_bytes` from `offset` go to guest address `address`, zeros follow up
/// to `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) file_bytes: u64,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl Segment {
    /// That the segment's bytes are all in the file.
    pub(crate) fn in_file(&self, source: &Source) -> Result<(), BootError> {
        let needed = self.offset + self.file_bytes;
        if needed <= source.bytes() {
            return Ok(());
        }
        let (name, bytes) = (source.name().to_owned(), source.bytes());
        Err(BootError::Truncated {
            name,
            what: "a segment",
            needed,
            bytes,
        })
    }
}

/// Bytes without headers that are followed: one segment, one way in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    pub(crate) segment: Segment,
    pub(crate) protocol: Protocol,
    pub(crate) entry: u64,
}
