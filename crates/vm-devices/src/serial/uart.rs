// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers of the 16550 and the bytes on their way in and out: no threads here.
//!
//! vm-superio keeps the plain registers, the receive FIFO and loopback; interrupt identification,
//! line status and FIFO control are decided here, because vm-superio has an interrupt line without
//! level and an output that is always ready. Source: National Semiconductor PC16550D data sheet.
//!
//! # Interrupt line
//! The line is high while an enabled condition holds (received data; transmitter empty), as on the
//! chip. Each condition that comes anew makes a rising edge even if the line is high already (low,
//! then high), because a guest's handler that gives up while the line is high would otherwise wait
//! for ever on an edge-triggered input. A superfluous edge costs one look at IIR.
//!
//! # Output
//! A byte written to THR goes to the outbox. While the outbox has less than [`ROOM`] left, THRE and
//! TEMT read as clear, until half of it is free again: a guest then waits, its EMT does not. A guest
//! that writes without looking loses bytes (`lost`), as on the chip.
//!
//! # Input
//! Bytes from the host wait in the backlog and move to the empty FIFO once the guest listens: it
//! enabled the receive interrupt, or it polls the line status. So what is typed before a driver
//! starts is not lost to the clearing of FIFOs that drivers start with.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;

use vm_pdm::info::Page;
use vm_pdm::{IrqLine, Level};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Registers};

use super::show::Counts;
use crate::stream::{BACKLOG, Port};

const DATA: u8 = 0;
const IER: u8 = 1;
/// Read: IIR; written: FCR.
const IIR_FCR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;

const IER_RECEIVE: u8 = 1;
const IER_TRANSMIT: u8 = 1 << 1;
const IIR_NONE: u8 = 0b0001;
const IIR_TRANSMIT: u8 = 0b0010;
const IIR_RECEIVE: u8 = 0b0100;
const IIR_FIFO: u8 = 0b1100_0000;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const LCR_DLAB: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA_READY: u8 = 1;
const LSR_TRANSMIT_EMPTY: u8 = 0b0110_0000;

/// Bytes vm-superio's receive FIFO holds.
const FIFO: usize = 64;
/// Free bytes of the outbox without which the transmitter is not empty: drivers fill a whole FIFO
/// (16 bytes, at most 128 on later chips) after one look at THRE.
pub(super) const ROOM: usize = 128;
/// Looks at an idle line status, nothing being written, that make a polling guest. A guest that
/// writes text looks once or twice before each byte.
const POLLS: u8 = 16;

/// The chip.
pub(super) struct Uart {
    registers: Registers<NoTrigger, NoEvents, Outbox>,
    irq: IrqLine,
    fcr: u8,
    transmitter: Transmitter,
    /// The conditions at the last look, as bits of IER.
    signalled: u8,
    line: Level,
    polls: u8,
    backlog: VecDeque<u8>,
    held: bool,
    counts: Arc<Counts>,
}

/// What the transmitter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transmitter {
    /// Empty, and the guest knows.
    Empty,
    /// Empty since the guest last sent a byte or enabled the interrupt; IIR has not said so yet.
    Due,
    /// The outbox ran full and is not half empty again.
    Full,
}

/// vm-superio's interrupt: not used.
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = io::Error;

    fn trigger(&self) -> Result<(), io::Error> {
        Ok(())
    }
}

/// Bytes the guest has sent and the host has not taken.
struct Outbox {
    bytes: VecDeque<u8>,
    capacity: usize,
    lost: u64,
    counts: Arc<Counts>,
}

impl Write for Outbox {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.capacity - self.bytes.len();
        let fits = &buf[..buf.len().min(room)];
        self.bytes.extend(fits);
        let lost = (buf.len() - fits.len()) as u64;
        self.lost = self.lost.saturating_add(lost);
        self.counts.sent.add(fits.len() as u64);
        self.counts.lost.add(lost);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Port for Uart {
    const LOG: &'static str = "device.serial";

    fn push(&mut self, bytes: &[u8]) -> usize {
        if self.held {
            return 0;
        }
        let taken = bytes.len().min(BACKLOG - self.backlog.len());
        self.backlog.extend(&bytes[..taken]);
        self.settle();
        taken
    }

    fn wants_input(&self) -> bool {
        self.backlog.is_empty() && !self.held
    }

    fn take(&mut self, chunk: &mut Vec<u8>, limit: usize) {
        let outbox = self.registers.writer_mut();
        let count = outbox.bytes.len().min(limit);
        chunk.extend(outbox.bytes.drain(..count));
        if self.held {
            return;
        }
        let half = self.registers.writer().capacity / 2;
        if self.transmitter == Transmitter::Full && self.free() >= half {
            self.transmitter = Transmitter::Due;
        }
        self.settle();
    }

    fn queued(&self) -> usize {
        self.registers.writer().bytes.len()
    }

    fn is_ripe(&self) -> bool {
        let bytes = &self.registers.writer().bytes;
        bytes.back() == Some(&b'\n') || bytes.len() >= ROOM
    }

    fn hold(&mut self) {
        self.held = true;
    }

    fn release(&mut self) {
        self.held = false;
        self.settle();
    }

    fn is_held(&self) -> bool {
        self.held
    }
}

impl Uart {
    /// After a reset; `capacity` bytes of output fit, at least twice [`ROOM`].
    pub(super) fn new(irq: IrqLine, capacity: usize) -> Self {
        let capacity = capacity.max(2 * ROOM);
        let counts: Arc<Counts> = Arc::default();
        let outbox = Outbox {
            bytes: VecDeque::new(),
            capacity,
            lost: 0,
            counts: Arc::clone(&counts),
        };
        Self {
            registers: Registers::new(NoTrigger, outbox),
            irq,
            fcr: 0,
            transmitter: Transmitter::Empty,
            signalled: 0,
            line: Level::Low,
            polls: 0,
            backlog: VecDeque::new(),
            held: false,
            counts,
        }
    }

    /// Registers and FIFO as after power-on, line low. Output already sent and input not yet
    /// received are outside the chip and stay.
    pub(super) fn reset(&mut self) {
        let outbox = Outbox {
            bytes: VecDeque::new(),
            capacity: 0,
            lost: 0,
            counts: Arc::default(),
        };
        let outbox = std::mem::replace(self.registers.writer_mut(), outbox);
        self.registers = Registers::new(NoTrigger, outbox);
        self.fcr = 0;
        self.transmitter = if self.free() < ROOM {
            Transmitter::Full
        } else {
            Transmitter::Empty
        };
        self.polls = 0;
        self.settle();
    }

    /// What is counted here.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Writes how the chip stands, without its noticing.
    pub(super) fn describe(&mut self, page: &mut Page) -> fmt::Result {
        let (enabled, line) = (self.enabled(), self.line);
        let held = if self.held { ", held" } else { "" };
        writeln!(
            page,
            "transmitter {:?}, interrupts enabled {enabled:#04x}, line {line:?}{held}",
            self.transmitter
        )?;
        writeln!(
            page,
            "output: {} of {} bytes wait for the host, {} were lost",
            self.queued(),
            self.registers.writer().capacity,
            self.lost()
        )?;
        writeln!(
            page,
            "input: {} bytes wait for the guest",
            self.backlog.len()
        )
    }

    pub(super) fn read(&mut self, offset: u8) -> u8 {
        let value = match offset {
            IIR_FCR => self.identify(),
            LSR => self.line_status(),
            _ => self.registers.read(offset),
        };
        self.settle();
        value
    }

    pub(super) fn write(&mut self, offset: u8, value: u8) {
        self.polls = 0;
        match offset {
            IIR_FCR => self.control_fifo(value),
            _ => {
                // The trigger and the outbox never fail.
                let _ = self.registers.write(offset, value);
            }
        }
        if !self.latched() {
            let sent = offset == DATA;
            if sent && self.free() < ROOM {
                self.transmitter = Transmitter::Full;
            }
            let enabled = offset == IER && value & IER_TRANSMIT != 0;
            if (sent || enabled) && self.transmitter == Transmitter::Empty {
                self.transmitter = Transmitter::Due;
            }
        }
        self.settle();
    }

    /// Bytes of output that a guest wrote without looking, and that were dropped.
    pub(super) fn lost(&self) -> u64 {
        self.registers.writer().lost
    }

    fn free(&self) -> usize {
        self.registers.writer().capacity - self.queued()
    }

    /// Whether offsets 0 and 1 are the divisor latch.
    fn latched(&mut self) -> bool {
        self.registers.read(LCR) & LCR_DLAB != 0
    }

    fn data_ready(&mut self) -> bool {
        self.registers.read(LSR) & LSR_DATA_READY != 0
    }

    /// IER, which is behind the divisor latch when a guest has that open.
    fn enabled(&mut self) -> u8 {
        let lcr = self.registers.read(LCR);
        if lcr & LCR_DLAB == 0 {
            return self.registers.read(IER);
        }
        let _ = self.registers.write(LCR, lcr & !LCR_DLAB);
        let ier = self.registers.read(IER);
        let _ = self.registers.write(LCR, lcr);
        ier
    }

    /// The conditions that are enabled and hold, as bits of IER.
    fn conditions(&mut self) -> u8 {
        let receive = if self.data_ready() { IER_RECEIVE } else { 0 };
        let transmit = if self.transmitter == Transmitter::Due {
            IER_TRANSMIT
        } else {
            0
        };
        self.enabled() & (receive | transmit)
    }

    fn identify(&mut self) -> u8 {
        let conditions = self.conditions();
        let source = if conditions & IER_RECEIVE != 0 {
            IIR_RECEIVE
        } else if conditions & IER_TRANSMIT != 0 {
            self.transmitter = Transmitter::Empty;
            IIR_TRANSMIT
        } else {
            IIR_NONE
        };
        source
            | if self.fcr & FCR_ENABLE != 0 {
                IIR_FIFO
            } else {
                0
            }
    }

    fn line_status(&mut self) -> u8 {
        let status = self.registers.read(LSR);
        if self.transmitter == Transmitter::Full {
            return status & !LSR_TRANSMIT_EMPTY;
        }
        if status & LSR_DATA_READY == 0 {
            self.polls = self.polls.saturating_add(1);
        }
        status
    }

    fn control_fifo(&mut self, value: u8) {
        self.fcr = value;
        if value & FCR_CLEAR_RECEIVE != 0 {
            self.clear_receive();
        }
    }

    fn clear_receive(&mut self) {
        let lcr = self.registers.read(LCR);
        let _ = self.registers.write(LCR, lcr & !LCR_DLAB);
        for _ in 0..FIFO {
            self.registers.read(DATA);
        }
        let _ = self.registers.write(LCR, lcr);
    }

    /// Moves input on and brings the line up to date. Last act of everything that changes the chip.
    fn settle(&mut self) {
        if self.refill() {
            // New bytes are a new condition, even where the last were taken in the same breath.
            self.signalled &= !IER_RECEIVE;
        }
        let now = self.conditions();
        if now & !self.signalled != 0 {
            self.drive(Level::Low);
            self.drive(Level::High);
        } else if now == 0 {
            self.drive(Level::Low);
        }
        self.signalled = now;
    }

    fn drive(&mut self, level: Level) {
        if self.line != level {
            self.line = level;
            if level == Level::High {
                self.counts.interrupts.inc();
            }
            self.irq.set(level);
        }
    }

    /// Fills the empty FIFO from the backlog if the guest listens; whether it did.
    fn refill(&mut self) -> bool {
        let looping = self.registers.read(MCR) & MCR_LOOP != 0;
        if self.held || looping || self.backlog.is_empty() || self.data_ready() {
            return false;
        }
        if self.enabled() & IER_RECEIVE == 0 && self.polls < POLLS {
            return false;
        }
        let count = self.backlog.len().min(FIFO);
        let bytes: Vec<u8> = self.backlog.drain(..count).collect();
        self.counts.received.add(count as u64);
        // The FIFO is empty and not in loopback, so it takes all of FIFO bytes.
        let _ = self.registers.enqueue_raw_bytes(&bytes);
        true
    }
}

#[cfg(test)]
mod tests;
