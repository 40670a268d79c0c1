// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Two devices on a port bus: what an access inside, across and outside their ranges gives.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_pdm::{BusBuilder, BusError, Effect, IoCtx, IoHandler};

/// Counts what is written to it.
struct Counter(AtomicU64);

impl IoHandler for Counter {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn write(&self, _: &mut IoCtx, _offset: u64, _size: u8, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }
}

/// A write here powers the VM off.
struct Button;

impl IoHandler for Button {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, cx: &mut IoCtx, _offset: u64, _size: u8, _value: u64) {
        cx.raise(Effect::PowerOff);
    }
}

fn main() -> Result<(), BusError> {
    let mut builder = BusBuilder::new();
    builder.pio("counter", 0x10..=0x13, Arc::new(Counter(AtomicU64::new(0))))?;
    builder.pio("button", 0x14..=0x14, Arc::new(Button))?;
    if let Err(refused) = builder.pio("greedy", 0x12..=0x20, Arc::new(Button)) {
        println!("refused: {refused}");
    }
    let buses = builder.build();

    let mut cx = IoCtx::new();
    buses.pio_write(&mut cx, 0x10, 4, 40);
    buses.pio_write(&mut cx, 0x10, 1, 2);
    println!("counter: {}", buses.pio_read(&mut cx, 0x10, 4));
    println!("across both: {:#x}", buses.pio_read(&mut cx, 0x13, 2));
    println!("nobody: {:#x}", buses.pio_read(&mut cx, 0x80, 2));
    println!("accesses without an owner: {:?}", buses.pio.unassigned());
    buses.pio_write(&mut cx, 0x14, 1, 1);
    println!("the EMT acts after the access on {:?}", cx.take());
    Ok(())
}
