// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is in guest memory after a load.

use std::io::Write;

use lzma_rust2::{FilterConfig, FilterType, XzOptions, XzWriter};
use vm_boot::{Boot, BootError, Image, Initrd, Protocol};
use vm_cpu::x86::Start;

use crate::compressed::{GZIP, LZ4, XZ, XZ_WIDE, ZSTD, ZSTD_WIDE};
use crate::fixture::{
    DATA, DATA_MEMORY, Elf, MIB, TEXT, boot, bzimage, hex, layout, read, text, used_ram,
    with_trailer,
};

/// Loads into memory full of a former guest's bytes, and compares kernel and zeros.
fn load_and_compare(image: Image) -> Start {
    let layout = layout(4 * MIB);
    let ram = used_ram(layout);
    let start = boot(image).load(&ram, layout).expect("it loads");
    assert_eq!(read(&ram, TEXT, text().len()), text());
    let mut data = b"data".repeat(100);
    data.resize(usize::try_from(DATA_MEMORY).expect("small"), 0);
    assert_eq!(read(&ram, DATA, data.len()), data);
    // What belongs to no segment is left alone.
    assert_eq!(read(&ram, DATA + DATA_MEMORY, 16), [0xa5; 16]);
    start
}

fn packed(payload: &[u8]) -> Image {
    Image::from_bytes("vmlinuz", bzimage(payload)).expect("a bzImage")
}

/// Why this payload does not load.
fn broken(payload: &[u8]) -> String {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    match boot(packed(payload)).load(&ram, layout) {
        Err(BootError::Payload { reason, .. }) => reason,
        other => panic!("expected a broken payload, found {other:?}"),
    }
}

#[test]
fn elf_kernels_load_from_memory_and_from_a_file() {
    load_and_compare(Elf::tiny().image());
    load_and_compare(Elf::linux().image());
    let mut file = tempfile::NamedTempFile::new().expect("a scratch file");
    file.write_all(&Elf::linux().bytes()).expect("writable");
    load_and_compare(Image::open(file.path()).expect("a kernel"));
}

#[test]
fn a_segment_of_many_pages_at_an_odd_offset_loads_from_a_file() {
    let mut elf = Elf::linux();
    let pattern: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    elf.segments[0].data.extend_from_slice(&pattern);
    elf.segments[0].memory += pattern.len() as u64;
    let mut file = tempfile::NamedTempFile::new().expect("a scratch file");
    file.write_all(&elf.bytes()).expect("writable");
    let layout = layout(4 * MIB);
    let ram = used_ram(layout);
    boot(Image::open(file.path()).expect("a kernel"))
        .load(&ram, layout)
        .expect("it loads");
    assert_eq!(read(&ram, TEXT, text().len()), text());
    assert_eq!(
        read(&ram, TEXT + text().len() as u64, pattern.len()),
        pattern
    );
}

#[test]
fn a_second_load_restores_what_the_guest_overwrote() {
    let layout = layout(4 * MIB);
    let boot = boot(Elf::linux().image());
    let ram = used_ram(layout);
    let first = boot.load(&ram, layout).expect("it loads");
    let before = read(&ram, 0, 3 << 20);
    let other = used_ram(layout);
    boot.load(&other, layout).expect("it loads");
    assert_eq!(boot.load(&ram, layout).expect("it loads again"), first);
    assert_eq!(read(&ram, 0, 3 << 20), before);
    assert_eq!(read(&other, 0, 3 << 20), before);
}

#[test]
fn payloads_of_the_programs_that_build_kernels_load() {
    let size = Elf::linux().bytes().len();
    for (name, payload) in [
        ("gzip", hex(GZIP)),
        ("xz", with_trailer(hex(XZ), size)),
        ("zstd", with_trailer(hex(ZSTD), size)),
        ("lz4", with_trailer(hex(LZ4), size)),
    ] {
        let image = packed(&payload);
        assert!(image.describe().contains(name), "{}", image.describe());
        let start = load_and_compare(image);
        assert_eq!(
            start.gprs.rip, 0x10_0080,
            "the PVH note is found in the stream"
        );
    }
}

#[test]
fn a_payload_in_a_file_loads() {
    let mut file = tempfile::NamedTempFile::new().expect("a scratch file");
    let payload = with_trailer(hex(LZ4), Elf::linux().bytes().len());
    file.write_all(&bzimage(&payload)).expect("writable");
    load_and_compare(Image::open(file.path()).expect("a kernel"));
}

#[test]
fn an_uncompressed_payload_loads() {
    load_and_compare(packed(&with_trailer(Elf::linux().bytes(), 1)));
    load_and_compare(packed(&Elf::linux().bytes()));
}

#[test]
fn a_payload_of_several_lz4_blocks_loads() {
    let mut elf = Elf::linux();
    elf.segments[0].data.resize(100_000, 0xc3);
    elf.segments[0].memory = 100_000;
    let whole = elf.bytes();
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    for block in whole.chunks(7777) {
        let block = lz4_flex::block::compress(block);
        payload.extend(u32::try_from(block.len()).expect("small").to_le_bytes());
        payload.extend(block);
    }
    load_and_compare(packed(&with_trailer(payload, whole.len())));
}

#[test]
fn an_xz_payload_with_an_x86_filter_in_front_loads() {
    let whole = Elf::linux().bytes();
    let mut options = XzOptions::with_preset(6);
    let filter = FilterConfig {
        filter_type: FilterType::BcjX86,
        property: 0,
    };
    options.filters.push(filter);
    let mut writer = XzWriter::new(Vec::new(), options).expect("valid options");
    writer.write_all(&whole).expect("into memory");
    let payload = writer.finish().expect("into memory");
    load_and_compare(packed(&with_trailer(payload, whole.len())));
}

#[test]
fn a_payload_whose_trailer_lies_is_refused() {
    let size = Elf::linux().bytes().len();
    for payload in [hex(XZ), hex(ZSTD), hex(LZ4)] {
        let reason = broken(&with_trailer(payload.clone(), size - 1));
        assert!(reason.contains("goes on after the 1471 bytes"), "{reason}");
        let reason = broken(&with_trailer(payload, size + 1));
        assert!(
            reason.contains("ends at byte 1472, its trailer says 1473"),
            "{reason}"
        );
    }
}

#[test]
fn a_payload_that_claims_more_than_the_limit_is_refused_when_opened() {
    let payload = with_trailer(hex(XZ), (512 << 20) + 1);
    let error = Image::from_bytes("vmlinuz", bzimage(&payload)).expect_err("too large");
    assert!(
        matches!(error, BootError::Payload { format: "xz", .. }),
        "{error}"
    );
}

#[test]
fn a_decoder_that_would_want_too_much_memory_is_refused() {
    let reason = broken(&with_trailer(hex(XZ_WIDE), 3));
    assert!(reason.contains("mem_limit"), "{reason}");
    let reason = broken(&with_trailer(hex(ZSTD_WIDE), 3));
    assert!(reason.to_lowercase().contains("window"), "{reason}");
}

#[test]
fn every_flipped_byte_of_a_checked_payload_is_noticed() {
    let size = Elf::linux().bytes().len();
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    for at in 6..hex(XZ).len() {
        let mut payload = with_trailer(hex(XZ), size);
        payload[at] ^= 0x10;
        let loaded = boot(packed(&payload)).load(&ram, layout);
        assert!(loaded.is_err(), "byte {at} may be anything");
    }
}

#[test]
fn every_truncation_of_a_bzimage_is_refused() {
    let size = Elf::linux().bytes().len();
    let whole = bzimage(&with_trailer(hex(ZSTD), size));
    for length in 0..whole.len() {
        let image = Image::from_bytes("vmlinuz", whole[..length].to_vec());
        assert!(
            image.is_err(),
            "{length} of {} bytes were accepted",
            whole.len()
        );
    }
}

#[test]
fn every_truncation_of_a_payload_is_refused() {
    let size = Elf::linux().bytes().len();
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    // Without gzip's last four bytes, which are its size trailer.
    let gzip = hex(GZIP)[..hex(GZIP).len() - 4].to_vec();
    for payload in [hex(XZ), hex(ZSTD), hex(LZ4), gzip] {
        for length in 16..payload.len() {
            let payload = with_trailer(payload[..length].to_vec(), size);
            let loaded = boot(packed(&payload)).load(&ram, layout);
            assert!(loaded.is_err(), "{length} bytes were accepted");
        }
    }
}

#[test]
fn a_32_bit_kernel_in_a_bzimage_without_a_note_is_entered_as_is() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let image = packed(&Elf::tiny().without_note().bytes());
    let start = boot(image).load(&ram, layout).expect("it loads");
    assert_eq!((start.gprs.rip, start.system.cr0 & 1), (2 * MIB, 1));
    assert_eq!(read(&ram, 2 * MIB, 0x20), [0xcc; 0x20]);
}

#[test]
fn an_initrd_lies_at_the_top_of_low_memory() {
    let layout = layout(8 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let initrd = Initrd::from_bytes("initrd", b"initial".repeat(1000)).expect("not empty");
    assert_eq!(initrd.bytes(), 7000);
    let boot = Boot::new(Elf::linux().image(), Some(initrd), "", 1)
        .expect("a boot")
        .with_protocol(Protocol::Pvh);
    boot.load(&ram, layout).expect("it loads");
    assert_eq!(read(&ram, 8 * MIB - 8192, 7000), b"initial".repeat(1000));
}
