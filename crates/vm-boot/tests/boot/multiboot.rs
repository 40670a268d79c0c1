// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Multiboot kernels, and what they are given, read back by the specification (0.6.96).

use vm_boot::{Boot, BootError, Image, Initrd, Protocol};

use crate::fixture::{Elf, MIB, TEXT, layout, read, u32_at, u64_at, used_ram};

const MAGIC: u32 = 0x1bad_b002;
const PAGES_AND_MEMORY: u32 = 3;

/// A header with these flags and, where they announce them, addresses.
fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let words = [MAGIC, flags, sum].into_iter().chain(addresses.to_vec());
    words.flat_map(u32::to_le_bytes).collect()
}

/// An ELF32 kernel without a PVH note whose text begins with a multiboot header.
pub(crate) fn elf(flags: u32) -> Elf {
    let mut elf = Elf::tiny().without_note();
    // On a boundary of four bytes in the file.
    let headers = 52 + 32 * elf.segments.len();
    assert_eq!(headers % 4, 0);
    let header = header(flags, &[]);
    elf.segments[0].data[..header.len()].copy_from_slice(&header);
    elf
}

fn module(name: &str, bytes: &[u8]) -> Initrd {
    Initrd::from_bytes(name, bytes.to_vec()).expect("not empty")
}

fn string(ram: &vm_cpu::GuestRam, address: u32) -> String {
    let bytes = read(ram, address.into(), 64);
    let text = bytes.split(|byte| *byte == 0).next().expect("a first part");
    String::from_utf8(text.to_vec()).expect("ASCII")
}

#[test]
fn a_multiboot_kernel_is_entered_with_both_magics_in_their_places() {
    let image = elf(PAGES_AND_MEMORY).image();
    let described = image.describe();
    assert!(
        described.starts_with("ELF32 kernel, multiboot entry 0x100040"),
        "{described}"
    );
    let layout = layout(8 * MIB);
    let ram = used_ram(layout);
    let boot = Boot::new(image, None, "a=b c", 1).expect("a boot");
    let start = boot.load(&ram, layout).expect("it loads");
    assert_eq!((start.gprs.rax, start.gprs.rip), (0x2bad_b002, TEXT + 0x40));
    let system = &start.system;
    assert_eq!(system.cr0 & 0x8000_0001, 1, "protected, without paging");
    for segment in [system.ds, system.es, system.fs, system.gs, system.ss] {
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
    }
    let info = read(&ram, start.gprs.rbx, 88);
    let flags = u32_at(&info, 0);
    assert_eq!(flags, 0x24d, "memory, command line, modules, map, name");
    assert_eq!((u32_at(&info, 4), u32_at(&info, 8)), (639, 7 * 1024));
    assert_eq!(string(&ram, u32_at(&info, 16)), "a=b c");
    assert_eq!(u32_at(&info, 20), 0, "no module");
    assert_eq!(string(&ram, u32_at(&info, 64)), "vm-boot");
}

#[test]
fn the_multiboot_map_is_walked_by_the_sizes_in_it() {
    let layout = layout(8 * MIB);
    let ram = used_ram(layout);
    let boot = Boot::new(elf(0).image(), None, "", 1).expect("a boot");
    let start = boot.load(&ram, layout).expect("it loads");
    let info = read(&ram, start.gprs.rbx, 88);
    let (bytes, address) = (u32_at(&info, 44), u32_at(&info, 48));
    let map = read(&ram, address.into(), usize::try_from(bytes).expect("small"));
    let mut seen = Vec::new();
    let mut at = 0;
    while at < map.len() {
        let size = usize::try_from(u32_at(&map, at)).expect("small");
        seen.push((
            u64_at(&map, at + 4),
            u64_at(&map, at + 12),
            u32_at(&map, at + 20),
        ));
        at += 4 + size;
    }
    assert_eq!(at, map.len());
    let expected: Vec<_> = boot
        .memory_map(layout)
        .iter()
        .map(|range| (range.address, range.bytes, range.kind as u32 + 1))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn each_initrd_is_a_module_on_a_page_of_its_own_with_its_name() {
    let layout = layout(8 * MIB);
    let ram = used_ram(layout);
    let modules = [module("one", &[1; 5000]), module("two", b"second")];
    let boot = Boot::new(elf(1).image(), modules, "", 1).expect("a boot");
    let start = boot.load(&ram, layout).expect("it loads");
    let info = read(&ram, start.gprs.rbx, 88);
    assert_eq!(u32_at(&info, 20), 2);
    let list = read(&ram, u32_at(&info, 24).into(), 32);
    // The kernel ends at 2 MiB + 0x3000.
    let first = 0x20_3000;
    assert_eq!((u32_at(&list, 0), u32_at(&list, 4)), (first, first + 5000));
    let second = first + 0x2000;
    assert_eq!((u32_at(&list, 16), u32_at(&list, 20)), (second, second + 6));
    assert_eq!(string(&ram, u32_at(&list, 8)), "one");
    assert_eq!(string(&ram, u32_at(&list, 24)), "two");
    assert_eq!(read(&ram, first.into(), 5000), [1; 5000]);
    assert_eq!(read(&ram, second.into(), 6), b"second");
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let load = |modules: Vec<Initrd>| {
        let boot = Boot::new(elf(1).image(), modules, "", 1).expect("a boot");
        boot.load(&ram, layout).expect_err("does not fit")
    };
    let large = load(vec![module("large", &vec![1; 3 << 20])]);
    assert!(matches!(large, BootError::InitrdDoesNotFit { .. }));
    let long = "x".repeat(3000);
    let names = load((0..8).map(|_| module(&long, b"m")).collect());
    assert!(matches!(names, BootError::Modules { modules: 8, .. }));
    assert!(names.to_string().contains("shorter paths"), "{names}");
}

#[test]
fn a_pvh_note_goes_before_a_multiboot_header_unless_that_is_wanted() {
    let mut both = elf(PAGES_AND_MEMORY);
    both.pvh = Some(0x10_0080);
    let layout = layout(8 * MIB);
    let ram = used_ram(layout);
    let boot = || Boot::new(both.image(), None, "", 1).expect("a boot");
    let start = boot().load(&ram, layout).expect("it loads");
    assert_eq!(start.gprs.rip, 0x10_0080);
    let wanted = boot().with_protocol(Protocol::Multiboot);
    let start = wanted.load(&ram, layout).expect("it loads");
    assert_eq!(start.gprs.rip, TEXT + 0x40);
    // What a header requires counts only where it is the way in.
    let mut both = elf(4);
    both.pvh = Some(0x10_0080);
    let wanted = Boot::new(both.image(), None, "", 1)
        .expect("a boot")
        .with_protocol(Protocol::Multiboot);
    assert!(wanted.load(&ram, layout).is_err());
}

#[test]
fn requirements_that_are_not_met_are_refused_by_name() {
    let refused = |flags| {
        let error = Image::from_bytes("kernel", elf(flags).bytes());
        error.expect_err("not met").to_string()
    };
    assert!(refused(4).contains("a video mode"));
    assert!(refused(0x103).contains("flags 0x100"));
}

#[test]
fn a_header_with_a_wrong_sum_or_beyond_8_kib_is_none() {
    let mut wrong = elf(PAGES_AND_MEMORY);
    wrong.segments[0].data[8] ^= 1;
    let error = Image::from_bytes("kernel", wrong.bytes()).expect_err("no way in");
    assert!(matches!(error, BootError::No32BitEntry { .. }));
    let mut far = vec![0; 8192];
    far.extend(header(1 << 16, &[0; 5]));
    let error = Image::from_bytes("kernel", far).expect_err("no header");
    assert!(matches!(error, BootError::NotAKernel { .. }));
}

/// A binary whose header, at 64, says where it goes.
pub(crate) fn binary(addresses: [u32; 5]) -> Vec<u8> {
    let mut file = vec![0x90; 64];
    file.extend(header(1 << 16 | PAGES_AND_MEMORY, &addresses));
    file.resize(300, 0x90);
    file
}

#[test]
fn a_header_with_addresses_says_what_is_loaded_where() {
    let file = binary([0x20_0020, 0x20_0000, 0x20_0080, 0x20_0100, 0x20_0004]);
    let layout = layout(4 * MIB);
    let ram = used_ram(layout);
    let image = Image::from_bytes("kernel", file.clone()).expect("a kernel");
    let described = image.describe();
    assert!(described.starts_with("multiboot binary"), "{described}");
    let boot = Boot::new(image, None, "", 1).expect("a boot");
    let start = boot.load(&ram, layout).expect("it loads");
    assert_eq!(start.gprs.rip, 0x20_0004);
    // From 32 bytes in front of the header.
    assert_eq!(read(&ram, 0x20_0000, 0x80), file[32..32 + 0x80]);
    assert_eq!(read(&ram, 0x20_0080, 0x80), [0; 0x80]);
    assert_eq!(read(&ram, 0x20_0100, 4), [0xa5; 4]);
    // Zeros mean "to the end of the file" and "no zeros behind".
    let open = binary([0x20_0040, 0x20_0000, 0, 0, 0x20_0000]);
    let image = Image::from_bytes("kernel", open.clone()).expect("a kernel");
    let boot = Boot::new(image, None, "", 1).expect("a boot");
    boot.load(&ram, layout).expect("it loads");
    assert_eq!(read(&ram, 0x20_0000, 300), open);
}

#[test]
fn addresses_that_contradict_each_other_or_the_file_are_refused() {
    for addresses in [
        // The header before the load address, or the load address before the file.
        [0x20_0000, 0x20_0010, 0, 0, 0x20_0010],
        [0x20_0040, 0x1f_ff00, 0, 0, 0x20_0000],
        // An end before the beginning, zeros that end before the data, an entry outside.
        [0x20_0020, 0x20_0000, 0x1f_ffff, 0, 0x20_0000],
        [0x20_0020, 0x20_0000, 0x20_0080, 0x20_0040, 0x20_0000],
        [0x20_0020, 0x20_0000, 0x20_0080, 0, 0x20_0080],
        // More than the file has.
        [0x20_0020, 0x20_0000, 0x20_1000, 0, 0x20_0000],
    ] {
        let error = Image::from_bytes("kernel", binary(addresses));
        assert!(
            matches!(
                error,
                Err(BootError::Malformed { .. } | BootError::Truncated { .. })
            ),
            "{addresses:x?}: {error:?}"
        );
    }
}

#[test]
fn every_truncation_of_a_multiboot_kernel_is_refused() {
    let with_addresses = binary([0x20_0040, 0x20_0000, 0x20_0080, 0, 0x20_0000]);
    for whole in [elf(0).bytes(), with_addresses[..128].to_vec()] {
        for length in 0..whole.len() {
            let image = Image::from_bytes("kernel", whole[..length].to_vec());
            assert!(image.is_err(), "{length} bytes were accepted");
        }
    }
}
