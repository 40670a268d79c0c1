// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What dispatch costs beside the call it ends in, and beside a search of a sorted list.
//! The device is one atomic load.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use vm_bench::{Rounds, row};
use vm_pdm::{BusBuilder, Buses, IoCtx, IoHandler};

const ACCESSES: usize = 4096;
const BASE: u64 = 0xd000_0000;
const STRIDE: u64 = 0x4000;

struct Register(AtomicU64);

impl IoHandler for Register {
    fn read(&self, _: &mut IoCtx, offset: u64, _size: u8) -> u64 {
        // Relaxed: the cheapest device there can be.
        self.0.load(Ordering::Relaxed) ^ offset
    }

    fn write(&self, _: &mut IoCtx, _offset: u64, _size: u8, value: u64) {
        // Relaxed: the cheapest device there can be.
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Ranges, and random accesses to them as (range, offset).
struct Load {
    handlers: Vec<Arc<dyn IoHandler>>,
    accesses: Vec<(usize, u64)>,
}

impl Load {
    fn new(ranges: usize, offsets: u64) -> Self {
        let handlers = (0..ranges)
            .map(|i| Arc::new(Register(AtomicU64::new(i as u64))) as Arc<dyn IoHandler>)
            .collect();
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) % below
        };
        let count = ranges as u64;
        let accesses = (0..ACCESSES)
            .map(|_| {
                (
                    usize::try_from(random(count)).unwrap_or(0),
                    random(offsets) & !3,
                )
            })
            .collect();
        Self { handlers, accesses }
    }

    fn bus(&self, add: impl Fn(&mut BusBuilder, u64, Arc<dyn IoHandler>)) -> Buses {
        let mut builder = BusBuilder::new();
        for (handler, i) in self.handlers.iter().zip(0..) {
            add(&mut builder, i, Arc::clone(handler));
        }
        builder.build()
    }
}

/// The limit: the handler is known.
fn direct(load: &Load) -> impl FnMut() -> u64 {
    let mut cx = IoCtx::new();
    move || {
        let read = |sum: u64, &(range, offset): &(usize, u64)| {
            sum.wrapping_add(load.handlers[range].read(&mut cx, black_box(offset), 4))
        };
        load.accesses.iter().fold(0, read)
    }
}

/// What one writes first: a list of ranges sorted by base, searched by halving.
fn sorted(load: &Load) -> impl FnMut() -> u64 {
    let mut cx = IoCtx::new();
    let list: Vec<(u64, u64, Arc<dyn IoHandler>)> = load
        .handlers
        .iter()
        .zip(0..)
        .map(|(handler, i)| (BASE + i * STRIDE, 0x1000, Arc::clone(handler)))
        .collect();
    let addresses = addresses(load);
    move || {
        let read = |sum: u64, &addr: &u64| {
            let addr = black_box(addr);
            let after = list.partition_point(|(base, ..)| *base <= addr);
            let (base, size, handler) = &list[after - 1];
            let offset = addr - base;
            sum.wrapping_add(if offset < *size {
                handler.read(&mut cx, offset, 4)
            } else {
                0
            })
        };
        addresses.iter().fold(0, read)
    }
}

fn mmio(load: &Load) -> impl FnMut() -> u64 {
    let mut cx = IoCtx::new();
    let buses = load.bus(|builder, i, handler| {
        let base = BASE + i * STRIDE;
        builder
            .mmio("bench", base..=base + 0xfff, handler)
            .expect("disjoint");
    });
    let addresses = addresses(load);
    move || {
        let read =
            |sum: u64, &addr: &u64| sum.wrapping_add(buses.mmio_read(&mut cx, black_box(addr), 4));
        addresses.iter().fold(0, read)
    }
}

fn pio(load: &Load) -> impl FnMut() -> u64 {
    let mut cx = IoCtx::new();
    let port = |i: u64| u16::try_from(i * 16).unwrap_or(0);
    let buses = load.bus(|builder, i, handler| {
        builder
            .pio("bench", port(i)..=port(i) + 7, handler)
            .expect("disjoint");
    });
    // 32 bits wide, as a register is: hiding 16 from the optimiser costs a slow store and load.
    let ports: Vec<u32> = load
        .accesses
        .iter()
        .map(|&(range, offset)| u32::from(port(range as u64) + port(offset) / 16))
        .collect();
    move || {
        let read = |sum: u64, &port: &u32| {
            sum.wrapping_add(
                buses
                    .pio_read(&mut cx, (black_box(port) & 0xffff) as u16, 4)
                    .into(),
            )
        };
        ports.iter().fold(0, read)
    }
}

fn addresses(load: &Load) -> Vec<u64> {
    load.accesses
        .iter()
        .map(|&(range, offset)| BASE + range as u64 * STRIDE + offset)
        .collect()
}

/// Never inlined: both sides of a row, and one side in all rows, then run the same code.
#[inline(never)]
fn ns_per_access(run: &mut dyn FnMut() -> u64, batches: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..batches {
        black_box(run());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(batches) / ACCESSES as f64
}

/// Both sides must do the same work.
fn compare(
    rounds: Rounds,
    bench: &str,
    mut ours: impl FnMut() -> u64,
    (against, target, why): (&str, f64, &str),
    mut theirs: impl FnMut() -> u64,
) {
    assert_eq!(ours(), theirs(), "both must do the same work");
    let batches = rounds.batch(20);
    row(
        rounds,
        (bench, "ns"),
        &mut || ns_per_access(&mut ours, batches),
        (against, target, why),
        &mut || ns_per_access(&mut theirs, batches),
    );
}

fn main() {
    let rounds = Rounds::from_args();
    let mmio_limit = (
        "dyn call, handler known",
        2.2,
        "the page is hashed and its range's bounds are checked before the call",
    );
    let list = ("sorted list", 1.0, "few ranges are searched as fast");
    for ranges in [8, 32, 256] {
        let load = Load::new(ranges, 0x1000);
        let bench = format!("dispatch mmio {ranges}");
        compare(rounds, &bench, mmio(&load), mmio_limit, direct(&load));
        compare(rounds, &bench, mmio(&load), list, sorted(&load));
    }
    let load = Load::new(32, 8);
    let pio_limit = (
        "dyn call, handler known",
        1.5,
        "two loads come before the call: the port's entry and its range",
    );
    compare(
        rounds,
        "dispatch pio 32",
        pio(&load),
        pio_limit,
        direct(&load),
    );
}
