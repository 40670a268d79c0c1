// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest-physical memory map: where the boot tables lie in the first MiB, and what the guest
//! is told about memory.

use vm_cpu::RamLayout;

/// The global descriptor table.
pub(crate) const GDT: u64 = 0x1000;
/// `hvm_start_info`, its module list and its memory map.
pub(crate) const START_INFO: u64 = 0x2000;
/// Bytes at [`START_INFO`], up to the zero page. A multiboot kernel's information goes there too.
pub(crate) const START_INFO_BYTES: usize = 0x5000;
/// The zero page (`struct boot_params`).
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// The top of a small stack for the 64-bit entry.
pub(crate) const STACK_TOP: u64 = 0x8ff0;
/// Page tables: PML4, PDPT, then four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The command line, up to 64 KiB with its terminator.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes at [`COMMAND_LINE`].
pub(crate) const COMMAND_LINE_BYTES: usize = 0x1_0000;
/// First address of the extended BIOS data area; low memory ends here.
pub(crate) const EBDA: u64 = 0x9_fc00;
/// The ACPI tables, where a BIOS would have the RSDP (ACPI 6.5, 5.2.5.1).
pub(crate) const ACPI: u64 = 0xe_0000;
/// First address past the boot tables and the BIOS area.
pub(crate) const FIRST_MIB: u64 = 0x10_0000;

/// What an address range is, as an e820 type (ACPI 6.5, table 15-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable memory (1).
    Ram,
    /// Not to be used (2).
    Reserved,
    /// ACPI tables, usable once they have been read (3).
    Acpi,
}

impl RangeKind {
    /// The number in e820 and PVH memory maps.
    pub fn number(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::Acpi => 3,
        }
    }
}

/// One range of the memory map that the guest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRange {
    /// First guest address.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// The map for this layout, ascending, with `acpi_bytes` of tables.
pub(crate) fn ranges(layout: RamLayout, acpi_bytes: u64) -> Vec<MapRange> {
    let acpi_end = (ACPI + acpi_bytes).next_multiple_of(4096).min(FIRST_MIB);
    let mut cuts = vec![
        (0, EBDA, RangeKind::Ram),
        (EBDA, ACPI, RangeKind::Reserved),
        (ACPI, acpi_end, RangeKind::Acpi),
        (acpi_end, FIRST_MIB, RangeKind::Reserved),
    ];
    for (start, bytes) in layout.ranges() {
        cuts.push((start.max(FIRST_MIB), start + bytes, RangeKind::Ram));
    }
    cuts.into_iter()
        .filter(|(start, end, _)| start < end)
        .map(|(address, end, kind)| MapRange {
            address,
            bytes: end - address,
            kind,
        })
        .collect()
}
