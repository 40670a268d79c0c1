// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The zero page, which tells Linux what it got at its 64-bit entry.
//!
//! Offsets: Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`.

use crate::handover::Handover;
use crate::map::{ACPI, COMMAND_LINE};

const BYTES: usize = 4096;
const ACPI_RSDP: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER: usize = 0x210;
const INITRD_ADDRESS: usize = 0x218;
const INITRD_BYTES: usize = 0x21c;
const COMMAND_LINE_ADDRESS: usize = 0x228;
const COMMAND_LINE_BYTES: usize = 0x238;
const E820: usize = 0x2d0;
const E820_ENTRY: usize = 20;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// The zero page. `header` is a bzImage's setup header, or empty.
pub(crate) fn zero_page(handover: &Handover<'_>, header: &[u8]) -> Vec<u8> {
    let mut page = vec![0; BYTES];
    if header.is_empty() {
        put(&mut page, BOOT_FLAG, &0xaa55_u16.to_le_bytes());
        put(&mut page, HEADER_MAGIC, b"HdrS");
        put(&mut page, VERSION, &0x020f_u16.to_le_bytes());
    } else {
        // Up to the memory map, which begins where the longest header ends.
        put(
            &mut page,
            SETUP_HEADER,
            header.get(..E820 - SETUP_HEADER).unwrap_or(header),
        );
    }
    put(&mut page, LOADER, &[LOADER_UNDEFINED]);
    put(&mut page, ACPI_RSDP, &ACPI.to_le_bytes());
    put(&mut page, COMMAND_LINE_ADDRESS, &narrow(COMMAND_LINE));
    put(
        &mut page,
        COMMAND_LINE_BYTES,
        &narrow(handover.command_line.len() as u64),
    );
    // Both lie below 4 GiB: an initrd goes below the hole.
    let (address, bytes) = handover.initrd.unwrap_or_default();
    put(&mut page, INITRD_ADDRESS, &narrow(address));
    put(&mut page, INITRD_BYTES, &narrow(bytes));
    put(
        &mut page,
        E820_ENTRIES,
        &[u8::try_from(handover.map.len()).unwrap_or(u8::MAX)],
    );
    for (number, range) in handover.map.iter().enumerate() {
        let at = E820 + number * E820_ENTRY;
        put(&mut page, at, &range.address.to_le_bytes());
        put(&mut page, at + 8, &range.bytes.to_le_bytes());
        put(&mut page, at + 16, &range.kind.number().to_le_bytes());
    }
    page
}

fn narrow(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = page.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}
