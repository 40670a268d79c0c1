// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary flags and addresses in a multiboot header, alone and at the front of an ELF kernel: an
//! error or an entry inside memory, never a panic.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vm_boot::{Boot, Image, Initrd};
use vm_cpu::RamLayout;
use vmm_fuzz::Memory;

/// The least there can be, which is much to clear behind a kernel as it is.
const LAYOUT: RamLayout = RamLayout { bytes: Boot::MIN_MEMORY };
const MAGIC: u32 = 0x1bad_b002;

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(LAYOUT.bytes));

fuzz_target!(|input: (u32, [u32; 5], &[u8], &[u8])| {
    let (flags, addresses, before, after) = input;
    let mut file = before.to_vec();
    file.resize(before.len().next_multiple_of(4), 0);
    let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    for word in [MAGIC, flags, sum].into_iter().chain(addresses) {
        file.extend(word.to_le_bytes());
    }
    file.extend(after);
    let Ok(image) = Image::from_bytes("fuzz", file) else { return };
    let module = Initrd::from_bytes("module", vec![1; 100]).expect("not empty");
    let Ok(boot) = Boot::new(image, [module], "", 1) else { return };
    let ram = MEMORY.fresh();
    if let Ok(start) = boot.load(&ram, LAYOUT) {
        assert!((1 << 20..LAYOUT.bytes).contains(&start.gprs.rip));
    }
});
