// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers, negotiation, queues, lifecycle.

use vm_devices::{DiskAccess, Virtio};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{Device, ResetKind};

use crate::driver::{
    ADDRESS, AVAILABLE, DATA, Driver, EVENT_IDX, QUEUE, RAM, TABLE, USED, VERSION_1, WRITE,
};

fn disk() -> Driver {
    Driver::disk(64, DiskAccess::ReadWrite)
}

#[test]
fn the_device_says_what_it_is() {
    let disk = disk();
    let registers = [0x000, 0x004, 0x008, 0x034, 0x060, 0x070, 0x0b0, 0x0fc];
    let read = registers.map(|offset| disk.read(offset));
    assert_eq!(read, [0x7472_6976, 2, 2, 256, 0, 0, u32::MAX, 0]);
    assert_eq!(disk.read(0x100), 64, "sectors, low half");
    assert_eq!(disk.read(0x104), 0, "sectors, high half");
    assert_eq!(Driver::entropy().read(0x008), 4);
    let last = ADDRESS + Virtio::WINDOW - 4;
    assert_eq!(disk.read(last - ADDRESS), 0, "the window has an end");
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let disk = disk();
    disk.accept(disk.offered() | 1 << 40);
    assert_eq!(disk.read(0x70), 3);
    disk.accept(disk.offered() & !VERSION_1);
    assert_eq!(disk.read(0x70), 3, "there is no legacy device");
    disk.accept(VERSION_1);
    assert_eq!(disk.read(0x70), 11);
}

#[test]
fn a_driver_cannot_begin_without_features_agreed() {
    let disk = disk();
    disk.write(0x70, 0x0f);
    assert_eq!(disk.read(0x70), 3);
    disk.place_queue(QUEUE.into(), TABLE, AVAILABLE, USED);
    assert_eq!(disk.read(0x44), 0);
}

#[test]
fn a_queue_that_cannot_be_is_refused_and_needs_a_reset() {
    let disk = disk();
    let queues = [
        (0, TABLE, AVAILABLE, USED),
        (3, TABLE, AVAILABLE, USED),
        (512, TABLE, AVAILABLE, USED),
        (0x1_0010, TABLE, AVAILABLE, USED),
        (16, TABLE + 8, AVAILABLE, USED),
        (16, TABLE, AVAILABLE + 1, USED),
        (16, TABLE, 0, USED),
        (16, TABLE, AVAILABLE, USED + 2),
        (16, RAM, AVAILABLE, USED),
        (16, RAM - 16, AVAILABLE, USED),
        (16, TABLE, RAM - 2, USED),
        (16, TABLE, AVAILABLE, RAM - 4),
        (16, u64::MAX - 15, AVAILABLE, USED),
        (16, TABLE, AVAILABLE, u64::MAX - 3),
    ];
    for (size, table, available, used) in queues {
        disk.accept(disk.offered());
        disk.place_queue(size, table, available, used);
        let found = (disk.read(0x44), disk.read(0x70));
        assert_eq!(
            found,
            (0, 11 | 0x40),
            "{size} {table:#x} {available:#x} {used:#x}"
        );
    }
    disk.accept(disk.offered());
    disk.place_queue(256, TABLE, 0x8000, 0xa000);
    assert_eq!((disk.read(0x44), disk.read(0x70)), (1, 11));
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_cannot_be_made() {
    let disk = disk();
    disk.accept(disk.offered());
    disk.write(0x30, 1);
    assert_eq!(disk.read(0x34), 0);
    disk.write(0x44, 1);
    disk.write(0x50, 7);
    assert_eq!((disk.read(0x44), disk.read(0x70)), (0, 11));
}

#[test]
fn accesses_of_other_sizes_change_nothing() {
    let mut disk = disk();
    disk.start(0);
    for size in [1, 2, 8] {
        disk.access(0x70, size, 0);
    }
    assert_eq!(disk.read(0x70), 15);
}

#[test]
fn a_status_of_zero_is_a_reset_and_the_device_can_be_used_anew() {
    let mut disk = disk();
    disk.start(0);
    assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
    disk.write(0x70, 0);
    let registers = [0x70, 0x44, 0x60].map(|offset| disk.read(offset));
    assert_eq!(registers, [0, 0, 0]);
    disk.start(0);
    assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
}

#[test]
fn only_a_hard_reset_forgets_the_driver() {
    let mut disk = disk();
    disk.start(0);
    disk.device.reset(ResetKind::Soft).unwrap();
    assert_eq!(disk.read(0x70), 15);
    disk.device.reset(ResetKind::Hard).unwrap();
    disk.settled();
    assert_eq!(disk.read(0x70), 0);
    disk.start(0);
    assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
}

#[test]
fn a_device_works_with_and_without_event_indexes() {
    let mut disk = disk();
    for without in [0, EVENT_IDX] {
        disk.start(without);
        for _ in 0..3 * QUEUE {
            assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
        }
    }
}

#[test]
fn a_suspended_device_takes_no_request_until_it_is_resumed() {
    let mut disk = disk();
    disk.start(0);
    disk.device.suspend().unwrap();
    disk.settled();
    disk.header(0, 0);
    disk.submit(&crate::driver::request(DATA, 512, WRITE));
    assert_eq!(disk.used_index(), 0);
    assert!(!disk.device.is_pending());
    disk.device.resume().unwrap();
    assert_eq!(disk.completed(), 513);
    assert_eq!(disk.status(), 0);
}

#[test]
fn what_came_before_driver_ok_is_served_after_it() {
    let mut disk = disk();
    disk.start(0);
    disk.accept(disk.offered());
    disk.ram
        .write_slice(&[0; 0x100], GuestAddress(USED))
        .unwrap();
    disk.place_queue(QUEUE.into(), TABLE, AVAILABLE, USED);
    disk.header(0, 0);
    disk.submit(&crate::driver::request(DATA, 512, WRITE));
    assert_eq!(disk.used_index(), 0);
    disk.write(0x70, 15);
    disk.completed();
    assert_eq!(disk.status(), 0);
}

#[test]
fn a_device_survives_power_cycles() {
    let mut disk = disk();
    for _ in 0..20 {
        disk.start(0);
        assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
        disk.device.power_off().unwrap();
        disk.device.power_on().unwrap();
    }
}

#[test]
fn entropy_fills_what_it_is_given_up_to_a_page() {
    let mut rng = Driver::entropy();
    rng.start(0);
    rng.submit(&[(DATA, 0x10_0000, WRITE, 0)]);
    assert_eq!(rng.completed(), 4096);
    let data = rng.data(8192);
    let (random, rest) = data.split_at(4096);
    assert!(random.iter().filter(|byte| **byte == 0).count() < 100);
    assert!(rest.iter().all(|byte| *byte == 0));
    rng.submit(&[(DATA, 5, WRITE, 0)]);
    assert_eq!(rng.completed(), 5);
}
