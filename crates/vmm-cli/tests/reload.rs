// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest that ruins its kernel, its ACPI tables and the BIOS data area before every reset finds all
//! of them as they were. One printed line where KVM does not open.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod flat_guest;
mod needs_kvm;

use flat_guest::{FLAT, run};
use needs_kvm::kvm;

/// What an event of a reset has in it.
const RESETTING: &str = r#""new":"RESETTING""#;
const ADDRESS: u32 = flat_guest::ADDRESS;
/// Where the guest keeps what survives a reset: memory that belongs to no image.
const KEPT: u32 = 0x30_0000;
const MARKER: u32 = 0x1234_5678;
/// What the guest says when all was whole three times, and what it says of what was not.
const WHOLE: i32 = 3;
const TABLES: u8 = 1;
const KERNEL: u8 = 2;
const BIOS_DATA: u8 = 4;

/// The guest, 32-bit code to be entered at `entry`; the marker is its last four bytes.
fn guest(entry: u32) -> Vec<u8> {
    // Two passes, because the marker's address follows from the code's length.
    let length = u32::try_from(code(entry, 0).len()).unwrap();
    let mut bytes = code(entry, entry + length);
    bytes.extend(MARKER.to_le_bytes());
    bytes
}

fn code(entry: u32, marker: u32) -> Vec<u8> {
    let [entry, marker, kept, word] = [entry, marker, KEPT, MARKER].map(u32::to_le_bytes);
    let parts: [&[u8]; 24] = [
        // The sum of the first 1 KiB of the tables, in EBX.
        &[
            0xbe, 0, 0, 0x0e, 0, 0xb9, 0, 4, 0, 0, 0x31, 0xdb, 0x31, 0xc0,
        ],
        &[0xac, 0x01, 0xc3, 0xe2, 0xfb],
        // Count this boot; the first one keeps the sum.
        &[0xbf],
        &kept,
        &[0xff, 0x07, 0x83, 0x3f, 1, 0x75, 3, 0x89, 0x5f, 4],
        // cmp [edi + 4], ebx; jne to "say AL"
        &[0xb0, TABLES, 0x39, 0x5f, 4, 0x75, 83],
        // cmp dword [marker], MARKER
        &[0xb0, KERNEL, 0x81, 0x3d],
        &marker,
        &word,
        &[0x75, 69],
        // cmp word [0x413], 639
        &[0xb0, BIOS_DATA, 0x66, 0x81, 0x3d, 0x13, 4, 0, 0, 0x7f, 2],
        &[0x75, 56],
        // The third boot says that all was whole.
        &[0xb0, 3, 0x83, 0x3f, 3, 0x74, 49],
        // Ruin the marker, the word, 4 KiB of tables, the code at the entry.
        &[0x31, 0xc0, 0xa3],
        &marker,
        &[0xa3, 0x13, 4, 0, 0],
        &[0xbf, 0, 0, 0x0e, 0, 0xb9, 0, 0x10, 0, 0, 0xf3, 0xaa],
        &[0xc7, 0x05],
        &entry,
        &[0xf4, 0xf4, 0xf4, 0xf4],
        // The reset register, then wait for it.
        &[0x66, 0xba, 2, 6, 0xb0, 1, 0xee],
        &[0xf4, 0xeb, 0xfd],
        &[0x90; 5],
        // Say AL.
        &[0xe6, 0xf4, 0xf4],
    ];
    parts.concat()
}

/// The same behind a multiboot header with addresses: header, load, end of load and bss, entry.
fn multiboot() -> Vec<u8> {
    const FLAGS: u32 = 1 << 16;
    const MAGIC: u32 = 0x1bad_b002;
    let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let words = [MAGIC, FLAGS, sum, ADDRESS, ADDRESS, 0, 0, ADDRESS + 32];
    let mut image: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    image.extend(guest(ADDRESS + 32));
    image
}

/// The guest's word, and how often the VM was reset.
fn resets(image: &[u8], form: &[&str]) -> (i32, usize) {
    let (word, events) = run(image, form);
    (word, events.matches(RESETTING).count())
}

#[test]
fn a_flat_kernel_and_its_tables_are_whole_after_each_reset() {
    if kvm() {
        assert_eq!(resets(&guest(ADDRESS), &FLAT), (WHOLE, 2));
    }
}

#[test]
fn a_multiboot_kernel_and_its_tables_are_whole_after_each_reset() {
    if kvm() {
        assert_eq!(resets(&multiboot(), &[]), (WHOLE, 2));
    }
}

#[test]
fn the_guest_would_see_a_kernel_that_is_not_whole() {
    if kvm() {
        let mut damaged = guest(ADDRESS);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(resets(&damaged, &FLAT), (KERNEL.into(), 0));
    }
}
