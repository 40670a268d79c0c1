// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Multiboot, version 1: the header by which a kernel says that it wants to be entered so, and the
//! information structure that it is given (Multiboot Specification 0.6.96).

use crate::handover::Handover;
use crate::le::{index, u32_at};
use crate::map::{ACPI, COMMAND_LINE, EBDA, FIRST_MIB, RangeKind, START_INFO, START_INFO_BYTES};
use crate::segment::{Raw, Segment};
use crate::source::Source;
use crate::{BootError, Protocol};

/// The header lies whole in this many bytes from the front (3.1.1).
pub(crate) const FRONT: u64 = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// In EAX at the entry (3.2).
pub(crate) const LOADER_MAGIC: u32 = 0x2bad_b002;
const HEADER_BYTES: usize = 12;
/// The low half of the flags are requirements; the first two are met: modules on page boundaries,
/// and a memory map.
const REQUIREMENTS: u32 = 0xffff;
const MET: u32 = 3;
const VIDEO: u32 = 1 << 2;
/// The header holds addresses, to be used instead of those of the file's format.
const ADDRESSES: u32 = 1 << 16;

const INFO_BYTES: u64 = 120;
const MODULE_BYTES: u64 = 16;
const MAP_ENTRY_BYTES: u64 = 24;
/// Flags of the information structure (3.3): memory, command line, modules, memory map, loader name.
const INFO_FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
const LOADER_NAME: &[u8] = b"vm-boot\0";
const KIB: u64 = 1024;

/// A kernel's multiboot header and where it lies in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    offset: u64,
    flags: u32,
    /// Header, load, end of load, end of bss, entry; zeros where the flags do not announce them.
    addresses: [u32; 5],
}

impl Header {
    /// The first header in these first bytes of a file.
    pub(crate) fn find(front: &[u8]) -> Option<Self> {
        let front = front.get(..index(FRONT)).unwrap_or(front);
        (0..front.len()).step_by(4).find_map(|at| {
            let flags = u32_at(front, at + 4)?;
            let sum = MAGIC
                .wrapping_add(flags)
                .wrapping_add(u32_at(front, at + 8)?);
            if u32_at(front, at)? != MAGIC || sum != 0 {
                return None;
            }
            let mut addresses = [0; 5];
            if flags & ADDRESSES != 0 {
                for (number, address) in addresses.iter_mut().enumerate() {
                    *address = u32_at(front, at + HEADER_BYTES + number * 4)?;
                }
            }
            Some(Self {
                offset: at as u64,
                flags,
                addresses,
            })
        })
    }

    /// That everything the kernel requires is there.
    pub(crate) fn check(&self, name: &str) -> Result<(), BootError> {
        let unmet = self.flags & REQUIREMENTS & !MET;
        if unmet == 0 {
            return Ok(());
        }
        let (what, instead) = if unmet & VIDEO != 0 {
            (
                "a multiboot kernel that requires a video mode".into(),
                "there is no display here; build it without header flag 2",
            )
        } else {
            (
                format!("a multiboot kernel that requires header flags {unmet:#x}"),
                "version 1 of multiboot has flags 0, 1 and 2; build it without the others",
            )
        };
        Err(BootError::Unsupported {
            name: name.to_owned(),
            what,
            instead,
        })
    }

    /// What to load and where to enter, if the header itself says so (3.1.3).
    pub(crate) fn raw(&self, source: &Source) -> Result<Option<Raw>, BootError> {
        if self.flags & ADDRESSES == 0 {
            return Ok(None);
        }
        let [header, load, load_end, bss_end, entry] = self.addresses.map(u64::from);
        let damaged = |what: String| BootError::Malformed {
            name: source.name().to_owned(),
            offset: self.offset,
            what,
        };
        let offset = header
            .checked_sub(load)
            .and_then(|before| self.offset.checked_sub(before))
            .ok_or_else(|| {
                damaged(format!(
                    "a multiboot header at address {header:#x} and a load address of {load:#x}, \
                     which is before the file"
                ))
            })?;
        let file_bytes = match load_end {
            0 => Some(source.bytes().saturating_sub(offset)),
            end => end.checked_sub(load),
        };
        let bytes = match bss_end {
            0 => file_bytes,
            end => end.checked_sub(load),
        };
        let (Some(file_bytes), Some(bytes)) = (file_bytes, bytes) else {
            return Err(damaged(format!(
                "a multiboot image from {load:#x} that ends at {load_end:#x}, with zeros up to \
                 {bss_end:#x}"
            )));
        };
        if bytes < file_bytes || !(load..load + bytes).contains(&entry) {
            return Err(damaged(format!(
                "a multiboot image of {file_bytes} bytes, {bytes} in memory, at {load:#x}, with \
                 its entry at {entry:#x}"
            )));
        }
        let segment = Segment {
            offset,
            file_bytes,
            address: load,
            bytes,
        };
        segment.in_file(source)?;
        Ok(Some(Raw {
            segment,
            protocol: Protocol::Multiboot,
            entry,
        }))
    }
}

/// The information structure and what it points at, to be written at [`START_INFO`].
pub(crate) fn info(handover: &Handover<'_>) -> Result<Vec<u8>, BootError> {
    let modules = &handover.modules;
    let map = START_INFO + INFO_BYTES;
    let map_bytes = handover.map.len() as u64 * MAP_ENTRY_BYTES;
    let list = map + map_bytes;
    let loader = list + modules.len() as u64 * MODULE_BYTES;
    let strings = loader + LOADER_NAME.len() as u64;
    let mut out = vec![0; index(INFO_BYTES)];
    let fields = [
        (0, u64::from(INFO_FLAGS)),
        (4, EBDA / KIB),
        (8, upper_memory(handover) / KIB),
        (16, COMMAND_LINE),
        (20, modules.len() as u64),
        (24, list),
        (44, map_bytes),
        (48, map),
        (64, loader),
    ];
    for (at, value) in fields {
        if let Some(to) = out.get_mut(at..at + 4) {
            to.copy_from_slice(&narrow(value));
        }
    }
    for range in handover.map {
        // The size does not count itself.
        out.extend(narrow(MAP_ENTRY_BYTES - 4));
        out.extend(range.address.to_le_bytes());
        out.extend(range.bytes.to_le_bytes());
        out.extend(range.kind.number().to_le_bytes());
    }
    let mut string = strings;
    for module in modules {
        for value in [module.address, module.address + module.bytes, string, 0] {
            out.extend(narrow(value));
        }
        string += module.string.len() as u64 + 1;
    }
    out.extend(LOADER_NAME);
    for module in modules {
        out.extend(module.string.as_bytes());
        out.push(0);
    }
    if out.len() > START_INFO_BYTES {
        return Err(BootError::Modules {
            modules: modules.len(),
            bytes: out.len(),
            limit: START_INFO_BYTES,
        });
    }
    Ok(out)
}

/// Bytes from 1 MiB to the first hole above it.
fn upper_memory(handover: &Handover<'_>) -> u64 {
    let mut map = handover.map.iter();
    map.find(|range| range.address == FIRST_MIB && range.kind == RangeKind::Ram)
        .map_or(0, |range| range.bytes)
}

/// Addresses below 4 GiB, as everything here is.
fn narrow(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

const _: () = assert!(START_INFO + START_INFO_BYTES as u64 <= ACPI);
