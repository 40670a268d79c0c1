// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An image that comes and goes while a driver works with its disk.

use std::path::PathBuf;
use std::time::Duration;

use vm_devices::{DiskAccess, DiskImage};
use vm_pdm::{Change, Device, Devices, Place, PlaceError, Places, ResetKind};

use crate::driver::{Driver, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;

/// Interrupt status: a used buffer, a configuration change.
const CONFIG_CHANGED: u32 = 2;

/// Only a device that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(60);

fn disk(sectors: u64) -> Driver {
    let mut disk = Driver::disk(sectors, DiskAccess::ReadWrite);
    disk.start(0);
    disk
}

/// A file of `sectors` sectors of `byte` beside the disk's first.
fn file(disk: &Driver, name: &str, sectors: usize, byte: u8) -> PathBuf {
    let path = disk.dir().join(name);
    std::fs::write(&path, vec![byte; sectors * 512]).unwrap();
    path
}

fn image(disk: &Driver, name: &str, sectors: usize, byte: u8) -> DiskImage {
    DiskImage::open(&file(disk, name, sectors, byte), DiskAccess::ReadWrite).unwrap()
}

fn change(disk: &Driver, change: Change<DiskImage>) -> Result<(), PlaceError> {
    let begun = disk.device.begin(change)?;
    disk.device.settle(begun, LIMIT)
}

/// Waits for the interrupt that tells of another configuration. That of a request may come with it, or
/// before: a request is given back before its interrupt.
fn told(disk: &Driver) {
    while disk.interrupt() & CONFIG_CHANGED == 0 {}
}

fn capacity(disk: &Driver) -> u64 {
    u64::from(disk.read(0x104)) << 32 | u64::from(disk.read(0x100))
}

fn generation(disk: &Driver) -> u32 {
    disk.read(0xfc)
}

#[test]
fn a_detached_disk_has_no_sectors_and_answers_with_errors() {
    let mut disk = disk(8);
    disk.set_data(&[7; 512]);
    assert_eq!(disk.ask(OUT, 1, 512, 0), OK);
    change(&disk, Change::Detach).unwrap();
    told(&disk);
    assert_eq!((capacity(&disk), generation(&disk)), (0, 1));
    assert_eq!(disk.device.attached(), None);
    for (kind, bytes, flags) in [(IN, 512, WRITE), (OUT, 512, 0), (FLUSH, 0, 0), (99, 0, 0)] {
        assert_eq!(disk.ask(kind, 0, bytes, flags), IO_ERROR, "{kind}");
    }
    assert_eq!(disk.ask(GET_ID, 0, 20, WRITE), OK);
    assert_eq!(disk.data(5), b"disk0");
    // It is whoever's now.
    let again = DiskImage::open(&disk.path(), DiskAccess::ReadWrite);
    assert_eq!(again.unwrap().sectors(), 8);
    assert_eq!(std::fs::read(disk.path()).unwrap()[512..1024], [7; 512]);
}

#[test]
fn another_image_of_another_size_is_read_back() {
    let mut disk = disk(8);
    change(&disk, Change::Detach).unwrap();
    told(&disk);
    let second = image(&disk, "second", 24, 0x22);
    change(&disk, Change::Attach(second)).unwrap();
    told(&disk);
    assert_eq!((capacity(&disk), generation(&disk)), (24, 2));
    assert_eq!(disk.ask(IN, 23, 512, WRITE), OK);
    assert_eq!(disk.data(512), [0x22; 512]);
    disk.set_data(&[9; 512]);
    assert_eq!(disk.ask(OUT, 20, 512, 0), OK);
    assert_eq!(disk.ask(IN, 24, 512, WRITE), IO_ERROR);
    let file = std::fs::read(disk.dir().join("second")).unwrap();
    assert_eq!(file[20 * 512..21 * 512], [9; 512]);
    assert!(std::fs::read(disk.path()).unwrap().iter().all(|b| *b == 0));
}

#[test]
fn a_replaced_image_is_another_at_once() {
    let mut disk = disk(8);
    let second = image(&disk, "second", 16, 0x33);
    change(&disk, Change::Replace(second)).unwrap();
    told(&disk);
    assert_eq!((capacity(&disk), generation(&disk)), (16, 1));
    assert_eq!(disk.ask(IN, 15, 512, WRITE), OK);
    assert_eq!(disk.data(512), [0x33; 512]);
    DiskImage::open(&disk.path(), DiskAccess::ReadWrite).unwrap();
    // What is empty can be replaced as well.
    change(&disk, Change::Detach).unwrap();
    let third = image(&disk, "third", 4, 0);
    change(&disk, Change::Replace(third)).unwrap();
    assert_eq!(capacity(&disk), 4);
}

#[test]
fn sd_p04_what_is_missing_there_already_or_cannot_be_at_run_time_is_refused_by_name() {
    let disk = disk(8);
    let entropy = Driver::entropy();
    let mut devices = Devices::new();
    devices.add(disk.device.clone()).unwrap();
    devices.add(entropy.device.clone()).unwrap();
    let places: Places<DiskImage> = Places::new(&devices, vec![disk.device.clone()]);

    let missing = places.get("disk1").err().unwrap();
    assert!(matches!(missing, PlaceError::NoDevice { .. }), "{missing}");
    assert!(missing.to_string().ends_with("disk0"), "{missing}");
    let fixed = places.get("rng0").err().unwrap();
    assert!(matches!(fixed, PlaceError::NoPlace { .. }), "{fixed}");
    for change in [
        Change::Attach(image(&disk, "a", 8, 0)),
        Change::Replace(image(&disk, "b", 8, 0)),
        Change::Detach,
    ] {
        let fixed = entropy.device.begin(change).unwrap_err();
        assert!(matches!(fixed, PlaceError::NoPlace { .. }), "{fixed}");
    }

    let place = places.get("disk0").unwrap();
    let there = place.begin(Change::Attach(image(&disk, "c", 16, 0)));
    let there = there.unwrap_err();
    assert!(matches!(there, PlaceError::Attached { .. }), "{there}");
    assert!(there.to_string().contains("disk (8 sectors"), "{there}");
    let read_only = file(&disk, "d", 8, 0);
    let read_only = DiskImage::open(&read_only, DiskAccess::ReadOnly).unwrap();
    let other = place.begin(Change::Replace(read_only)).unwrap_err();
    assert!(matches!(other, PlaceError::Refused { .. }), "{other}");
    for part in ["disk0 ", "/d (8 sectors, read-only)", "is read-write"] {
        assert!(other.to_string().contains(part), "{part}: {other}");
    }
    assert_eq!((capacity(&disk), generation(&disk)), (8, 0));

    change(&disk, Change::Detach).unwrap();
    let empty = place.begin(Change::Detach).unwrap_err();
    assert!(matches!(empty, PlaceError::Empty { .. }), "{empty}");
    assert_eq!(generation(&disk), 1);
}

#[test]
fn a_read_only_disk_takes_read_only_images_alone() {
    let mut disk = Driver::disk(8, DiskAccess::ReadOnly);
    disk.start(0);
    let writable = image(&disk, "a", 8, 0);
    let refused = change(&disk, Change::Replace(writable)).unwrap_err();
    assert!(refused.to_string().contains("is read-only"), "{refused}");
    let path = file(&disk, "b", 16, 5);
    let read_only = DiskImage::open(&path, DiskAccess::ReadOnly).unwrap();
    change(&disk, Change::Replace(read_only)).unwrap();
    told(&disk);
    assert_eq!(disk.ask(IN, 15, 512, WRITE), OK);
    assert_eq!(disk.ask(OUT, 15, 512, 0), IO_ERROR);
}

#[test]
fn sd_p12_an_image_that_came_while_the_vm_ran_is_quiet_with_its_disk() {
    let mut disk = disk(8);
    change(&disk, Change::Detach).unwrap();
    told(&disk);
    let second = image(&disk, "second", 8, 0x44);
    change(&disk, Change::Attach(second)).unwrap();
    told(&disk);
    disk.device.suspend().unwrap();
    disk.settled();
    disk.set_data(&[1; 512]);
    disk.header(OUT, 3);
    disk.submit(&crate::driver::request(crate::driver::DATA, 512, 0));
    // The thread would have come to it: it comes to a change.
    let third = image(&disk, "third", 8, 0x55);
    change(&disk, Change::Replace(third)).unwrap();
    assert_eq!((disk.used_index(), disk.status()), (0, 0xee));
    disk.device.resume().unwrap();
    told(&disk);
    disk.completed();
    assert_eq!(disk.status(), OK);
    let read = |name: &str| std::fs::read(disk.dir().join(name)).unwrap();
    assert_eq!(read("second"), [0x44; 4096]);
    assert_eq!(read("third")[3 * 512..4 * 512], [1; 512]);
}

#[test]
fn a_change_while_suspended_is_told_once_at_the_resume() {
    let mut disk = disk(8);
    disk.device.suspend().unwrap();
    disk.settled();
    change(&disk, Change::Detach).unwrap();
    let second = image(&disk, "second", 32, 0);
    change(&disk, Change::Attach(second)).unwrap();
    assert_eq!(disk.read(0x60), 0, "a suspended device is silent");
    disk.device.resume().unwrap();
    told(&disk);
    assert_eq!((capacity(&disk), generation(&disk)), (32, 2));
    assert_eq!(disk.count("interrupts"), 1);
    // And is served.
    assert_eq!(disk.ask(IN, 31, 512, WRITE), OK);
}

#[test]
fn a_driver_that_is_not_ready_is_told_when_it_is() {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    change(&disk, Change::Detach).unwrap();
    disk.accept(disk.offered());
    assert_eq!(capacity(&disk), 0);
    let second = image(&disk, "second", 16, 0);
    change(&disk, Change::Attach(second)).unwrap();
    assert_eq!(disk.read(0x60), 0);
    disk.write(0x70, 15);
    told(&disk);
    // What was there when it began anew is no news.
    disk.accept(disk.offered());
    let third = image(&disk, "third", 16, 0);
    change(&disk, Change::Replace(third)).unwrap();
    disk.start(0);
    assert_eq!(disk.read(0x60), 0);
    assert_eq!(capacity(&disk), 16);
}

#[test]
fn a_reset_keeps_what_is_attached() {
    let mut disk = disk(8);
    let second = image(&disk, "second", 16, 0x66);
    change(&disk, Change::Replace(second)).unwrap();
    disk.device.reset(ResetKind::Hard).unwrap();
    disk.settled();
    disk.start(0);
    assert_eq!((capacity(&disk), generation(&disk)), (16, 1));
    assert_eq!(disk.ask(IN, 0, 512, WRITE), OK);
    assert_eq!(disk.data(512), [0x66; 512]);
}

#[test]
fn a_disk_may_begin_empty() {
    let mut disk = Driver::empty(DiskAccess::ReadWrite);
    disk.start(0);
    assert_eq!(capacity(&disk), 0);
    assert_eq!(disk.ask(IN, 0, 512, WRITE), IO_ERROR);
    assert!(disk.page().contains("attached: nothing\n"));
    let first = image(&disk, "first", 8, 0x77);
    change(&disk, Change::Attach(first)).unwrap();
    told(&disk);
    assert_eq!(disk.ask(IN, 7, 512, WRITE), OK);
    assert_eq!(disk.data(512), [0x77; 512]);
}

#[test]
fn what_is_attached_is_shown_and_counted() {
    let disk = disk(8);
    let shown = format!(
        "attached: {} (8 sectors, read-write)\n",
        disk.path().display()
    );
    assert!(disk.page().contains(&shown), "{}", disk.page());
    assert_eq!((disk.gauge("sectors"), disk.count("changes")), (8, 0));
    change(&disk, Change::Detach).unwrap();
    assert!(disk.page().contains("attached: nothing\n"));
    assert_eq!((disk.gauge("sectors"), disk.count("changes")), (0, 1));
    assert!(!Driver::entropy().page().contains("attached"));
}

#[test]
fn an_image_may_come_and_go_before_power_on_and_after_power_off() {
    let mut disk = disk(8);
    disk.device.power_off().unwrap();
    disk.settled();
    let second = image(&disk, "second", 16, 0x11);
    change(&disk, Change::Replace(second)).unwrap();
    disk.device.power_on().unwrap();
    disk.start(0);
    assert_eq!(capacity(&disk), 16);
    assert_eq!(disk.ask(IN, 15, 512, WRITE), OK);
    assert_eq!(disk.data(512), [0x11; 512]);
}
