// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ELF kernels: what to load where, and where to enter.
//!
//! The program header table must lie in the first 64 KiB, as every linker puts it, so that a
//! compressed kernel can be loaded while it is being decompressed. Fields: System V ABI, edition
//! 4.1, chapters 4 and 5; the PVH note: Xen, `include/public/elfnote.h` and
//! `docs/misc/pvh.pandoc`.

use crate::le::{index, u8_at, u16_at, u32_at, u64_at};
use crate::multiboot::Header;
use crate::protocol::choose;
use crate::segment::Segment;
use crate::{BootError, Protocol};

/// What every ELF file begins with.
pub(crate) const MAGIC: &[u8] = b"\x7fELF";
/// Bytes of the larger (64-bit) file header.
pub(crate) const FILE_HEADER: u64 = 64;
/// Everything before this offset may be held in memory while headers are read.
const HEAD_LIMIT: u64 = 64 << 10;
/// Notes longer than this are not searched: a kernel's are a few hundred bytes.
const NOTE_LIMIT: u64 = 64 << 10;
/// More program headers than any kernel has; bounds the work that a hostile file can cause.
const HEADERS_LIMIT: u16 = 128;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_EXEC: u16 = 2;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// A parsed ELF kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) class: Class,
    pub(crate) entry: u64,
    /// By rising guest address, none overlapping another, none empty, ends checked.
    pub(crate) segments: Vec<Segment>,
    /// Notes as (offset, bytes).
    pub(crate) notes: Vec<(u64, u64)>,
}

/// The file header's fields that matter here.
struct FileHeader {
    class: Class,
    entry: u64,
    table: u64,
    entry_bytes: u16,
    entries: u16,
}

impl Elf {
    /// How many bytes from the front hold all headers.
    pub(crate) fn head_bytes(name: &str, front: &[u8]) -> Result<u64, BootError> {
        let header = FileHeader::parse(name, front)?;
        let table = u64::from(header.entry_bytes) * u64::from(header.entries);
        match header.table.checked_add(table) {
            Some(end) if end <= HEAD_LIMIT => Ok(end.max(FILE_HEADER)),
            _ => Err(damaged(
                name,
                if header.class == Class::Elf64 { 32 } else { 28 },
                format!(
                    "program headers at {:#x}, right is below {HEAD_LIMIT:#x}",
                    header.table
                ),
            )),
        }
    }

    /// Parses `head`, which holds at least [`Elf::head_bytes`].
    pub(crate) fn parse(name: &str, head: &[u8]) -> Result<Self, BootError> {
        let header = FileHeader::parse(name, head)?;
        let (mut segments, mut notes) = (Vec::new(), Vec::new());
        for number in 0..u64::from(header.entries) {
            let at = header.table + number * u64::from(header.entry_bytes);
            let Some((kind, segment)) = program_header(head, index(at), header.class) else {
                return Err(cut(name, at + u64::from(header.entry_bytes), head));
            };
            match kind {
                PT_LOAD => segments.extend(checked(name, at, segment)?),
                PT_NOTE if segment.file_bytes <= NOTE_LIMIT => {
                    notes.push((segment.offset, segment.file_bytes));
                }
                _ => {}
            }
        }
        segments.sort_unstable_by_key(|segment| segment.address);
        for pair in segments.windows(2) {
            if let [low, high] = pair
                && low.address + low.bytes > high.address
            {
                let what = format!("two segments cover guest address {:#x}", high.address);
                return Err(damaged(name, header.table, what));
            }
        }
        if segments.is_empty() {
            return Err(damaged(name, header.table, "no segment to load".into()));
        }
        Ok(Self {
            class: header.class,
            entry: header.entry,
            segments,
            notes,
        })
    }

    /// By which of these ways to enter, and that a segment covers the address.
    pub(crate) fn enter(
        &self,
        name: &str,
        ways: &[(Protocol, u64)],
        wanted: Option<Protocol>,
    ) -> Result<(Protocol, u64), BootError> {
        let (protocol, entry) = choose(name, ways, wanted)?;
        if !self.covers(entry) {
            let what = format!("its entry {entry:#x} is a physical address in no segment");
            return Err(damaged(name, 24, what));
        }
        Ok((protocol, entry))
    }

    /// The ways into the kernel, the preferred one first. The 64-bit entry is Linux'.
    pub(crate) fn ways(&self, pvh: Option<u32>, multiboot: Option<Header>) -> Vec<(Protocol, u64)> {
        let mut ways = Vec::new();
        ways.extend(pvh.map(|entry| (Protocol::Pvh, entry.into())));
        ways.extend(multiboot.map(|_| (Protocol::Multiboot, self.entry)));
        if self.class == Class::Elf64 {
            ways.push((Protocol::Linux64, self.entry));
        }
        ways
    }

    /// First guest address past the kernel.
    pub(crate) fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(0, |segment| segment.address + segment.bytes)
    }

    /// Whether a segment covers this guest address.
    fn covers(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|s| (s.address..s.address + s.bytes).contains(&address))
    }
}

impl FileHeader {
    fn parse(name: &str, front: &[u8]) -> Result<Self, BootError> {
        if !front.starts_with(MAGIC) {
            return Err(damaged(name, 0, "no ELF header where one must be".into()));
        }
        let unsupported = |what: String, instead| {
            Err(BootError::Unsupported {
                name: name.to_owned(),
                what,
                instead,
            })
        };
        let class = match u8_at(front, 4) {
            Some(1) => Class::Elf32,
            Some(2) => Class::Elf64,
            Some(other) => return Err(damaged(name, 4, format!("class {other}, right is 1 or 2"))),
            None => return Err(cut(name, FILE_HEADER, front)),
        };
        let fields = match class {
            Class::Elf64 => fields64(front),
            Class::Elf32 => fields32(front),
        };
        let Some((kind, machine, header)) = fields else {
            return Err(cut(name, FILE_HEADER, front));
        };
        if u8_at(front, 5) != Some(1) {
            return Err(damaged(name, 5, "not little-endian, as x86 is".into()));
        }
        let machine_fits = match class {
            Class::Elf64 => machine == EM_X86_64,
            Class::Elf32 => machine == EM_386 || machine == EM_X86_64,
        };
        if !machine_fits {
            return unsupported(
                format!("an ELF file for machine {machine}"),
                "give a kernel for x86-64 (machine 62)",
            );
        }
        if kind != ET_EXEC {
            return unsupported(
                format!("an ELF file of type {kind}"),
                "give an executable kernel (type 2), linked at its address",
            );
        }
        let at = if class == Class::Elf64 { 54 } else { 42 };
        let least = if class == Class::Elf64 { 56 } else { 32 };
        if header.entries == 0 || header.entries > HEADERS_LIMIT {
            let what = format!(
                "{} program headers, right is 1..{HEADERS_LIMIT}",
                header.entries
            );
            return Err(damaged(name, at + 2, what));
        }
        if header.entry_bytes < least {
            let what = format!(
                "program headers of {} bytes, right is {least}",
                header.entry_bytes
            );
            return Err(damaged(name, at, what));
        }
        Ok(header)
    }
}

fn fields64(front: &[u8]) -> Option<(u16, u16, FileHeader)> {
    let header = FileHeader {
        class: Class::Elf64,
        entry: u64_at(front, 24)?,
        table: u64_at(front, 32)?,
        entry_bytes: u16_at(front, 54)?,
        entries: u16_at(front, 56)?,
    };
    Some((u16_at(front, 16)?, u16_at(front, 18)?, header))
}

fn fields32(front: &[u8]) -> Option<(u16, u16, FileHeader)> {
    let header = FileHeader {
        class: Class::Elf32,
        entry: u32_at(front, 24)?.into(),
        table: u32_at(front, 28)?.into(),
        entry_bytes: u16_at(front, 42)?,
        entries: u16_at(front, 44)?,
    };
    Some((u16_at(front, 16)?, u16_at(front, 18)?, header))
}

fn program_header(head: &[u8], at: usize, class: Class) -> Option<(u32, Segment)> {
    let wide = |offset: usize| u64_at(head, at.checked_add(offset)?);
    let narrow = |offset: usize| Some(u64::from(u32_at(head, at.checked_add(offset)?)?));
    let segment = match class {
        Class::Elf64 => Segment {
            offset: wide(8)?,
            address: wide(24)?,
            file_bytes: wide(32)?,
            bytes: wide(40)?,
        },
        Class::Elf32 => Segment {
            offset: narrow(4)?,
            address: narrow(12)?,
            file_bytes: narrow(16)?,
            bytes: narrow(20)?,
        },
    };
    Some((u32_at(head, at)?, segment))
}

/// A segment whose ends do not wrap, or nothing for an empty one.
fn checked(name: &str, at: u64, segment: Segment) -> Result<Option<Segment>, BootError> {
    let Segment {
        offset,
        file_bytes,
        address,
        bytes,
    } = segment;
    if file_bytes > bytes {
        let what = format!("a segment of {file_bytes} bytes in the file, {bytes} in memory");
        return Err(damaged(name, at, what));
    }
    if address.checked_add(bytes).is_none() || offset.checked_add(file_bytes).is_none() {
        let what = format!("a segment of {bytes} bytes at {address:#x} wraps around");
        return Err(damaged(name, at, what));
    }
    Ok((bytes > 0).then_some(segment))
}

/// The 32-bit entry that a note section's PVH note names.
pub(crate) fn pvh_entry(notes: &[u8]) -> Option<u32> {
    let mut at = 0_usize;
    loop {
        let name_bytes = index(u32_at(notes, at)?.into());
        let desc_bytes = index(u32_at(notes, at.checked_add(4)?)?.into());
        let kind = u32_at(notes, at.checked_add(8)?)?;
        let name = at.checked_add(12)?;
        let desc = name.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let is_xen = notes.get(name..name.checked_add(name_bytes)?)? == b"Xen\0";
        if is_xen && kind == PHYS32_ENTRY && desc_bytes >= 4 {
            return u32_at(notes, desc);
        }
        at = desc.checked_add(desc_bytes.checked_next_multiple_of(4)?)?;
    }
}

fn damaged(name: &str, offset: u64, what: String) -> BootError {
    BootError::Malformed {
        name: name.to_owned(),
        offset,
        what,
    }
}

fn cut(name: &str, needed: u64, have: &[u8]) -> BootError {
    let (name, bytes) = (name.to_owned(), have.len() as u64);
    BootError::Truncated {
        name,
        what: "the ELF header",
        needed,
        bytes,
    }
}
