// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The words of the BIOS data area that guests without a BIOS still read: where low memory ends.
//!
//! Linux places its real-mode trampoline by them, and looks for tables in the area they name
//! (`arch/x86/kernel/ebda.c`); operating systems that are entered by multiboot do the same.

use crate::map::EBDA;

/// Segment of the extended BIOS data area.
const EBDA_SEGMENT: u64 = 0x40e;
/// Low memory in KiB, up to the extended BIOS data area.
const BASE_MEMORY: u64 = 0x413;

/// Guest addresses and what they hold. The area itself begins with its length in KiB.
pub(crate) const WORDS: [(u64, [u8; 2]); 3] = [
    (EBDA_SEGMENT, word(EBDA >> 4)),
    (BASE_MEMORY, word(EBDA >> 10)),
    (EBDA, word(1)),
];

const fn word(value: u64) -> [u8; 2] {
    let bytes = value.to_le_bytes();
    assert!(value >> 16 == 0, "a word of 16 bits");
    [bytes[0], bytes[1]]
}
