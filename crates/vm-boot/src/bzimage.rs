// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The bzImage container: the setup header, and where the compressed kernel lies behind it.
//!
//! Fields: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header". The container's
//! own code (real mode, decompressor) is never run.

use std::ops::Range;

use crate::BootError;
use crate::le::{u8_at, u16_at, u32_at};
use crate::payload::Format;
use crate::source::Source;

/// Bytes that hold the whole setup header.
const FRONT: u64 = 0x290;
/// Where the setup header begins, here and in the zero page.
const HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
/// The oldest protocol that says where the payload lies.
const OLDEST: u16 = 0x0208;
const SECTOR: u64 = 512;
/// A larger kernel than any there is; bounds memory and time.
const DECOMPRESSED_LIMIT: u64 = 512 << 20;

/// A recognised bzImage.
#[derive(Debug, Clone)]
pub(crate) struct BzImage {
    /// Boot protocol, major in the high byte.
    pub(crate) protocol: u16,
    /// The setup header as it goes into the zero page, from offset 0x1f1.
    pub(crate) header: Vec<u8>,
    /// Longest command line, without the terminator.
    pub(crate) command_line_limit: u32,
    /// Highest address an initrd may use.
    pub(crate) initrd_limit: u32,
    pub(crate) format: Format,
    /// Where the payload lies in the file, size trailer included.
    pub(crate) payload: Range<u64>,
    /// Bytes of the kernel, decompressed, as the payload's trailer says.
    pub(crate) decompressed: u64,
}

impl BzImage {
    /// Whether these first bytes are a bzImage's.
    pub(crate) fn matches(front: &[u8]) -> bool {
        u16_at(front, BOOT_FLAG) == Some(0xaa55) && front.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
    }

    /// Parses the header and finds the payload.
    pub(crate) fn parse(source: &Source) -> Result<Self, BootError> {
        let front = source.read(0, FRONT)?;
        let Some(fields) = Fields::parse(&front) else {
            return Err(cut(source, "the bzImage header", FRONT));
        };
        let name = source.name();
        if fields.protocol < OLDEST {
            let (major, minor) = (fields.protocol >> 8, fields.protocol & 0xff);
            return Err(BootError::Unsupported {
                name: name.to_owned(),
                what: format!("a kernel of boot protocol {major}.{minor:02}"),
                instead: "give a kernel of protocol 2.08 (Linux 2.6.26) or later",
            });
        }
        let start = (u64::from(fields.setup_sectors) + 1) * SECTOR + u64::from(fields.offset);
        let end = start + u64::from(fields.length);
        if end > source.bytes() {
            return Err(cut(source, "the compressed kernel", end));
        }
        if fields.length < 16 {
            return Err(BootError::Malformed {
                name: name.to_owned(),
                offset: 0x24c,
                what: format!("a compressed kernel of {} bytes", fields.length),
            });
        }
        let format = Format::detect(name, &source.read(start, 6)?)?;
        let decompressed = match format {
            Format::Raw => u64::from(fields.length),
            Format::Gzip | Format::Lz4 | Format::Xz | Format::Zstd => trailer(source, end)?,
        };
        if decompressed > DECOMPRESSED_LIMIT {
            return Err(BootError::Payload {
                name: name.to_owned(),
                format: format.name(),
                reason: format!(
                    "its trailer at byte {:#x} says {decompressed} bytes, at most \
                     {DECOMPRESSED_LIMIT} are accepted",
                    end - 4
                ),
            });
        }
        Ok(Self {
            protocol: fields.protocol,
            header: fields.header,
            command_line_limit: fields.command_line_limit,
            initrd_limit: fields.initrd_limit,
            format,
            payload: start..end,
            decompressed,
        })
    }
}

struct Fields {
    protocol: u16,
    setup_sectors: u8,
    header: Vec<u8>,
    command_line_limit: u32,
    initrd_limit: u32,
    offset: u32,
    length: u32,
}

impl Fields {
    fn parse(front: &[u8]) -> Option<Self> {
        // The byte at 0x201 is the operand of a jump over the header: it says how long it is.
        let header_end = 0x202 + usize::from(u8_at(front, 0x201)?);
        let setup_sectors = match u8_at(front, 0x1f1)? {
            0 => 4,
            sectors => sectors,
        };
        Some(Self {
            protocol: u16_at(front, 0x206)?,
            setup_sectors,
            header: front.get(HEADER..header_end.min(front.len()))?.to_vec(),
            command_line_limit: u32_at(front, 0x238)?,
            initrd_limit: u32_at(front, 0x22c)?,
            offset: u32_at(front, 0x248)?,
            length: u32_at(front, 0x24c)?,
        })
    }
}

fn trailer(source: &Source, end: u64) -> Result<u64, BootError> {
    let bytes = source.read(end - 4, 4)?;
    u32_at(&bytes, 0)
        .map(u64::from)
        .ok_or_else(|| cut(source, "the compressed kernel", end))
}

fn cut(source: &Source, what: &'static str, needed: u64) -> BootError {
    BootError::Truncated {
        name: source.name().to_owned(),
        what,
        needed,
        bytes: source.bytes(),
    }
}
