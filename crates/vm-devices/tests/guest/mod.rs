// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest's serial driver that works on interrupts only, as Linux's 8250 driver does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vm_pdm::{Buses, IoCtx, IrqChip, Level};

pub(crate) const BASE: u16 = 0x3f8;
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const LSR: u16 = 5;

/// How long a test waits before it fails: no test needs a fraction of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// An edge-triggered input: rising edges that come before the driver looks are one interrupt.
#[derive(Default)]
pub(crate) struct Edges {
    state: Mutex<EdgeState>,
    rose: Condvar,
}

#[derive(Default)]
struct EdgeState {
    level: Option<Level>,
    pending: bool,
    rises: u64,
}

impl IrqChip for Edges {
    fn set(&self, _: u32, level: Level) {
        let mut state = self.state.lock().unwrap();
        if level == Level::High && state.level != Some(Level::High) {
            state.pending = true;
            state.rises += 1;
            self.rose.notify_all();
        }
        state.level = Some(level);
    }
}

impl Edges {
    /// Waits for an interrupt and takes it.
    pub(crate) fn wait(&self) {
        let state = self.state.lock().unwrap();
        let (mut state, timeout) = self
            .rose
            .wait_timeout_while(state, LIMIT, |state| !state.pending)
            .unwrap();
        assert!(!timeout.timed_out(), "no interrupt came: one was lost");
        state.pending = false;
    }

    pub(crate) fn rises(&self) -> u64 {
        self.state.lock().unwrap().rises
    }
}

/// The driver. `sends` is what it has to send; it sends 16 bytes for each empty transmitter.
pub(crate) struct Driver {
    pub(crate) bus: Arc<Buses>,
    pub(crate) edges: Arc<Edges>,
    pub(crate) received: Vec<u8>,
    pub(crate) sends: Vec<u8>,
    pub(crate) sent: usize,
    /// Whether what is received is to be sent.
    pub(crate) echoes: bool,
    /// Looks at IIR in one interrupt before the handler gives up (Linux: 512).
    pub(crate) passes: u32,
}

impl Driver {
    pub(crate) fn new(bus: Arc<Buses>, edges: Arc<Edges>, passes: u32) -> Self {
        let driver = Self {
            bus,
            edges,
            received: Vec::new(),
            sends: Vec::new(),
            sent: 0,
            echoes: false,
            passes,
        };
        driver.write(IIR, 0x07);
        driver.read(DATA);
        driver.write(IER, 0x01);
        driver
    }

    pub(crate) fn read(&self, register: u16) -> u8 {
        let value = self.bus.pio_read(&mut IoCtx::new(), BASE + register, 1);
        u8::try_from(value).unwrap()
    }

    pub(crate) fn write(&self, register: u16, value: u8) {
        self.bus
            .pio_write(&mut IoCtx::new(), BASE + register, 1, value.into());
    }

    /// Queues bytes and enables the transmit interrupt, as `start_tx` does.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.sends.extend(bytes);
        if self.read(IER) & 2 == 0 {
            self.write(IER, 0x03);
        }
    }

    /// One interrupt: looks until nothing is pending, or gives up.
    pub(crate) fn interrupt(&mut self) {
        self.edges.wait();
        for _ in 0..self.passes {
            if self.read(IIR) & 1 != 0 {
                return;
            }
            self.receive();
            self.transmit();
        }
    }

    fn receive(&mut self) {
        let from = self.received.len();
        for _ in 0..256 {
            if self.read(LSR) & 1 == 0 {
                break;
            }
            self.received.push(self.read(DATA));
        }
        if self.echoes && from < self.received.len() {
            let new = self.received[from..].to_vec();
            self.send(&new);
        }
    }

    fn transmit(&mut self) {
        if self.read(IER) & 2 == 0 || self.read(LSR) & 0x20 == 0 {
            return;
        }
        let burst = self.sends[self.sent..]
            .iter()
            .take(16)
            .copied()
            .collect::<Vec<u8>>();
        burst.iter().for_each(|&byte| self.write(DATA, byte));
        self.sent += burst.len();
        if self.sent == self.sends.len() {
            self.write(IER, 0x01);
        }
    }
}

/// A sink that takes nothing until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    writes: u32,
    written: Vec<u8>,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    pub(crate) fn written(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().written.clone()
    }

    /// Until somebody writes, and waits if it is not open.
    pub(crate) fn wait_entered(&self) {
        let state = self.0.0.lock().unwrap();
        let waited = self
            .0
            .1
            .wait_timeout_while(state, LIMIT, |state| state.writes == 0)
            .unwrap();
        assert!(!waited.1.timed_out(), "nobody wrote");
    }

    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.0.0.lock().unwrap();
        let waited = self
            .0
            .1
            .wait_timeout_while(state, LIMIT, |state| state.written.len() < count)
            .unwrap();
        assert!(
            !waited.1.timed_out(),
            "{} of {count} bytes came out",
            waited.0.written.len()
        );
    }
}

impl Write for Gate {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        state.writes += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| !state.open).unwrap();
        state.written.extend(buf);
        self.0.1.notify_all();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes without a short period.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let step = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_le_bytes()[3]
    };
    (0..count).map(step).collect()
}
