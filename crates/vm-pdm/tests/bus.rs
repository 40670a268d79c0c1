// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an access reaches, on both buses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use proptest::prelude::*;
use vm_pdm::info::Page;
use vm_pdm::stats::{Pattern, Scope, Stats, Value};
use vm_pdm::{BusBuilder, BusError, Buses, IoCtx, IoHandler, Unassigned};

/// What a handler was asked: (owner, offset, size, value written).
type Seen = Arc<Mutex<Vec<(&'static str, u64, u8, Option<u64>)>>>;

struct Probe {
    owner: &'static str,
    answer: u64,
    seen: Seen,
}

impl IoHandler for Probe {
    fn read(&self, _: &mut IoCtx, offset: u64, size: u8) -> u64 {
        self.seen
            .lock()
            .unwrap()
            .push((self.owner, offset, size, None));
        self.answer
    }

    fn write(&self, _: &mut IoCtx, offset: u64, size: u8, value: u64) {
        self.seen
            .lock()
            .unwrap()
            .push((self.owner, offset, size, Some(value)));
    }
}

fn probe(owner: &'static str, answer: u64, seen: &Seen) -> Arc<dyn IoHandler> {
    Arc::new(Probe {
        owner,
        answer,
        seen: Arc::clone(seen),
    })
}

fn two_neighbours(seen: &Seen) -> Buses {
    let mut builder = BusBuilder::new();
    builder
        .pio("a", 0x10..=0x13, probe("a", 0xaaaa_aaaa, seen))
        .and_then(|b| b.pio("b", 0x14..=0x17, probe("b", 0xbbbb_bbbb, seen)))
        .and_then(|b| b.pio("z", 0xffff..=0xffff, probe("z", 0x5a, seen)))
        .and_then(|b| {
            b.mmio(
                "a",
                0x1000..=0x10ff,
                probe("a", 0xaaaa_aaaa_aaaa_aaaa, seen),
            )
        })
        .and_then(|b| {
            b.mmio(
                "b",
                0x1100..=0x1fff,
                probe("b", 0xbbbb_bbbb_bbbb_bbbb, seen),
            )
        })
        .and_then(|b| b.mmio("z", u64::MAX..=u64::MAX, probe("z", 0x5a, seen)))
        .unwrap();
    builder.build()
}

#[test]
fn an_access_inside_a_range_reaches_its_handler_once_and_whole() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    assert_eq!(buses.pio_read(&mut cx, 0x12, 2), 0xaaaa);
    buses.pio_write(&mut cx, 0x14, 4, 0xdead_beef);
    buses.pio_write(&mut cx, 0x14, 1, 0xdead_beef);
    assert_eq!(buses.mmio_read(&mut cx, 0x10f8, 8), 0xaaaa_aaaa_aaaa_aaaa);
    buses.mmio_write(&mut cx, 0x1104, 4, u64::MAX);
    let expected = [
        ("a", 2, 2, None),
        ("b", 0, 4, Some(0xdead_beef)),
        ("b", 0, 1, Some(0xef)),
        ("a", 0xf8, 8, None),
        ("b", 4, 4, Some(0xffff_ffff)),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(buses.pio.unassigned(), Unassigned::default());
    assert_eq!(buses.mmio.unassigned(), Unassigned::default());
}

#[test]
fn sd_i01_nobody_reads_as_all_ones_and_swallows_writes_and_is_counted() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    assert_eq!(buses.pio_read(&mut cx, 0x100, 1), 0xff);
    assert_eq!(buses.pio_read(&mut cx, 0x100, 2), 0xffff);
    assert_eq!(buses.pio_read(&mut cx, 0x100, 4), 0xffff_ffff);
    buses.pio_write(&mut cx, 0x100, 4, 1);
    assert_eq!(buses.mmio_read(&mut cx, 0x9000, 1), 0xff);
    assert_eq!(buses.mmio_read(&mut cx, 0x9000, 8), u64::MAX);
    buses.mmio_write(&mut cx, 0x9000, 8, 1);
    assert_eq!(*seen.lock().unwrap(), []);
    assert_eq!(
        buses.pio.unassigned(),
        Unassigned {
            reads: 3,
            writes: 1
        }
    );
    assert_eq!(
        buses.mmio.unassigned(),
        Unassigned {
            reads: 2,
            writes: 1
        }
    );
}

#[test]
fn sd_i01_a_size_that_a_bus_does_not_carry_reaches_nobody() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    for size in [0, 3, 5, 8, 255] {
        buses.pio_write(&mut cx, 0x10, size, 1);
        let ones = if size == 0 {
            0
        } else {
            u64::MAX >> (64 - 8 * u32::from(size.min(4)))
        };
        assert_eq!(u64::from(buses.pio_read(&mut cx, 0x10, size)), ones);
    }
    for size in [0, 9, 16, 255] {
        buses.mmio_write(&mut cx, 0x1000, size, 1);
        assert_eq!(
            buses.mmio_read(&mut cx, 0x1000, size),
            if size == 0 { 0 } else { u64::MAX }
        );
    }
    assert_eq!(*seen.lock().unwrap(), []);
}

#[test]
fn sd_i03_an_access_that_crosses_two_ranges_is_split_into_bytes_in_ascending_order() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    assert_eq!(buses.pio_read(&mut cx, 0x12, 4), 0xbbbb_aaaa);
    buses.pio_write(&mut cx, 0x13, 2, 0x2211);
    buses.mmio_write(&mut cx, 0x10fe, 4, 0x4433_2211);
    let expected = [
        ("a", 2, 1, None),
        ("a", 3, 1, None),
        ("b", 0, 1, None),
        ("b", 1, 1, None),
        ("a", 3, 1, Some(0x11)),
        ("b", 0, 1, Some(0x22)),
        ("a", 0xfe, 1, Some(0x11)),
        ("a", 0xff, 1, Some(0x22)),
        ("b", 0, 1, Some(0x33)),
        ("b", 1, 1, Some(0x44)),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn sd_i03_an_access_that_crosses_into_nothing_has_ones_there_and_counts_once() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    assert_eq!(buses.pio_read(&mut cx, 0x16, 4), 0xffff_bbbb);
    assert_eq!(buses.pio_read(&mut cx, 0x0e, 4), 0xaaaa_ffff);
    assert_eq!(
        buses.pio_read(&mut cx, 0xffff, 4),
        0xffff_ff5a,
        "port 0 does not follow 0xffff"
    );
    assert_eq!(buses.mmio_read(&mut cx, 0x1ffc, 8), 0xffff_ffff_bbbb_bbbb);
    assert_eq!(buses.mmio_read(&mut cx, u64::MAX, 2), 0xff5a);
    buses.mmio_write(&mut cx, u64::MAX, 8, 0x1234);
    assert_eq!(
        buses.pio.unassigned(),
        Unassigned {
            reads: 3,
            writes: 0
        }
    );
    assert_eq!(
        buses.mmio.unassigned(),
        Unassigned {
            reads: 2,
            writes: 1
        }
    );
}

#[test]
fn memory_accesses_of_odd_sizes_are_split_into_bytes() {
    let seen = Seen::default();
    let buses = two_neighbours(&seen);
    let mut cx = IoCtx::new();
    assert_eq!(buses.mmio_read(&mut cx, 0x1000, 3), 0xaa_aaaa);
    buses.mmio_write(&mut cx, 0x1000, 5, 0x55_4433_2211);
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|&(_, _, size, _)| size == 1)
    );
    assert_eq!(seen.lock().unwrap().len(), 8);
}

#[test]
fn sd_i02_an_overlap_is_refused_and_names_both_owners() {
    let seen = Seen::default();
    let mut builder = BusBuilder::new();
    builder
        .pio("com1", 0x3f8..=0x3ff, probe("com1", 0, &seen))
        .unwrap();
    for ports in [
        0x3f8..=0x3f8,
        0x3ff..=0x400,
        0x3f0..=0x3f8,
        0..=0xffff,
        0x3fa..=0x3fb,
    ] {
        let error = builder
            .pio("mouse", ports, probe("mouse", 0, &seen))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("mouse") && text.contains("com1") && text.contains("0x3f8"),
            "{text}"
        );
    }
    builder
        .pio("mouse", 0x3f7..=0x3f7, probe("mouse", 0, &seen))
        .unwrap();
    builder
        .pio("disk", 0x400..=0x400, probe("disk", 0, &seen))
        .unwrap();
}

/// Forwards each access to its neighbour over the bus it is on, and counts.
struct Forward {
    own: u64,
    next: u16,
    buses: Arc<OnceLock<Buses>>,
    served: AtomicU64,
    wrong: AtomicU64,
}

impl IoHandler for Forward {
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
        self.served.fetch_add(1, SeqCst);
        if offset == 0 {
            // An access inside an access: were a table locked, this would be for ever.
            let next = self.buses.get().unwrap().pio_read(cx, self.next + 4, size);
            return u64::from(next) + (1 << 16);
        }
        self.own
    }

    fn write(&self, _: &mut IoCtx, offset: u64, size: u8, value: u64) {
        self.served.fetch_add(1, SeqCst);
        // Both halves of what is written are the same, and tell whose it is.
        if offset != 4 || size != 4 || value != self.own << 16 | self.own {
            self.wrong.fetch_add(1, SeqCst);
        }
    }
}

#[test]
fn sd_i06_accesses_of_four_vcpus_at_once_are_neither_lost_torn_nor_misdirected() {
    const ROUNDS: u64 = 5000;
    let shared = Arc::new(OnceLock::new());
    let mut builder = BusBuilder::new();
    let devices: Vec<_> = (0..4_u16)
        .map(|n| {
            let device = Arc::new(Forward {
                own: 0x1100 + u64::from(n),
                next: 0x100 + (n + 1) % 4 * 8,
                buses: Arc::clone(&shared),
                served: AtomicU64::new(0),
                wrong: AtomicU64::new(0),
            });
            let first = 0x100 + n * 8;
            builder
                .pio("forward", first..=first + 7, device.clone())
                .unwrap();
            device
        })
        .collect();
    shared.set(builder.build()).unwrap();
    let buses = shared.get().unwrap();
    std::thread::scope(|scope| {
        for vcpu in 0..4_u16 {
            scope.spawn(move || {
                let mut cx = IoCtx::new();
                for round in 0..ROUNDS {
                    let n = (u64::from(vcpu) + round) % 4;
                    let port = 0x100 + u16::try_from(n).unwrap() * 8;
                    let own = 0x1100 + u32::try_from(n).unwrap();
                    buses.pio_write(&mut cx, port + 4, 4, own << 16 | own);
                    let next = 0x1100 + u32::try_from((n + 1) % 4).unwrap();
                    assert_eq!(buses.pio_read(&mut cx, port, 4), next + (1 << 16));
                }
            });
        }
    });
    for device in devices {
        // In each round a write, a read and the read forwarded to it come to each device once.
        assert_eq!(device.served.load(SeqCst), 3 * ROUNDS);
        assert_eq!(device.wrong.load(SeqCst), 0);
    }
    assert_eq!(buses.pio.unassigned(), Unassigned::default());
}

#[test]
fn an_empty_or_wrapped_range_is_refused() {
    let seen = Seen::default();
    let mut builder = BusBuilder::new();
    let (first, last) = (0xffff_ffff_ffff_f000_u64, 0xfff_u64);
    let wrapped = builder
        .mmio("bar", first..=last, probe("bar", 0, &seen))
        .unwrap_err();
    assert_eq!(
        wrapped,
        BusError::Empty {
            space: "address",
            owner: "bar".into(),
            first,
            last
        }
    );
    let (first, last) = (2_u16, 1_u16);
    assert!(
        builder
            .pio("bar", first..=last, probe("bar", 0, &seen))
            .is_err()
    );
}

#[test]
fn every_port_can_have_an_owner_of_its_own_but_one() {
    let seen = Seen::default();
    let mut builder = BusBuilder::new();
    for port in 0..0xffff {
        builder
            .pio("p", port..=port, probe("p", u64::from(port), &seen))
            .unwrap();
    }
    let full = builder
        .pio("last", 0xffff..=0xffff, probe("last", 0, &seen))
        .unwrap_err();
    assert_eq!(
        full,
        BusError::Full {
            space: "port",
            owner: "last".into()
        }
    );
    let buses = builder.build();
    let mut cx = IoCtx::new();
    assert_eq!(buses.pio_read(&mut cx, 0xfffe, 1), 0xfe);
    assert_eq!(buses.pio_read(&mut cx, 0xffff, 1), 0xff);
}

/// Answers each byte with a function of where it is asked, so that a wrong range or offset shows.
struct Tagged(u64);

impl IoHandler for Tagged {
    fn read(&self, _: &mut IoCtx, offset: u64, size: u8) -> u64 {
        (0..u64::from(size)).fold(0, |v, i| v | u64::from(tag(self.0, offset + i)) << (8 * i))
    }

    fn write(&self, _: &mut IoCtx, _: u64, _: u8, _: u64) {}
}

fn tag(owner: u64, offset: u64) -> u8 {
    let mixed =
        (owner + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ offset.wrapping_mul(0x1_0001_0003);
    mixed.to_le_bytes()[5] & 0x7f
}

/// Disjoint ranges from a list of gaps and lengths.
fn layout(parts: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut next = 0;
    let mut ranges = Vec::new();
    for (gap, len) in parts {
        let first = next + gap;
        ranges.push((first, first + len));
        next = first + len + 1;
    }
    ranges
}

fn model(ranges: &[(u64, u64)], addr: u64) -> Option<u8> {
    let owner = ranges
        .iter()
        .position(|(first, last)| (*first..=*last).contains(&addr))?;
    Some(tag(owner as u64, addr - ranges[owner].0))
}

proptest! {
    #[test]
    fn every_byte_comes_from_the_owner_of_its_address(
        parts in prop::collection::vec(
            (0..0x3000_u64, prop_oneof![0..8_u64, 0..0x2000_u64, 0..0x20_0000_u64]), 0..40),
        picks in prop::collection::vec((any::<prop::sample::Index>(), -9..9_i64, 0..12_u8), 1..60),
        strays in prop::collection::vec((any::<u64>(), any::<u8>()), 0..20),
    ) {
        let ranges = layout(&parts);
        let mut builder = BusBuilder::new();
        for (i, (first, last)) in ranges.iter().enumerate() {
            builder.mmio("r", *first..=*last, Arc::new(Tagged(i as u64))).unwrap();
        }
        let buses = builder.build();
        let edges: Vec<u64> = ranges.iter().flat_map(|(f, l)| [*f, *l]).chain([0]).collect();
        let near = picks
            .into_iter()
            .map(|(index, delta, size)| (index.get(&edges).wrapping_add_signed(delta), size));
        let mut cx = IoCtx::new();
        for (addr, size) in near.chain(strays) {
            let read = buses.mmio_read(&mut cx, addr, size);
            buses.mmio_write(&mut cx, addr, size, read);
            for (i, byte) in (0_u64..).zip(read.to_le_bytes()).take(size.min(8).into()) {
                let owner = (size <= 8).then(|| addr.checked_add(i)).flatten();
                let expected = owner.and_then(|at| model(&ranges, at)).unwrap_or(0xff);
                prop_assert_eq!(byte, expected, "{:#x}+{}", addr, i);
            }
        }
    }

    #[test]
    fn every_port_byte_comes_from_the_owner_of_its_port(
        parts in prop::collection::vec((0..64_u64, 0..32_u64), 0..40),
        picks in prop::collection::vec((prop_oneof![0..4000_u16, any::<u16>()], any::<u8>()), 1..100),
    ) {
        let ranges = layout(&parts);
        let mut builder = BusBuilder::new();
        for (i, (first, last)) in ranges.iter().enumerate() {
            let ports = u16::try_from(*first).unwrap()..=u16::try_from(*last).unwrap();
            builder.pio("r", ports, Arc::new(Tagged(i as u64))).unwrap();
        }
        let buses = builder.build();
        let mut cx = IoCtx::new();
        for (port, size) in picks {
            let size = if size < 128 { size % 6 } else { size };
            let read = buses.pio_read(&mut cx, port, size);
            buses.pio_write(&mut cx, port, size, read);
            for (i, byte) in (0_u64..).zip(read.to_le_bytes()).take(size.min(4).into()) {
                let carried = matches!(size, 1 | 2 | 4);
                let expected =
                    carried.then(|| model(&ranges, u64::from(port) + i)).flatten().unwrap_or(0xff);
                prop_assert_eq!(byte, expected, "{:#x}+{}", port, i);
            }
        }
    }
}

#[test]
fn what_nobody_answered_is_a_statistic_and_who_owns_what_is_a_page() {
    let seen = Seen::default();
    let buses = Arc::new(two_neighbours(&seen));
    let stats = Stats::new();
    let mut scope = Scope::new(&stats, "/bus");
    buses.stats(&mut scope).unwrap();
    let mut cx = IoCtx::new();
    buses.pio_read(&mut cx, 0x20, 1);
    buses.mmio_write(&mut cx, 0x0, 4, 1);
    buses.mmio_write(&mut cx, 0x0, 4, 1);
    let snapshot = stats.snapshot(&Pattern::default());
    let found: Vec<_> = snapshot.samples.iter().map(|s| s.value).collect();
    assert_eq!(found, [0, 2, 1, 0].map(Value::Counter));
    let mut page = Page::new();
    buses.info(&mut page).unwrap();
    let text = page.into_text();
    assert_eq!(text.lines().count(), 6);
    assert!(text.starts_with("ports     0x0010 - 0x0013  a\n"), "{text}");
    assert!(
        text.contains("addresses 0x0000000000001000 - 0x00000000000010ff  a\n"),
        "{text}"
    );
}
