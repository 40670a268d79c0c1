// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Drivers that break the rules: the device gives up on the queue, or answers, and can be reset.

use proptest::prelude::*;
use vm_devices::DiskAccess;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{
    AVAILABLE, DATA, Descriptor, Driver, HEADER, INDIRECT, NEXT, QUEUE, RAM, STATUS, TABLE, USED,
    WRITE, request,
};

fn disk() -> Driver {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    disk.start(0);
    disk
}

/// After a reset the device is as good as new.
fn works_again(disk: &mut Driver) {
    disk.start(0);
    assert_eq!(disk.ask(0, 0, 512, WRITE), 0);
}

#[test]
fn a_chain_without_end_breaks_the_queue() {
    let mut disk = disk();
    disk.header(0, 0);
    let loops: [&[Descriptor]; 4] = [
        &[(HEADER, 16, NEXT, 0)],
        &[(HEADER, 16, NEXT, 1), (DATA, 512, NEXT | WRITE, 1)],
        &[(HEADER, 16, NEXT, 1), (DATA, 0, NEXT, 0)],
        &[(HEADER, 16, NEXT, QUEUE)],
    ];
    for chain in loops {
        disk.submit(chain);
        disk.needs_reset();
        assert_eq!(disk.used_index(), 0, "nothing is given back");
        works_again(&mut disk);
        disk.start(0);
    }
}

#[test]
fn a_chain_longer_than_the_device_takes_breaks_the_queue() {
    let mut disk = disk();
    let table: Vec<Descriptor> = (0..300)
        .map(|n| (DATA, 1, if n < 299 { NEXT } else { WRITE }, n + 1))
        .collect();
    disk.describe(0x8000, &table);
    disk.submit(&[(0x8000, 300 * 16, INDIRECT, 0)]);
    disk.needs_reset();
    works_again(&mut disk);
}

#[test]
fn a_readable_part_behind_a_writable_one_breaks_the_queue() {
    let mut disk = disk();
    disk.submit(&[(STATUS, 1, WRITE | NEXT, 1), (HEADER, 16, 0, 0)]);
    disk.needs_reset();
    works_again(&mut disk);
}

#[test]
fn indirect_tables_that_cannot_be_break_the_queue() {
    let mut disk = disk();
    let tables: [Descriptor; 5] = [
        (0x8000, 0, INDIRECT, 0),
        (0x8000, 17, INDIRECT, 0),
        (RAM, 48, INDIRECT, 0),
        (u64::MAX, 48, INDIRECT, 0),
        (0x9000, 16, INDIRECT, 0),
    ];
    for table in tables {
        // A table that names itself.
        disk.describe(0x9000, &[(0x9000, 16, INDIRECT, 0)]);
        disk.submit(&[table]);
        disk.needs_reset();
        works_again(&mut disk);
        disk.start(0);
    }
}

#[test]
fn more_available_than_the_queue_holds_breaks_it() {
    let mut disk = disk();
    disk.set_available(QUEUE + 1);
    disk.write(0x50, 0);
    disk.needs_reset();
    works_again(&mut disk);
}

#[test]
fn a_head_outside_the_queue_breaks_it() {
    let mut disk = disk();
    disk.ram
        .write_obj(QUEUE, GuestAddress(AVAILABLE + 4))
        .unwrap();
    disk.set_available(1);
    disk.write(0x50, 0);
    disk.needs_reset();
    works_again(&mut disk);
}

#[test]
fn a_broken_queue_is_told_by_a_configuration_interrupt() {
    let mut disk = disk();
    disk.submit(&[(HEADER, 16, NEXT, 0)]);
    assert_eq!(disk.interrupt(), 2);
    assert_eq!(disk.read(0x70), 15 | 0x40);
    // What is rung now is not looked at.
    disk.submit(&request(DATA, 512, WRITE));
    assert_eq!(disk.used_index(), 0);
    works_again(&mut disk);
}

/// One thing a hostile guest does.
#[derive(Debug, Clone)]
enum Act {
    Register { offset: u64, value: u32 },
    Access { offset: u64, size: u8, value: u64 },
    Describe { slot: u16, descriptor: Descriptor },
    Memory { page: u64, offset: u16, value: u16 },
    Available(u16),
    Start,
    Header { kind: u32, sector: u64 },
    Ring,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(HEADER),
        Just(STATUS),
        Just(DATA),
        Just(TABLE),
        Just(USED),
        Just(RAM - 8),
        Just(u64::MAX),
        any::<u64>(),
        0..RAM
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let bytes = prop_oneof![
        Just(0),
        Just(1),
        Just(16),
        Just(32),
        Just(512),
        0..5000_u32,
        any::<u32>()
    ];
    (
        address(),
        bytes,
        prop_oneof![0..8_u16, any::<u16>()],
        0..QUEUE + 1,
    )
}

fn act() -> impl Strategy<Value = Act> {
    let offset = prop_oneof![(0..0x40_u64).prop_map(|n| n * 4), 0..0x1000_u64];
    let value = prop_oneof![0..20_u32, any::<u32>()];
    let page = prop_oneof![Just(TABLE), Just(AVAILABLE), Just(USED)];
    prop_oneof![
        1 => (offset.clone(), value).prop_map(|(offset, value)| Act::Register { offset, value }),
        1 => (offset, prop_oneof![Just(1), Just(2), Just(4), Just(8)], any::<u64>())
            .prop_map(|(offset, size, value)| Act::Access { offset, size, value }),
        6 => (0..QUEUE, descriptor())
            .prop_map(|(slot, descriptor)| Act::Describe { slot, descriptor }),
        1 => (page, 0..300_u16, prop_oneof![0..QUEUE, any::<u16>()])
            .prop_map(|(page, offset, value)| Act::Memory { page, offset, value }),
        2 => prop_oneof![0..3 * QUEUE, any::<u16>()].prop_map(Act::Available),
        2 => Just(Act::Start),
        3 => (0..16_u32, prop_oneof![0..10_u64, any::<u64>()])
            .prop_map(|(kind, sector)| Act::Header { kind, sector }),
        4 => Just(Act::Ring),
    ]
}

fn perform(disk: &mut Driver, act: &Act) {
    match act {
        Act::Register { offset, value } => disk.write(*offset & 0xffc, *value),
        Act::Access {
            offset,
            size,
            value,
        } => {
            let offset = (*offset).min(0x1000 - u64::from(*size));
            disk.access(offset, *size, *value);
        }
        Act::Describe { slot, descriptor } => {
            disk.describe(TABLE + 16 * u64::from(*slot), &[*descriptor]);
        }
        Act::Memory {
            page,
            offset,
            value,
        } => {
            let at = GuestAddress(page + u64::from(*offset));
            disk.ram.write_obj(*value, at).unwrap();
        }
        Act::Available(index) => disk.set_available(*index),
        Act::Start => disk.start(0),
        Act::Header { kind, sector } => disk.header(*kind, *sector),
        Act::Ring => disk.write(0x50, 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The thread ends if it panics, and then nothing is answered any more.
    #[test]
    fn whatever_a_driver_does_the_device_works_after_a_reset(
        acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut disk = disk();
        for act in &acts {
            perform(&mut disk, act);
        }
        works_again(&mut disk);
        let file = std::fs::metadata(disk.path()).unwrap();
        prop_assert_eq!(file.len(), 8 * 512);
    }
}
