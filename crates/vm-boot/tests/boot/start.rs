// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state vCPU 0 begins in and the structures it points at, each read back by the rules of its
//! specification.

use vm_boot::{Boot, Initrd, Protocol, RangeKind};
use vm_cpu::x86::{Segment, Start};
use vm_cpu::{GuestRam, RamLayout};

use crate::fixture::{
    Elf, MIB, boot, bzimage, layout, read, u16_at, u32_at, u64_at, used_ram, with_trailer,
};

const LINE: &str = "console=ttyS0 quiet";

fn load(boot: &Boot, layout: RamLayout) -> (Start, GuestRam) {
    let ram = used_ram(layout);
    let start = boot.load(&ram, layout).expect("it loads");
    (start, ram)
}

fn with_initrd(protocol: Protocol) -> Boot {
    let initrd = Initrd::from_bytes("initrd", vec![7; 5000]).expect("not empty");
    Boot::new(Elf::linux().image(), Some(initrd), LINE, 2)
        .expect("a boot")
        .with_protocol(protocol)
}

/// The descriptor that a selector picks, as base, limit and attributes.
fn described(ram: &GuestRam, start: &Start, selector: u16) -> Segment {
    assert!(selector + 7 <= start.system.gdt.limit);
    let entry = u64_at(
        &read(ram, start.system.gdt.base + u64::from(selector), 8),
        0,
    );
    let raw = u32::try_from((entry & 0xffff) | (entry >> 32 & 0xf_0000)).expect("20 bits");
    let attributes = u32::try_from(entry >> 40 & 0xf0ff).expect("16 bits");
    let limit = if attributes & 0x8000 == 0 {
        raw
    } else {
        raw << 12 | 0xfff
    };
    let base = (entry >> 16 & 0xff_ffff) | (entry >> 32 & 0xff00_0000);
    Segment {
        selector,
        base,
        limit,
        attributes,
    }
}

/// Translates an address as the processor does (Intel SDM vol. 3, 4.5), 2 MiB pages only.
fn translated(ram: &GuestRam, start: &Start, address: u64) -> Option<u64> {
    let mut table = start.system.cr3;
    for shift in [39, 30, 21] {
        let entry = u64_at(&read(ram, table + (address >> shift & 0x1ff) * 8, 8), 0);
        if entry & 3 != 3 {
            return None;
        }
        if shift == 21 {
            assert_ne!(entry & 0x80, 0, "a large page");
            return Some((entry & 0xf_ffff_ffe0_0000) + (address & 0x1f_ffff));
        }
        table = entry & 0xf_ffff_ffff_f000;
    }
    None
}

fn string(ram: &GuestRam, address: u64) -> String {
    let bytes = read(ram, address, 100);
    let text = bytes.split(|byte| *byte == 0).next().expect("a first part");
    String::from_utf8(text.to_vec()).expect("ASCII")
}

#[test]
fn pvh_starts_in_protected_mode_with_the_start_info_in_ebx() {
    let (start, ram) = load(&with_initrd(Protocol::Pvh), layout(8 * MIB));
    assert_eq!((start.gprs.rip, start.gprs.rflags), (0x10_0080, 2));
    assert_eq!(
        (
            start.system.cr0 & !0x10,
            start.system.cr4,
            start.system.efer
        ),
        (1, 0, 0)
    );
    let (cs, tr) = (start.system.cs, start.system.tr);
    assert_eq!(
        (cs.base, cs.limit, cs.attributes & 0xe0ff),
        (0, u32::MAX, 0xc09b)
    );
    assert_eq!((tr.base, tr.limit, tr.attributes), (0, 0x67, 0x8b));

    let info = read(&ram, start.gprs.rbx, 56);
    assert_eq!(
        (u32_at(&info, 0), u32_at(&info, 4), u32_at(&info, 8)),
        (0x336e_c578, 1, 0)
    );
    assert_eq!(string(&ram, u64_at(&info, 24)), LINE);
    assert_eq!(read(&ram, u64_at(&info, 32), 8), b"RSD PTR ");
    assert_eq!(u32_at(&info, 12), 1);
    let module = read(&ram, u64_at(&info, 16), 32);
    assert_eq!(
        (u64_at(&module, 0), u64_at(&module, 8)),
        (8 * MIB - 8192, 5000)
    );
    assert_eq!(read(&ram, u64_at(&module, 0), 5000), vec![7; 5000]);

    let count = usize::try_from(u32_at(&info, 48)).expect("small");
    let map = read(&ram, u64_at(&info, 40), 24 * count);
    assert_eq!(u64_at(&map, 0), 0);
    let last = 24 * (count - 1);
    assert_eq!((u64_at(&map, last), u32_at(&map, last + 16)), (MIB, 1));
    assert_eq!(u64_at(&map, last) + u64_at(&map, last + 8), 8 * MIB);
}

#[test]
fn without_an_initrd_there_is_no_module() {
    let (start, ram) = load(&boot(Elf::tiny().image()), layout(8 * MIB));
    let info = read(&ram, start.gprs.rbx, 56);
    assert_eq!((u32_at(&info, 12), u64_at(&info, 16)), (0, 0));
}

#[test]
fn linux64_starts_in_long_mode_with_the_zero_page_in_rsi() {
    let (start, ram) = load(&with_initrd(Protocol::Linux64), layout(8 * MIB));
    assert_eq!((start.gprs.rip, start.gprs.rflags), (0x10_0040, 2));
    let system = &start.system;
    assert_eq!(
        (system.cr0 & 0x8000_0001, system.cr4, system.efer),
        (0x8000_0001, 0x20, 0x500)
    );
    // The boot protocol names these selectors.
    assert_eq!((system.cs.selector, system.ds.selector), (0x10, 0x18));
    assert_eq!(system.cs.attributes & 0x6000, 0x2000, "64-bit code");

    let page = read(&ram, start.gprs.rsi, 4096);
    assert_eq!(
        (u16_at(&page, 0x1fe), &page[0x202..0x206]),
        (0xaa55, &b"HdrS"[..])
    );
    assert_eq!((page[0x210], page[0x1ef]), (0xff, 0));
    assert_eq!(string(&ram, u32_at(&page, 0x228).into()), LINE);
    assert_eq!(read(&ram, u64_at(&page, 0x70), 8), b"RSD PTR ");
    let initrd = 8 * MIB - 8192;
    assert_eq!(
        (u64::from(u32_at(&page, 0x218)), u32_at(&page, 0x21c)),
        (initrd, 5000)
    );
    let map: Vec<_> = (0..usize::from(page[0x1e8]))
        .map(|number| 0x2d0 + 20 * number)
        .map(|at| {
            (
                u64_at(&page, at),
                u64_at(&page, at + 8),
                u32_at(&page, at + 16),
            )
        })
        .collect();
    assert_eq!(map.first(), Some(&(0, 0x9_fc00, 1)));
    assert_eq!(map.last(), Some(&(MIB, 7 * MIB, 1)));
}

#[test]
fn linux64_maps_four_gib_one_to_one() {
    let (start, ram) = load(&with_initrd(Protocol::Linux64), layout(8 * MIB));
    for address in [0, 0x7000, 0x10_0040, 0x3fff_ffff, 0xc000_1234, 0xffff_ffff] {
        assert_eq!(translated(&ram, &start, address), Some(address));
    }
    assert_eq!(translated(&ram, &start, 1 << 32), None);
}

#[test]
fn the_gdt_holds_what_the_segment_registers_hold() {
    for protocol in [Protocol::Pvh, Protocol::Linux64] {
        let (start, ram) = load(&with_initrd(protocol), layout(8 * MIB));
        for segment in [
            start.system.cs,
            start.system.ds,
            start.system.ss,
            start.system.tr,
        ] {
            assert_eq!(described(&ram, &start, segment.selector), segment);
        }
    }
}

#[test]
fn the_setup_header_of_a_bzimage_reaches_the_zero_page() {
    let elf = Elf::linux().without_note().bytes();
    let packed = lz4_flex::block::compress(&elf);
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    payload.extend(u32::try_from(packed.len()).expect("small").to_le_bytes());
    payload.extend(packed);
    let mut file = bzimage(&with_trailer(payload, elf.len()));
    file[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    let image = vm_boot::Image::from_bytes("vmlinuz", file).expect("a bzImage");
    let (start, ram) = load(&boot(image), layout(8 * MIB));
    let page = read(&ram, start.gprs.rsi, 4096);
    assert_eq!(
        (u16_at(&page, 0x206), u32_at(&page, 0x230)),
        (0x020f, 0x20_0000)
    );
    assert_eq!(start.gprs.rip, 0x10_0040);
}

#[test]
fn the_memory_map_covers_memory_around_the_hole_and_keeps_the_bios_area() {
    let boot = boot(Elf::linux().image());
    let map = boot.memory_map(layout(6 << 30));
    for pair in map.windows(2) {
        assert!(
            pair[0].address + pair[0].bytes <= pair[1].address,
            "ascending, no overlap"
        );
    }
    let kind = |address: u64| {
        map.iter()
            .find(|range| (range.address..range.address + range.bytes).contains(&address))
            .map(|range| range.kind)
    };
    assert_eq!(kind(0x9_fbff), Some(RangeKind::Ram));
    assert_eq!(kind(0x9_fc00), Some(RangeKind::Reserved));
    assert_eq!(kind(0xe_0000), Some(RangeKind::Acpi));
    assert_eq!(kind(0xf_ffff), Some(RangeKind::Reserved));
    assert_eq!(kind(0x10_0000), Some(RangeKind::Ram));
    assert_eq!(kind(0xbfff_ffff), Some(RangeKind::Ram));
    assert_eq!(kind(0xc000_0000), None);
    assert_eq!(kind(0x1_0000_0000), Some(RangeKind::Ram));
    let usable: u64 = map
        .iter()
        .filter(|range| range.kind == RangeKind::Ram)
        .map(|range| range.bytes)
        .sum();
    assert_eq!(usable, (6 << 30) - (0x10_0000 - 0x9_fc00));
}
