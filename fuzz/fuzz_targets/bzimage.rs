// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary bytes as a bzImage and as its payload: an error or an entry inside memory, never a
//! panic, never more memory than a decoder is allowed.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vm_boot::{Boot, Form, Image};
use vm_cpu::RamLayout;
use vmm_fuzz::Memory;

/// The least there can be, which is much to clear behind a kernel as it is.
const LAYOUT: RamLayout = RamLayout { bytes: Boot::MIN_MEMORY };

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(LAYOUT.bytes));

fuzz_target!(|data: &[u8]| {
    let mut whole = data.to_vec();
    for (at, magic) in [(0x1fe, &b"\x55\xaa"[..]), (0x202, &b"HdrS"[..])] {
        for (to, from) in whole.iter_mut().skip(at).zip(magic) {
            *to = *from;
        }
    }
    load(whole);
    load(around(data));
});

/// A valid bzImage around this payload.
fn around(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x24c, &u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
    file.extend_from_slice(payload);
    file
}

fn load(bytes: Vec<u8>) {
    for form in [Form::Auto, Form::AsIs] {
        let Ok(image) = Image::from_bytes_as("fuzz", bytes.clone(), form) else { continue };
        enter(image);
    }
}

fn enter(image: Image) {
    let Ok(boot) = Boot::new(image, None, "", 1) else { return };
    let ram = MEMORY.fresh();
    if let Ok(start) = boot.load(&ram, LAYOUT) {
        assert!((1 << 20..LAYOUT.bytes).contains(&start.gprs.rip));
    }
}
