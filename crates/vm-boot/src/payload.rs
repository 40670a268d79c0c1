// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Decompression of kernel payloads, as a stream: only a decoder's window is ever in memory.

use std::io::{self, BufReader, Read};

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::lz4;
use crate::source::Range;

/// The largest window that kernels are built with (`zstd --ultra -22`, `xz` with a dictionary of
/// 128 MiB).
const WINDOW_LIMIT: u64 = 128 << 20;
/// The same for xz, in KiB, with room for the decoder itself.
const XZ_LIMIT_KIB: u32 = (128 << 10) + 1024;

/// How a kernel is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Lz4,
    Raw,
    Xz,
    Zstd,
}

impl Format {
    /// Recognises a payload by its first bytes. Others, such as bzip2, lzma and lzo, are for the
    /// kernel's own decompressor.
    pub(crate) fn detect(front: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 5] = [
            (b"\x1f\x8b", Self::Gzip),
            (&lz4::MAGIC, Self::Lz4),
            (crate::elf::MAGIC, Self::Raw),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        let mut known = known.iter();
        known
            .find(|(magic, _)| front.starts_with(magic))
            .map(|(_, format)| *format)
    }

    /// The format's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Raw => "uncompressed",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Whether the kernel build appends the size as four bytes of its own; gzip ends with them.
    pub(crate) fn has_own_trailer(self) -> bool {
        match self {
            Self::Lz4 | Self::Xz | Self::Zstd => true,
            Self::Gzip | Self::Raw => false,
        }
    }

    /// A reader of the decompressed kernel; `payload` is without the size trailer.
    pub(crate) fn reader<'a>(self, payload: Range<'a>) -> io::Result<Box<dyn Read + 'a>> {
        let payload = BufReader::with_capacity(64 << 10, payload);
        Ok(match self {
            Self::Raw => Box::new(payload),
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(payload)),
            Self::Lz4 => Box::new(lz4::Reader::new(payload)),
            Self::Xz => Box::new(XzReader::new_mem_limit(payload, false, XZ_LIMIT_KIB)),
            Self::Zstd => Box::new(zstd(payload)?),
        })
    }
}

fn zstd<R: Read>(payload: R) -> io::Result<ZstdReader<R>> {
    let decoder = StreamingDecoder::new_with_max_window_size(payload, WINDOW_LIMIT)
        .map_err(io::Error::other)?;
    Ok(ZstdReader { decoder })
}

/// A zstd decoder that also compares the checksum, which the streaming decoder leaves to its user.
struct ZstdReader<R: Read> {
    decoder: StreamingDecoder<R, ruzstd::decoding::FrameDecoder>,
}

impl<R: Read> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(out)?;
        if read == 0 && !out.is_empty() {
            let frame = &self.decoder.decoder;
            if let Some(stored) = frame.get_checksum_from_data()
                && frame.get_calculated_checksum() != Some(stored)
            {
                return Err(io::Error::other("its checksum does not match"));
            }
        }
        Ok(read)
    }
}
