// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary bytes as an ELF kernel: an error or an entry inside memory, never a panic.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vm_boot::{Boot, Image, Protocol};
use vm_cpu::RamLayout;
use vmm_fuzz::Memory;

/// The least there can be, which is much to clear behind a kernel as it is.
const LAYOUT: RamLayout = RamLayout { bytes: Boot::MIN_MEMORY };

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(LAYOUT.bytes));

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    for (to, from) in bytes.iter_mut().zip(b"\x7fELF") {
        *to = *from;
    }
    for protocol in [Protocol::Pvh, Protocol::Multiboot, Protocol::Linux64] {
        let Ok(image) = Image::from_bytes("fuzz", bytes.clone()) else { return };
        let Ok(boot) = Boot::new(image, None, "console=ttyS0", 1) else { return };
        let ram = MEMORY.fresh();
        if let Ok(start) = boot.with_protocol(protocol).load(&ram, LAYOUT) {
            assert!((1 << 20..LAYOUT.bytes).contains(&start.gprs.rip));
        }
    }
});
