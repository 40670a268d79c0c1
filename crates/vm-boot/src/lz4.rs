// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The LZ4 legacy frame, which kernels use: a magic, then blocks of a length and LZ4 data, each
//! of up to 8 MiB decompressed (LZ4 `doc/lz4_Frame_format.md`, "Legacy frame").

use std::io::{self, Read};

/// What a legacy frame begins with.
pub(crate) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Bytes a block decompresses to at most; fewer in `fuzz/`, which would do little else than clear
/// them.
const BLOCK: usize = if cfg!(fuzzing) { 64 << 10 } else { 8 << 20 };
/// The most bytes that a block of [`BLOCK`] can compress to.
const COMPRESSED_LIMIT: u32 = (8 << 20) + (8 << 20) / 255 + 16;

/// A reader of the decompressed bytes. Holds one block.
pub(crate) struct Reader<R> {
    inner: R,
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// Bytes of `block` given out, and bytes in it.
    at: usize,
    end: usize,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            compressed: Vec::new(),
            block: Vec::new(),
            at: 0,
            end: 0,
        }
    }

    /// Decompresses the next block; 0 bytes at the end of the frame.
    fn next_block(&mut self) -> io::Result<usize> {
        let length = loop {
            let Some(word) = self.word()? else {
                return Ok(0);
            };
            // Frames may follow each other.
            if word != MAGIC {
                break u32::from_le_bytes(word);
            }
        };
        if length == 0 || length > COMPRESSED_LIMIT {
            return Err(invalid(format!(
                "a block of {length} bytes, at most {COMPRESSED_LIMIT}"
            )));
        }
        self.compressed.clear();
        // Once and for the largest block: buffers that never grow go back to the host when freed.
        self.compressed.reserve_exact(COMPRESSED_LIMIT as usize);
        let read = self
            .inner
            .by_ref()
            .take(length.into())
            .read_to_end(&mut self.compressed)? as u64;
        if read < u64::from(length) {
            return Err(invalid(format!(
                "a block of {length} bytes ends after {read}"
            )));
        }
        self.block.resize(BLOCK, 0);
        lz4_flex::block::decompress_into(&self.compressed, &mut self.block)
            .map_err(|error| invalid(error.to_string()))
    }

    /// The next four bytes, or nothing at a clean end.
    fn word(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut word = Vec::with_capacity(4);
        self.inner.by_ref().take(4).read_to_end(&mut word)?;
        if word.is_empty() {
            return Ok(None);
        }
        word.try_into()
            .map(Some)
            .map_err(|_| invalid("it ends inside a block length".into()))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.at == self.end {
            (self.at, self.end) = (0, self.next_block()?);
        }
        let mut rest = self.block.get(self.at..self.end).unwrap_or_default();
        let read = rest.read(out)?;
        self.at += read;
        Ok(read)
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
