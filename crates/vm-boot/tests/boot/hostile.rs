// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Outside bytes: whatever they are, the answer is a kernel or an error, never a panic.

use proptest::prelude::*;
use vm_boot::{Boot, Form, Image, Initrd, Protocol};

use crate::compressed::{GZIP, LZ4, XZ, ZSTD};
use crate::fixture::{Elf, MIB, bzimage, hex, layout, with_trailer};

/// Opens, and loads in every way if it opens.
fn try_everything(bytes: &[u8]) {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    for (protocol, form) in [
        (Protocol::Pvh, Form::Auto),
        (Protocol::Linux64, Form::Auto),
        (Protocol::Multiboot, Form::Auto),
        (Protocol::Linux32, Form::AsIs),
        (Protocol::Linux64, Form::AsIs),
    ] {
        let Ok(image) = Image::from_bytes_as("kernel", bytes.to_owned(), form) else {
            continue;
        };
        assert!(!image.describe().is_empty());
        let initrd = Initrd::from_bytes("initrd", vec![1; 100]).expect("not empty");
        let Ok(boot) = Boot::new(image, Some(initrd), "", 1) else {
            continue;
        };
        if let Ok(start) = boot.with_protocol(protocol).load(&ram, layout) {
            assert!(
                (MIB..4 * MIB).contains(&start.gprs.rip),
                "an entry inside the kernel"
            );
        }
    }
}

fn valid() -> impl Strategy<Value = Vec<u8>> {
    let size = Elf::linux().bytes().len();
    prop::sample::select(vec![
        Elf::linux().bytes(),
        Elf::tiny().bytes(),
        bzimage(&hex(GZIP)),
        bzimage(&with_trailer(hex(XZ), size)),
        bzimage(&with_trailer(hex(ZSTD), size)),
        bzimage(&with_trailer(hex(LZ4), size)),
        bzimage(&Elf::linux().bytes()),
        bzimage(b"BZh91AY&SY and more of it"),
        crate::multiboot::elf(3).bytes(),
        crate::multiboot::binary([0x20_0020, 0x20_0000, 0x20_0080, 0x20_0100, 0x20_0004]),
    ])
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        try_everything(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_each_magic_never_panic(
        kernel in valid(),
        tail in prop::collection::vec(any::<u8>(), 0..2000),
        keep in 0_usize..0x290,
    ) {
        let mut bytes = kernel[..keep.min(kernel.len())].to_vec();
        bytes.extend(tail);
        try_everything(&bytes);
    }

    #[test]
    fn damaged_kernels_never_panic(
        kernel in valid(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = kernel;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        try_everything(&bytes);
    }

    #[test]
    fn damaged_payloads_never_panic(
        payload in prop::sample::select(vec![hex(GZIP), hex(XZ), hex(ZSTD), hex(LZ4)]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        size in 0_usize..100_000,
    ) {
        let mut bytes = payload;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        try_everything(&bzimage(&with_trailer(bytes, size)));
    }
}
