// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is recognised, and how what is not is refused.

use std::fs;

use vm_boot::{Boot, BootError, Form, Image, Initrd, Protocol};

use crate::fixture::{Elf, MIB, Segment, boot, bzimage, layout, with_trailer};

fn refused(elf: &Elf) -> BootError {
    Image::from_bytes("kernel", elf.bytes()).expect_err("must be refused")
}

fn load_error(elf: &Elf, bytes: u64) -> BootError {
    let layout = layout(bytes);
    let ram = layout.allocate().expect("guest memory");
    boot(elf.image())
        .load(&ram, layout)
        .expect_err("must be refused")
}

#[test]
fn describe_says_what_was_found() {
    let pvh = Elf::linux().image().describe();
    assert_eq!(
        pvh,
        "ELF64 kernel, PVH entry 0x100080, 2 segments, 1200 bytes to load"
    );
    let plain = Elf::linux().without_note().image().describe();
    assert_eq!(
        plain,
        "ELF64 kernel, 64-bit entry 0x100040, 2 segments, 1200 bytes to load"
    );
    let tiny = Elf::tiny().image().describe();
    assert_eq!(
        tiny,
        "ELF32 kernel, PVH entry 0x100080, 2 segments, 1200 bytes to load"
    );
    let payload = with_trailer(b"\x28\xb5\x2f\xfdabcdefghij".to_vec(), 5000);
    let packed = Image::from_bytes("vmlinuz", bzimage(&payload))
        .expect("a bzImage")
        .describe();
    assert_eq!(
        packed,
        "bzImage, boot protocol 2.15, zstd payload of 18 bytes, 5000 decompressed"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Image::open("/nowhere/vmlinux").expect_err("there is none");
    assert!(matches!(error, BootError::File { .. }));
    assert_eq!(
        error.to_string(),
        "cannot open /nowhere/vmlinux: give the path of a readable file"
    );
}

#[test]
fn a_directory_and_a_device_are_refused_as_such() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let error = Image::open(directory.path()).expect_err("a directory");
    assert!(matches!(
        error,
        BootError::NotAFile {
            what: "directory",
            ..
        }
    ));
    let error = Initrd::open("/dev/null").expect_err("a device");
    assert!(matches!(
        error,
        BootError::NotAFile {
            what: "device, pipe or socket",
            ..
        }
    ));
}

#[test]
fn an_empty_file_is_refused_as_such() {
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    assert!(matches!(
        Image::open(file.path()),
        Err(BootError::Empty { .. })
    ));
    assert!(matches!(
        Initrd::open(file.path()),
        Err(BootError::Empty { .. })
    ));
    assert!(matches!(
        Image::from_bytes("kernel", Vec::new()),
        Err(BootError::Empty { .. })
    ));
}

#[test]
fn what_is_no_kernel_is_told_by_its_magic() {
    let magic = |bytes: &[u8]| match Image::from_bytes("file", bytes.to_vec()) {
        Err(BootError::NotAKernel { magic, .. }) => magic,
        other => format!("{other:?}"),
    };
    assert_eq!(
        magic(b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
        "1f8b080000000000 (gzip)"
    );
    assert_eq!(magic(b"#!/bin/sh\n"), "23212f62696e2f73 (a script)");
    assert_eq!(magic(b"07"), "3037");
    assert_eq!(magic(&[0; 5000]), "0000000000000000");
}

#[test]
fn a_32_bit_kernel_without_a_note_is_refused_by_name() {
    let error = refused(&Elf::tiny().without_note());
    assert!(matches!(error, BootError::No32BitEntry { .. }));
}

#[test]
fn a_kernel_for_another_machine_or_of_another_type_is_refused() {
    let arm = refused(&Elf {
        machine: 183,
        ..Elf::linux()
    });
    assert_eq!(
        arm.to_string(),
        "kernel is an ELF file for machine 183: give a kernel for x86-64 (machine 62)"
    );
    let shared = refused(&Elf {
        kind: 3,
        ..Elf::linux()
    });
    assert!(matches!(shared, BootError::Unsupported { .. }));
}

#[test]
fn an_entry_outside_every_segment_is_refused() {
    let virtual_entry = Elf {
        entry: 0xffff_ffff_8100_0000,
        ..Elf::linux().without_note()
    };
    assert!(matches!(
        refused(&virtual_entry),
        BootError::Malformed { offset: 24, .. }
    ));
}

#[test]
fn a_kernel_with_nothing_to_load_is_refused() {
    let empty = Elf {
        segments: Vec::new(),
        ..Elf::linux()
    };
    assert!(matches!(refused(&empty), BootError::Malformed { .. }));
}

#[test]
fn segments_that_overlap_or_shrink_or_wrap_are_refused() {
    let mut overlap = Elf::linux();
    overlap.segments[1].address = 0x10_0010;
    assert!(matches!(refused(&overlap), BootError::Malformed { .. }));
    let mut shrink = Elf::linux();
    shrink.segments[1].memory = 10;
    assert!(matches!(refused(&shrink), BootError::Malformed { .. }));
    let mut wrap = Elf::linux();
    wrap.segments[1].memory = u64::MAX;
    assert!(matches!(refused(&wrap), BootError::Malformed { .. }));
}

#[test]
fn a_segment_outside_memory_is_refused_with_what_would_do() {
    let mut far = Elf::linux();
    far.segments.push(Segment {
        address: 64 * MIB,
        data: vec![1; 10],
        memory: 2 * MIB,
    });
    let error = load_error(&far, 16 * MIB);
    assert_eq!(
        error.to_string(),
        "kernel wants 2097152 bytes at 0x4000000, but guest memory ends at 0x1000000: give it at \
         least 66 MiB"
    );
}

#[test]
fn a_segment_over_the_hole_or_in_the_first_mib_is_refused() {
    let mut hole = Elf::linux();
    hole.segments.push(Segment {
        address: 0xbfff_f000,
        data: vec![1; 10],
        memory: 0x2000,
    });
    assert!(matches!(
        load_error(&hole, 16 * MIB),
        BootError::Reserved { .. }
    ));
    let mut low = Elf::linux();
    low.segments.push(Segment {
        address: 0x9000,
        data: vec![1; 10],
        memory: 10,
    });
    assert!(matches!(
        load_error(&low, 16 * MIB),
        BootError::Reserved { .. }
    ));
}

#[test]
fn too_little_memory_is_refused_with_the_minimum() {
    let error = load_error(&Elf::linux(), MIB);
    let minimum = Boot::MIN_MEMORY;
    assert!(matches!(error, BootError::MemoryTooSmall { bytes: MIB, minimum: m } if m == minimum));
}

#[test]
fn kernels_that_need_real_mode_and_a_bios_are_refused_by_name() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut file = bzimage(b"\x89LZO\0\x0d\x0a\x1a\x0aaaaaaaaaaaaaaa");
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Image::from_bytes("vmlinuz", file)
            .expect_err("needs a BIOS")
            .to_string()
    };
    assert_eq!(
        refused(0x206, &0x0205_u16.to_le_bytes()),
        "vmlinuz is a kernel of boot protocol 2.05, which needs its real-mode set-up code and \
         BIOS services: there is no BIOS here; give a kernel of protocol 2.06 (Linux 2.6.22) or \
         later"
    );
    assert_eq!(
        refused(0x211, &[0]),
        "vmlinuz is a zImage, which its real-mode set-up code moves into place with BIOS \
         services: there is no BIOS here; build it as a bzImage"
    );
    // Before protocol 2.00 there is no header: only a boot sector.
    let old = refused(0x202, b"\0\0\0\0");
    assert!(old.contains("needs real mode and BIOS services"), "{old}");
}

#[test]
fn only_a_bzimage_is_entered_as_is() {
    let elf = Elf::linux().bytes();
    let error = Image::from_bytes_as("vmlinux", elf, Form::AsIs).expect_err("no bzImage");
    assert!(error.to_string().contains("no bzImage"), "{error}");
    let layout = layout(16 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let boot = boot(Elf::linux().image()).with_protocol(Protocol::Linux32);
    let error = boot.load(&ram, layout).expect_err("no 32-bit entry");
    assert!(error.to_string().contains("give the bzImage"), "{error}");
}

#[test]
fn a_wanted_protocol_that_the_kernel_lacks_is_refused() {
    let layout = layout(16 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let load = |elf: Elf, protocol| {
        boot(elf.image())
            .with_protocol(protocol)
            .load(&ram, layout)
            .expect_err("lacks it")
    };
    let pvh = load(Elf::linux().without_note(), Protocol::Pvh);
    assert!(matches!(pvh, BootError::Unsupported { .. }));
    let long = load(Elf::tiny(), Protocol::Linux64);
    assert!(matches!(long, BootError::Unsupported { .. }));
}

#[test]
fn command_line_and_vcpus_are_checked_before_anything_is_loaded() {
    let new = |line: &str, cpus| Boot::new(Elf::linux().image(), None, line, cpus);
    assert!(new(&"x".repeat(2047), 1).is_ok());
    let long = new(&"x".repeat(2048), 1).expect_err("too long");
    assert!(matches!(
        long,
        BootError::CommandLine {
            bytes: 2048,
            limit: 2047
        }
    ));
    assert!(matches!(
        new("a\0b", 1),
        Err(BootError::CommandLineNul { offset: 1 })
    ));
    assert!(matches!(
        new("", 0),
        Err(BootError::Cpus {
            cpus: 0,
            limit: 1024
        })
    ));
    assert!(matches!(
        new("", 1025),
        Err(BootError::Cpus {
            cpus: 1025,
            limit: 1024
        })
    ));
}

#[test]
fn the_command_line_limit_of_a_bzimage_is_its_own() {
    let mut file = bzimage(&with_trailer(
        b"\x1f\x8b\x08aaaaaaaaaaaaaaaaa".to_vec(),
        100,
    ));
    file[0x238..0x23c].copy_from_slice(&10_u32.to_le_bytes());
    let image = Image::from_bytes("vmlinuz", file).expect("a bzImage");
    let error = Boot::new(image, None, "twelve bytes", 1).expect_err("too long");
    assert!(matches!(
        error,
        BootError::CommandLine {
            bytes: 12,
            limit: 10
        }
    ));
}

#[test]
fn an_initrd_that_does_not_fit_is_refused_with_the_room() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let load = |bytes: usize| {
        let initrd = Initrd::from_bytes("initrd", vec![7; bytes]).expect("not empty");
        let boot = Boot::new(Elf::linux().image(), Some(initrd), "", 1).expect("a boot");
        boot.load(&ram, layout)
    };
    // The kernel ends at 2 MiB + 0x3000.
    let room = 2 * MIB - 0x3000;
    let fits = usize::try_from(room).expect("small");
    assert!(load(fits).is_ok());
    let error = load(fits + 1).expect_err("one byte too many");
    assert!(matches!(error, BootError::InitrdDoesNotFit { room: r, .. } if r == room));
    assert!(load(8 << 20).is_err());
}

#[test]
fn a_reload_works_after_the_file_is_gone_and_fails_after_it_changed() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("vmlinux");
    fs::write(&path, Elf::linux().bytes()).expect("writable");
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let boot = boot(Image::open(&path).expect("a kernel"));
    assert!(boot.load(&ram, layout).is_ok());

    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("writable");
    fs::remove_file(&path).expect("removable");
    assert!(
        boot.load(&ram, layout).is_ok(),
        "an open file cannot vanish"
    );

    file.set_len(100).expect("writable");
    assert!(matches!(
        boot.load(&ram, layout),
        Err(BootError::Changed { .. })
    ));
}

#[test]
fn every_truncation_of_an_elf_kernel_is_refused() {
    for elf in [Elf::linux(), Elf::tiny(), Elf::linux().without_note()] {
        let whole = elf.bytes();
        for length in 0..whole.len() {
            let image = Image::from_bytes("kernel", whole[..length].to_vec());
            assert!(
                image.is_err(),
                "{length} of {} bytes were accepted",
                whole.len()
            );
        }
    }
}
