// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The bzImage container: the setup header, and where the compressed kernel lies behind it.
//!
//! Fields: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header". The container's
//! real-mode code is never run. Its protected-mode code, the decompressor, is run only where the
//! kernel is entered as is.

use std::ops::Range;

use vm_cpu::RamLayout;

use crate::le::{u8_at, u16_at, u32_at, u64_at};
use crate::map::FIRST_MIB;
use crate::payload::Format;
use crate::segment::Segment;
use crate::source::Source;
use crate::{BootError, Protocol};

/// Bytes that hold the whole setup header.
const FRONT: u64 = 0x290;
/// Where the setup header begins, here and in the zero page.
const HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
/// The oldest protocol with a 32-bit entry that needs nothing of the real-mode code, and a field for
/// the longest command line.
const OLDEST: u16 = 0x0206;
/// From here on the header says where the payload lies.
const PAYLOAD: u16 = 0x0208;
/// From here on the header says where the kernel wants to run and how much memory that takes.
const PREFERRED: u16 = 0x020a;
/// From here on the header says whether there is a 64-bit entry.
const XLOADFLAGS: u16 = 0x020c;
/// `loadflags`: the protected-mode code is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry, [`ENTRY64`] bytes behind the 32-bit one.
const XLF_KERNEL_64: u16 = 1;
const ENTRY64: u64 = 0x200;
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
    /// The compressed kernel, if its format is one that is decompressed here.
    pub(crate) payload: Option<Payload>,
    as_is: Fields,
}

/// The compressed kernel in a bzImage.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pub(crate) format: Format,
    /// Where the payload lies in the file, size trailer included.
    pub(crate) range: Range<u64>,
    /// Bytes of the kernel, decompressed, as the payload's trailer says.
    pub(crate) decompressed: u64,
}

/// A bzImage's protected-mode part, to be loaded whole and entered where its header says.
#[derive(Debug, Clone)]
pub(crate) struct AsIs {
    pub(crate) segment: Segment,
    pub(crate) entry64: Option<u64>,
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
        fields.needs_no_bios(source.name())?;
        let payload = match fields.payload(source)? {
            Some((range, format)) => Some(Payload::measure(source, range, format)?),
            None => None,
        };
        // The byte at 0x201 is the operand of a jump over the header: it says how long it is.
        let end = MAGIC + usize::from(u8_at(&front, 0x201).unwrap_or_default());
        let header = front.get(HEADER..end.min(front.len())).unwrap_or_default();
        let this = Self {
            protocol: fields.protocol,
            header: header.to_vec(),
            command_line_limit: fields.command_line_limit,
            initrd_limit: fields.initrd_limit,
            payload,
            as_is: fields,
        };
        if this.payload.is_none() {
            this.as_is(source)?;
        }
        Ok(this)
    }

    /// What to load, and where, to enter this kernel by its own decompressor.
    ///
    /// A kernel that is not relocatable runs at its preferred address and nowhere else; one that is
    /// moves itself up to that address if it is loaded below. So the preferred address is right for
    /// both.
    pub(crate) fn as_is(&self, source: &Source) -> Result<AsIs, BootError> {
        let fields = &self.as_is;
        let offset = fields.setup_bytes();
        let there = source.bytes().saturating_sub(offset);
        // In units of 16 bytes, the last of which need not be whole.
        let said = u64::from(fields.paragraphs) * 16;
        let least = offset + said.saturating_sub(15).max(1);
        if source.bytes() < least {
            return Err(cut(source, "the protected-mode kernel", least));
        }
        let file_bytes = if said == 0 { there } else { there.min(said) };
        let knows = self.protocol >= PREFERRED;
        let preferred = if knows { fields.preferred } else { FIRST_MIB };
        let address = fields.aligned(source.name(), preferred)?;
        let bytes = if knows {
            file_bytes.max(fields.init_bytes.into())
        } else {
            file_bytes
        };
        // Linux' 64-bit entry wants to find itself mapped; what is mapped for it ends at 4 GiB.
        if address >= RamLayout::HOLE_START {
            return Err(BootError::Malformed {
                name: source.name().to_owned(),
                offset: 0x258,
                what: format!("a preferred address of {address:#x}, right is below 3 GiB"),
            });
        }
        let long = self.protocol >= XLOADFLAGS && fields.xloadflags & XLF_KERNEL_64 != 0;
        Ok(AsIs {
            segment: Segment {
                offset,
                file_bytes,
                address,
                bytes,
            },
            entry64: long.then_some(address + ENTRY64),
        })
    }
}

impl Payload {
    fn measure(source: &Source, range: Range<u64>, format: Format) -> Result<Self, BootError> {
        let decompressed = match format {
            Format::Raw => range.end - range.start,
            Format::Gzip | Format::Lz4 | Format::Xz | Format::Zstd => trailer(source, range.end)?,
        };
        if decompressed > DECOMPRESSED_LIMIT {
            return Err(BootError::Payload {
                name: source.name().to_owned(),
                format: format.name(),
                reason: format!(
                    "its trailer at byte {:#x} says {decompressed} bytes, at most \
                     {DECOMPRESSED_LIMIT} are accepted",
                    range.end - 4
                ),
            });
        }
        Ok(Self {
            format,
            range,
            decompressed,
        })
    }
}

impl AsIs {
    /// The ways into the kernel, the preferred one first.
    pub(crate) fn ways(&self) -> Vec<(Protocol, u64)> {
        let mut ways = Vec::new();
        ways.extend(self.entry64.map(|entry| (Protocol::Linux64, entry)));
        ways.push((Protocol::Linux32, self.segment.address));
        ways
    }
}

#[derive(Debug, Clone)]
struct Fields {
    protocol: u16,
    setup_sectors: u8,
    paragraphs: u32,
    loadflags: u8,
    command_line_limit: u32,
    initrd_limit: u32,
    alignment: u32,
    relocatable: u8,
    xloadflags: u16,
    payload_offset: u32,
    payload_bytes: u32,
    preferred: u64,
    init_bytes: u32,
}

impl Fields {
    fn parse(front: &[u8]) -> Option<Self> {
        let setup_sectors = match u8_at(front, 0x1f1)? {
            0 => 4,
            sectors => sectors,
        };
        Some(Self {
            protocol: u16_at(front, 0x206)?,
            setup_sectors,
            paragraphs: u32_at(front, 0x1f4)?,
            loadflags: u8_at(front, 0x211)?,
            command_line_limit: u32_at(front, 0x238)?,
            initrd_limit: u32_at(front, 0x22c)?,
            alignment: u32_at(front, 0x230)?,
            relocatable: u8_at(front, 0x234)?,
            xloadflags: u16_at(front, 0x236)?,
            payload_offset: u32_at(front, 0x248)?,
            payload_bytes: u32_at(front, 0x24c)?,
            preferred: u64_at(front, 0x258)?,
            init_bytes: u32_at(front, 0x260)?,
        })
    }

    /// Bytes of the boot sector and the real-mode code in front of the kernel.
    fn setup_bytes(&self) -> u64 {
        (u64::from(self.setup_sectors) + 1) * SECTOR
    }

    /// That the kernel can be entered in protected mode.
    fn needs_no_bios(&self, name: &str) -> Result<(), BootError> {
        let refuse = |what, instead| {
            Err(BootError::Unsupported {
                name: name.to_owned(),
                what,
                instead,
            })
        };
        if self.protocol < OLDEST {
            let (major, minor) = (self.protocol >> 8, self.protocol & 0xff);
            return refuse(
                format!(
                    "a kernel of boot protocol {major}.{minor:02}, which needs its real-mode \
                     set-up code and BIOS services"
                ),
                "there is no BIOS here; give a kernel of protocol 2.06 (Linux 2.6.22) or later",
            );
        }
        if self.loadflags & LOADED_HIGH == 0 {
            return refuse(
                "a zImage, which its real-mode set-up code moves into place with BIOS services"
                    .into(),
                "there is no BIOS here; build it as a bzImage",
            );
        }
        Ok(())
    }

    /// Where the payload lies and how it is compressed, if the header and its first bytes tell.
    fn payload(&self, source: &Source) -> Result<Option<(Range<u64>, Format)>, BootError> {
        if self.protocol < PAYLOAD || self.payload_bytes == 0 {
            return Ok(None);
        }
        let start = self.setup_bytes() + u64::from(self.payload_offset);
        let end = start + u64::from(self.payload_bytes);
        if end > source.bytes() {
            return Err(cut(source, "the compressed kernel", end));
        }
        if self.payload_bytes < 16 {
            return Err(BootError::Malformed {
                name: source.name().to_owned(),
                offset: 0x24c,
                what: format!("a compressed kernel of {} bytes", self.payload_bytes),
            });
        }
        let format = Format::detect(&source.read(start, 6)?);
        Ok(format.map(|format| (start..end, format)))
    }

    /// The address at which a kernel that prefers `preferred` runs.
    fn aligned(&self, name: &str, preferred: u64) -> Result<u64, BootError> {
        let preferred = preferred.max(FIRST_MIB);
        if self.relocatable == 0 {
            return Ok(preferred);
        }
        if !self.alignment.is_power_of_two() {
            return Err(BootError::Malformed {
                name: name.to_owned(),
                offset: 0x230,
                what: format!(
                    "an alignment of {:#x}, right is a power of two",
                    self.alignment
                ),
            });
        }
        Ok(preferred
            .checked_next_multiple_of(self.alignment.into())
            .unwrap_or(u64::MAX))
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
