// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest reads from and writes to CMOS.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// 2001-09-09 01:46:40 UTC, a Sunday.
const THEN: u64 = 1_000_000_000;

struct Rig {
    cmos: Arc<Cmos>,
    now_ns: Arc<AtomicU64>,
}

impl Rig {
    fn new(memory: CmosMemory) -> Self {
        let now_ns = Arc::new(AtomicU64::new(THEN * 1_000_000_000));
        let clock = Arc::clone(&now_ns);
        let cmos = Cmos::new(
            memory,
            Box::new(move || Duration::from_nanos(clock.load(Ordering::SeqCst))),
        );
        Self { cmos, now_ns }
    }

    fn get(&self, index: usize) -> u8 {
        let mut cx = IoCtx::new();
        self.cmos.write(&mut cx, 0, 1, index as u64);
        self.cmos.read(&mut cx, 1, 1).to_le_bytes()[0]
    }

    fn put(&self, index: usize, value: u8) {
        let mut cx = IoCtx::new();
        self.cmos.write(&mut cx, 0, 1, index as u64);
        self.cmos.write(&mut cx, 1, 1, value.into());
    }

    fn time(&self) -> [u8; 8] {
        TIME.map(|index| self.get(index))
    }

    fn pass(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap();
        self.now_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

#[test]
fn the_time_is_shown_in_bcd_and_24_hours_first() {
    let rig = Rig::new(CmosMemory::default());
    assert_eq!(rig.time(), [0x40, 0x46, 0x01, 0x01, 0x09, 0x09, 0x01, 0x20]);
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.time()[..3], [0x00, 0x47, 0x01]);
}

#[test]
fn the_time_is_shown_as_register_b_says() {
    let rig = Rig::new(CmosMemory::default());
    rig.put(REGISTER_B, BINARY | HOURS_24);
    assert_eq!(rig.time(), [40, 46, 1, 1, 9, 9, 1, 20]);
    rig.put(REGISTER_B, 0);
    for (hours_later, shown) in [
        (0, 0x01),
        (10, 0x11),
        (1, 0x92),
        (1, 0x81),
        (10, 0x91),
        (1, 0x12),
    ] {
        rig.pass(Duration::from_secs(hours_later * 3600));
        assert_eq!(rig.get(HOURS), shown);
    }
}

#[test]
fn a_clock_that_was_set_goes_on_from_there() {
    let rig = Rig::new(CmosMemory::default());
    rig.put(REGISTER_B, SET | HOURS_24);
    for (index, value) in TIME
        .into_iter()
        .zip([0x58, 0x59, 0x23, 0x07, 0x29, 0x02, 0x24, 0x20])
    {
        rig.put(index, value);
    }
    rig.pass(Duration::from_secs(1000));
    assert_eq!(
        rig.get(SECONDS),
        0x58,
        "updates wait while the clock is set"
    );
    rig.put(REGISTER_B, HOURS_24);
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.time(), [0x01, 0x00, 0x00, 0x06, 0x01, 0x03, 0x24, 0x20]);
}

#[test]
fn one_field_can_be_set_alone_and_nonsense_changes_nothing() {
    let rig = Rig::new(CmosMemory::default());
    rig.put(MINUTES, 0x05);
    assert_eq!(rig.time()[..3], [0x40, 0x05, 0x01]);
    rig.put(MONTH, 0xff);
    rig.put(DAY, 0x00);
    assert_eq!(rig.time(), [0x40, 0x05, 0x01, 0x01, 0x09, 0x09, 0x01, 0x20]);
}

#[test]
fn an_update_is_announced_only_before_the_second_ends() {
    let rig = Rig::new(CmosMemory::default());
    assert_eq!(rig.get(REGISTER_A), A_RESET);
    rig.pass(Duration::from_micros(998_000));
    assert_eq!(rig.get(REGISTER_A), A_RESET | UIP);
    rig.put(REGISTER_B, SET);
    assert_eq!(
        rig.get(REGISTER_A),
        A_RESET,
        "no update while the clock is set"
    );
    rig.put(REGISTER_B, 0);
    rig.pass(Duration::from_micros(2_000));
    assert_eq!(rig.get(REGISTER_A), A_RESET);
    rig.put(REGISTER_A, 0xff);
    assert_eq!(rig.get(REGISTER_A), 0x7f, "the guest cannot set it");
}

#[test]
fn memory_sizes_are_where_firmware_looks() {
    let rig = Rig::new(CmosMemory {
        below_4g_bytes: 3 << 30,
        above_4g_bytes: 5 << 30,
    });
    let word = |at| u16::from_le_bytes([rig.get(at), rig.get(at + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(word(0x34), (3072 - 16) * 16);
    assert_eq!(
        [rig.get(0x5b), rig.get(0x5c), rig.get(0x5d)],
        [0x00, 0x40, 0x01]
    );
    let small = Rig::new(CmosMemory {
        below_4g_bytes: 8 << 20,
        above_4g_bytes: 0,
    });
    assert_eq!(
        [small.get(0x17), small.get(0x18)],
        (7 * 1024_u16).to_le_bytes()
    );
    assert_eq!([small.get(0x34), small.get(0x35)], [0, 0]);
    let sum: u16 = (0x10..0x2e).map(|at| u16::from(small.get(at))).sum();
    assert_eq!([small.get(0x2e), small.get(0x2f)], sum.to_be_bytes());
}

#[test]
fn memory_and_time_outlive_a_hard_reset_but_interrupt_enables_do_not() {
    let rig = Rig::new(CmosMemory::default());
    rig.put(0x0f, 0x0a);
    rig.put(MINUTES, 0x05);
    rig.put(REGISTER_B, 0x70 | HOURS_24);
    rig.cmos.reset(ResetKind::Hard).unwrap();
    assert_eq!(rig.get(0x0f), 0x0a);
    assert_eq!(rig.get(MINUTES), 0x05);
    assert_eq!(rig.get(REGISTER_B), HOURS_24);
}

#[test]
fn status_registers_cannot_be_written_and_the_index_cannot_be_read() {
    let rig = Rig::new(CmosMemory::default());
    rig.put(REGISTER_C, 0xff);
    rig.put(REGISTER_D, 0x00);
    assert_eq!((rig.get(REGISTER_C), rig.get(REGISTER_D)), (0, VALID));
    assert_eq!(rig.cmos.read(&mut IoCtx::new(), 0, 1), 0xff);
    assert_eq!(
        rig.get(0x8f),
        rig.get(0x0f),
        "bit 7 of the index masks NMIs"
    );
}
