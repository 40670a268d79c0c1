// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! bzImages that are entered by their own entries, whatever is compressed in them.

use vm_boot::{Boot, BootError, Form, Image, Initrd, Protocol};

use crate::compressed::GZIP;
use crate::fixture::{MIB, boot, bzimage, hex, layout, read, u32_at, used_ram};

/// bzip2, which is not decompressed here.
const UNKNOWN: &[u8] = b"BZh91AY&SY and more of it";
const XLOADFLAGS: usize = 0x236;
const RELOCATABLE: usize = 0x234;
const PREFERRED: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// A bzImage at 1 MiB whose size and 64-bit entry are in its header.
fn whole(payload: &[u8]) -> Vec<u8> {
    let mut file = bzimage(payload);
    let paragraphs = (file.len() - 3 * 512).div_ceil(16);
    put32(&mut file, 0x1f4, u32::try_from(paragraphs).expect("small"));
    put32(&mut file, INIT_SIZE, 0x8000);
    file[XLOADFLAGS] = 1;
    file[RELOCATABLE] = 0;
    file
}

fn put32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn image(file: &[u8]) -> Image {
    Image::from_bytes("vmlinuz", file.to_vec()).expect("a bzImage")
}

#[test]
fn a_bzimage_of_unknown_payload_is_entered_by_its_64_bit_entry() {
    let file = whole(UNKNOWN);
    let described = image(&file).describe();
    assert_eq!(described, "bzImage, boot protocol 2.15, entered as is");
    let (layout, boot) = (layout(4 * MIB), boot(image(&file)));
    let ram = used_ram(layout);
    let start = boot.load(&ram, layout).expect("it loads");
    assert_eq!(start.gprs.rip, MIB + 0x200);
    assert_eq!(start.system.efer & 0x400, 0x400, "long mode");
    let kernel = &file[3 * 512..];
    assert_eq!(read(&ram, MIB, kernel.len()), kernel);
    // The decompressor reads its header in the zero page.
    let page = read(&ram, start.gprs.rsi, 4096);
    assert_eq!(page[0x1f1..0x1fe], file[0x1f1..0x1fe]);
    assert_eq!(u32_at(&page, INIT_SIZE), 0x8000);
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_entered_in_protected_mode() {
    let mut file = whole(UNKNOWN);
    file[XLOADFLAGS] = 0;
    let layout = layout(4 * MIB);
    let ram = used_ram(layout);
    let start = boot(image(&file)).load(&ram, layout).expect("it loads");
    assert_eq!(start.gprs.rip, MIB);
    let system = &start.system;
    assert_eq!((system.cr0 & 0x8000_0001, system.efer), (1, 0));
    assert_eq!((system.cs.selector, system.ds.selector), (0x10, 0x18));
    assert_eq!(system.cs.attributes & 0x6000, 0x4000, "32-bit code");
    let gprs = start.gprs;
    assert_eq!((gprs.rbp, gprs.rdi, gprs.rbx), (0, 0, 0));
    let page = read(&ram, gprs.rsi, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
}

#[test]
fn the_preferred_address_is_used_and_aligned_only_for_a_relocatable_kernel() {
    let layout = layout(16 * MIB);
    let entry = |relocatable: u8, preferred: u32| {
        let mut file = whole(UNKNOWN);
        file[RELOCATABLE] = relocatable;
        put32(&mut file, PREFERRED, preferred);
        let ram = layout.allocate().expect("guest memory");
        let start = boot(image(&file)).load(&ram, layout).expect("it loads");
        assert_eq!(read(&ram, start.gprs.rip - 0x200, 32), [0xcc; 32]);
        start.gprs.rip - 0x200
    };
    assert_eq!(entry(0, 0x31_0000), 0x31_0000);
    assert_eq!(entry(1, 0x31_0000), 0x40_0000);
    assert_eq!(entry(1, 0), 0x20_0000);
}

#[test]
fn before_protocol_2_10_the_kernel_is_loaded_at_one_mib() {
    let mut file = whole(UNKNOWN);
    put32(&mut file, PREFERRED, 0x31_0000);
    for protocol in [0x0206_u16, 0x0207, 0x0209] {
        file[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        let layout = layout(4 * MIB);
        let ram = layout.allocate().expect("guest memory");
        let start = boot(image(&file)).load(&ram, layout).expect("it loads");
        assert_eq!(start.gprs.rip, MIB, "the flag for 64 bits came with 2.12");
    }
}

#[test]
fn a_known_payload_is_left_packed_where_as_is_or_the_32_bit_entry_is_asked_for() {
    let file = whole(&hex(GZIP));
    let layout = layout(4 * MIB);
    let loaded = |boot: &Boot| {
        let ram = layout.allocate().expect("guest memory");
        let start = boot.load(&ram, layout).expect("it loads");
        (start.gprs.rip, read(&ram, MIB, 32))
    };
    let as_is = Image::from_bytes_as("vmlinuz", file.clone(), Form::AsIs).expect("a bzImage");
    assert!(as_is.describe().ends_with("entered as is"));
    assert_eq!(loaded(&boot(as_is)), (MIB + 0x200, vec![0xcc; 32]));
    let narrow = boot(image(&file)).with_protocol(Protocol::Linux32);
    assert_eq!(loaded(&narrow), (MIB, vec![0xcc; 32]));
    let unpacked = loaded(&boot(image(&file)));
    assert_eq!(unpacked.0, 0x10_0080, "by its PVH note");
}

#[test]
fn an_entry_that_the_bzimage_lacks_is_refused() {
    let mut file = whole(UNKNOWN);
    file[XLOADFLAGS] = 0;
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    for protocol in [Protocol::Pvh, Protocol::Linux64] {
        let boot = boot(image(&file)).with_protocol(protocol);
        let error = boot.load(&ram, layout).expect_err("lacks it");
        assert!(matches!(error, BootError::Unsupported { .. }), "{error}");
    }
}

#[test]
fn memory_for_decompression_is_checked_and_kept_free_of_the_initrd() {
    let mut file = whole(UNKNOWN);
    put32(&mut file, INIT_SIZE, 0x30_0000);
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    assert!(boot(image(&file)).load(&ram, layout).is_ok());
    let initrd = Initrd::from_bytes("initrd", vec![1]).expect("not empty");
    let with_initrd = Boot::new(image(&file), Some(initrd), "", 1).expect("a boot");
    let error = with_initrd.load(&ram, layout).expect_err("no room");
    assert!(matches!(error, BootError::InitrdDoesNotFit { room: 0, .. }));
    put32(&mut file, INIT_SIZE, 0x30_0001);
    let error = boot(image(&file)).load(&ram, layout).expect_err("too much");
    assert!(matches!(error, BootError::Segment { minimum_mib: 5, .. }));
}

#[test]
fn header_fields_that_cannot_be_are_refused() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut file = whole(UNKNOWN);
        file[RELOCATABLE] = 1;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Image::from_bytes("vmlinuz", file).expect_err("must be refused")
    };
    let alignment = refused(0x230, &3_u32.to_le_bytes());
    assert!(matches!(
        alignment,
        BootError::Malformed { offset: 0x230, .. }
    ));
    for preferred in [3 << 30, u64::MAX] {
        let far = refused(PREFERRED, &preferred.to_le_bytes());
        assert!(matches!(far, BootError::Malformed { offset: 0x258, .. }));
    }
    let cut = refused(0x1f4, &0x1000_u32.to_le_bytes());
    assert!(matches!(cut, BootError::Truncated { .. }), "{cut}");
}

#[test]
fn the_bios_data_area_says_where_low_memory_ends() {
    let layout = layout(4 * MIB);
    let ram = used_ram(layout);
    boot(image(&whole(UNKNOWN)))
        .load(&ram, layout)
        .expect("it loads");
    let word = |at: u64| u16::from_le_bytes(read(&ram, at, 2).try_into().expect("two bytes"));
    assert_eq!((word(0x40e), word(0x413)), (0x9fc0, 639));
    assert_eq!(word(u64::from(word(0x40e)) << 4), 1, "KiB of the area");
}
