// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests to a disk.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

use vm_devices::{DiskAccess, DiskError, DiskImage};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{DATA, Driver, HEADER, INDIRECT, NEXT, RAM, STATUS, WRITE, request};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const F_FLUSH: u64 = 1 << 9;

fn disk(sectors: u64) -> Driver {
    let mut disk = Driver::disk(sectors, DiskAccess::ReadWrite);
    disk.start(0);
    disk
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect()
}

/// One range for discard or write-zeroes at DATA.
fn set_range(disk: &Driver, sector: u64, sectors: u32, flags: u32) {
    let at = |offset| GuestAddress(DATA + offset);
    disk.ram.write_obj(sector, at(0)).unwrap();
    disk.ram.write_obj(sectors, at(8)).unwrap();
    disk.ram.write_obj(flags, at(12)).unwrap();
}

#[test]
fn what_is_written_is_in_the_file_and_read_back() {
    let mut disk = disk(2048);
    // More than the device copies at a time.
    let bytes = 700 * 512;
    let written = pattern(bytes);
    disk.set_data(&written);
    let length = u32::try_from(bytes).unwrap();
    assert_eq!(disk.ask(OUT, 3, length, 0), OK);
    assert_eq!(disk.ask(FLUSH, 0, 0, 0), OK);
    let file = std::fs::read(disk.path()).unwrap();
    assert_eq!(file[3 * 512..3 * 512 + bytes], written);
    disk.set_data(&vec![0; bytes]);
    assert_eq!(disk.ask(IN, 3, length, WRITE), OK);
    assert_eq!(disk.data(bytes), written);
}

#[test]
fn a_driver_that_knows_no_flush_has_its_writes_on_disk() {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    disk.start(F_FLUSH);
    disk.set_data(&[7; 512]);
    assert_eq!(disk.ask(OUT, 1, 512, 0), OK);
    assert_eq!(std::fs::read(disk.path()).unwrap()[512..1024], [7; 512]);
}

#[test]
fn data_may_be_split_anywhere_also_in_the_header() {
    let mut disk = disk(8);
    disk.set_data(&pattern(512));
    disk.header(OUT, 2);
    disk.submit(&[
        (HEADER, 5, NEXT, 1),
        (HEADER + 5, 11, NEXT, 2),
        (DATA, 0, NEXT, 3),
        (DATA, 100, NEXT, 4),
        (DATA + 100, 412, NEXT, 5),
        (STATUS, 1, WRITE, 0),
    ]);
    assert_eq!((disk.completed(), disk.status()), (1, OK));
    assert_eq!(
        std::fs::read(disk.path()).unwrap()[1024..1536],
        pattern(512)
    );
}

#[test]
fn an_indirect_table_is_followed() {
    let mut disk = disk(8);
    disk.set_data(&[9; 512]);
    disk.header(OUT, 0);
    disk.describe(0x8000, &request(DATA, 512, 0));
    disk.submit(&[(0x8000, 48, INDIRECT, 0)]);
    assert_eq!((disk.completed(), disk.status()), (1, OK));
    assert_eq!(std::fs::read(disk.path()).unwrap()[..512], [9; 512]);
}

#[test]
fn what_lies_outside_the_disk_is_an_io_error() {
    let mut disk = disk(8);
    disk.set_data(&[1; 1024]);
    for (sector, bytes) in [(8, 512), (7, 1024), (9, 0), (u64::MAX, 512), (1 << 55, 512)] {
        assert_eq!(disk.ask(OUT, sector, bytes, 0), IO_ERROR, "write {sector}");
        assert_eq!(
            disk.ask(IN, sector, bytes, WRITE),
            IO_ERROR,
            "read {sector}"
        );
    }
    assert_eq!(std::fs::read(disk.path()).unwrap(), [0; 8 * 512]);
}

#[test]
fn data_that_is_no_whole_sectors_is_an_io_error_and_none_is_nothing() {
    let mut disk = disk(8);
    for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
        assert_eq!(disk.ask(kind, 0, 511, flags), IO_ERROR);
        assert_eq!(disk.ask(kind, 0, 0, flags), OK);
    }
}

#[test]
fn data_in_memory_that_there_is_not_is_an_io_error() {
    let mut disk = disk(8);
    for address in [RAM, RAM - 256, u64::MAX - 255, u64::MAX] {
        for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
            disk.header(kind, 0);
            disk.submit(&request(address, 512, flags));
            disk.completed();
            assert_eq!(disk.status(), IO_ERROR, "{address:#x}");
        }
    }
    assert_eq!(std::fs::read(disk.path()).unwrap(), [0; 8 * 512]);
}

#[test]
fn a_request_larger_than_a_disk_takes_at_once_is_an_io_error() {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    disk.start(0);
    assert_eq!(disk.ask(IN, 0, 0xffff_fe00, WRITE), IO_ERROR);
}

#[test]
fn a_header_that_is_too_short_is_an_io_error() {
    let mut disk = disk(8);
    disk.header(IN, 0);
    disk.submit(&[(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)]);
    assert_eq!((disk.completed(), disk.status()), (1, IO_ERROR));
}

#[test]
fn the_serial_number_is_the_name() {
    let mut disk = disk(8);
    assert_eq!(disk.ask(GET_ID, 0, 20, WRITE), OK);
    assert_eq!(disk.data(20), *b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn an_unknown_request_is_unsupported() {
    let mut disk = disk(8);
    for kind in [2, 3, 5, 10, 12, 14, u32::MAX] {
        assert_eq!(disk.ask(kind, 0, 512, WRITE), UNSUPPORTED, "{kind}");
    }
}

#[test]
fn discarded_sectors_take_no_room_and_read_as_zeroes() {
    let mut disk = disk(2048);
    disk.set_data(&[0xaa; 1 << 20]);
    assert_eq!(disk.ask(OUT, 0, 1 << 20, 0), OK);
    assert_eq!(disk.ask(FLUSH, 0, 0, 0), OK);
    let before = std::fs::metadata(disk.path()).unwrap().blocks();
    set_range(&disk, 0, 1024, 0);
    assert_eq!(disk.ask(DISCARD, 0, 16, 0), OK);
    let after = std::fs::metadata(disk.path()).unwrap().blocks();
    assert!(after < before, "{after} of {before} blocks");
    let file = std::fs::read(disk.path()).unwrap();
    assert!(file[..1024 * 512].iter().all(|byte| *byte == 0));
    assert!(file[1024 * 512..].iter().all(|byte| *byte == 0xaa));
}

#[test]
fn zeroes_are_written_whether_or_not_room_may_be_given_back() {
    let mut disk = disk(2048);
    for unmap in [0, 1] {
        disk.set_data(&[0xaa; 1 << 20]);
        assert_eq!(disk.ask(OUT, 0, 1 << 20, 0), OK);
        set_range(&disk, 1, 1500, unmap);
        assert_eq!(disk.ask(WRITE_ZEROES, 0, 16, 0), OK);
        let file = std::fs::read(disk.path()).unwrap();
        assert!(file[..512].iter().all(|byte| *byte == 0xaa));
        assert!(file[512..1501 * 512].iter().all(|byte| *byte == 0));
        assert!(file[1501 * 512..].iter().all(|byte| *byte == 0xaa));
    }
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let mut disk = disk(8);
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, sectors) in [(8, 1), (7, 2), (u64::MAX, 1), (0, u32::MAX), (0, 0x1_0001)] {
            set_range(&disk, sector, sectors, 0);
            assert_eq!(disk.ask(kind, 0, 16, 0), IO_ERROR, "{sector} {sectors}");
        }
        set_range(&disk, 0, 1, 4);
        assert_eq!(disk.ask(kind, 0, 16, 0), UNSUPPORTED);
        for bytes in [0, 15, 17, 17 * 16] {
            assert_eq!(disk.ask(kind, 0, bytes, 0), IO_ERROR, "{bytes}");
        }
    }
    set_range(&disk, 0, 1, 1);
    assert_eq!(disk.ask(DISCARD, 0, 16, 0), UNSUPPORTED);
}

#[test]
fn a_read_only_disk_says_so_and_takes_no_write() {
    let mut disk = Driver::disk(8, DiskAccess::ReadOnly);
    assert_eq!(disk.offered() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    disk.start(0);
    disk.set_data(&[1; 512]);
    set_range(&disk, 0, 1, 0);
    for kind in [OUT, DISCARD, WRITE_ZEROES] {
        assert_eq!(disk.ask(kind, 0, 512, 0), IO_ERROR);
    }
    assert_eq!(disk.ask(FLUSH, 0, 0, 0), OK);
    assert_eq!(disk.ask(IN, 0, 512, WRITE), OK);
    assert_eq!(std::fs::read(disk.path()).unwrap(), [0; 8 * 512]);
}

#[test]
fn an_image_that_shrank_is_an_io_error_and_the_disk_goes_on() {
    let mut disk = disk(8);
    let file = OpenOptions::new().write(true).open(disk.path()).unwrap();
    file.set_len(512).unwrap();
    assert_eq!(disk.ask(IN, 4, 512, WRITE), IO_ERROR);
    file.set_len(8 * 512).unwrap();
    file.write_all_at(&[5; 512], 4 * 512).unwrap();
    assert_eq!(disk.ask(IN, 4, 512, WRITE), OK);
    assert_eq!(disk.data(512), [5; 512]);
}

#[test]
fn a_request_that_no_answer_fits_into_breaks_the_queue() {
    let mut disk = disk(8);
    disk.header(IN, 0);
    disk.submit(&[(HEADER, 16, 0, 0)]);
    disk.needs_reset();
    disk.start(0);
    disk.header(IN, 0);
    disk.submit(&[(HEADER, 16, NEXT, 1), (RAM, 1, WRITE, 0)]);
    disk.needs_reset();
    disk.start(0);
    assert_eq!(disk.ask(IN, 0, 512, WRITE), OK);
}

#[test]
fn images_that_cannot_be_disks_are_named() {
    let disk = Driver::disk(8, DiskAccess::ReadWrite);
    let open = |name: &str| DiskImage::open(&disk.dir().join(name), DiskAccess::ReadWrite);
    std::fs::write(disk.dir().join("odd"), [0; 513]).unwrap();
    std::fs::write(disk.dir().join("empty"), []).unwrap();
    let says = |name: &str| open(name).unwrap_err().to_string();
    assert!(says("missing").contains("missing"));
    assert!(says("").contains("directory"));
    assert!(says("odd").contains("513 bytes"));
    assert!(says("empty").contains("0 bytes"));
    assert!(says("/dev/null").contains("character device"));
    assert!(matches!(open("disk"), Err(DiskError::Busy { .. })));
}
