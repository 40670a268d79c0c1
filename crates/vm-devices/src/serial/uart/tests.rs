// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest reads from the registers, and which edges the line makes.

use std::sync::{Arc, Mutex};

use vm_pdm::IrqChip;

use super::*;

const MSR: u8 = 6;
const SCR: u8 = 7;
const CAPACITY: usize = 1024;

#[derive(Default)]
struct Line(Mutex<Vec<Level>>);

impl IrqChip for Line {
    fn set(&self, _: u32, level: Level) {
        self.0.lock().unwrap().push(level);
    }
}

struct Rig {
    uart: Uart,
    line: Arc<Line>,
}

impl Rig {
    fn new() -> Self {
        let line = Arc::new(Line::default());
        let irq = IrqLine::new(Arc::clone(&line) as Arc<dyn IrqChip>, 4);
        Self {
            uart: Uart::new(irq, CAPACITY),
            line,
        }
    }

    /// Level changes since the last look.
    fn changes(&self) -> Vec<Level> {
        std::mem::take(&mut self.line.0.lock().unwrap())
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.uart.read(LSR) & LSR_DATA_READY != 0 {
            bytes.push(self.uart.read(DATA));
        }
        bytes
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.uart.take(&mut bytes, usize::MAX);
        bytes
    }
}

use Level::{High, Low};

#[test]
fn after_power_on_the_transmitter_is_empty_and_nothing_else_is() {
    let mut rig = Rig::new();
    assert_eq!(rig.uart.read(LSR), LSR_TRANSMIT_EMPTY);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE);
    assert_eq!(rig.uart.read(IER), 0);
    assert_eq!(rig.changes(), []);
}

#[test]
fn fifos_are_reported_while_they_are_enabled() {
    let mut rig = Rig::new();
    rig.uart.write(IIR_FCR, FCR_ENABLE);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE | IIR_FIFO);
    rig.uart.write(IIR_FCR, 0);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE);
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_TRANSMIT);
    rig.changes();
    rig.uart.write(LCR, LCR_DLAB | 3);
    rig.uart.write(DATA, 0x01);
    rig.uart.write(IER, 0x02);
    assert_eq!((rig.uart.read(DATA), rig.uart.read(IER)), (0x01, 0x02));
    assert_eq!(rig.changes(), [], "no byte was sent and nothing enabled");
    assert_eq!(
        rig.uart.read(IIR_FCR),
        IIR_TRANSMIT,
        "enabled behind the latch"
    );
    rig.uart.write(LCR, 3);
    assert_eq!(rig.uart.read(IER), IER_TRANSMIT);
    assert_eq!(rig.sent(), []);
}

#[test]
fn received_data_holds_the_line_until_all_is_read() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    assert_eq!(rig.uart.push(b"ab"), 2);
    assert_eq!(rig.changes(), [High]);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_RECEIVE);
    assert_eq!(
        rig.uart.read(IIR_FCR),
        IIR_RECEIVE,
        "reading IIR does not take it away"
    );
    assert_eq!(rig.uart.read(DATA), b'a');
    assert_eq!(rig.changes(), []);
    assert_eq!(rig.uart.read(DATA), b'b');
    assert_eq!(rig.changes(), [Low]);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE);
}

#[test]
fn an_empty_transmitter_is_reported_once_for_each_enabling_and_each_byte() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_TRANSMIT);
    assert_eq!(rig.changes(), [High]);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_TRANSMIT);
    assert_eq!(rig.changes(), [Low]);
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE);
    rig.uart.write(DATA, b'x');
    assert_eq!(rig.changes(), [High]);
    rig.uart.write(DATA, b'y');
    assert_eq!(rig.changes(), [], "one interrupt for a burst");
    rig.uart.write(IER, 0);
    assert_eq!(rig.changes(), [Low]);
    rig.uart.write(IER, IER_TRANSMIT);
    assert_eq!(
        rig.changes(),
        [High],
        "a driver that masked it while it wrote hears of it again"
    );
    assert_eq!(rig.sent(), b"xy");
}

#[test]
fn received_data_is_reported_before_an_empty_transmitter_and_hides_no_edge() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE | IER_TRANSMIT);
    assert_eq!(rig.changes(), [High]);
    rig.uart.push(b"a");
    assert_eq!(
        rig.changes(),
        [Low, High],
        "a new condition on a high line is a new edge"
    );
    assert_eq!(rig.uart.read(IIR_FCR), IIR_RECEIVE);
    assert_eq!(rig.uart.read(DATA), b'a');
    assert_eq!(rig.uart.read(IIR_FCR), IIR_TRANSMIT);
    assert_eq!(rig.changes(), [Low]);
}

#[test]
fn each_refill_of_the_fifo_is_an_edge() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    let paste: Vec<u8> = (0..=255).collect();
    assert_eq!(rig.uart.push(&paste), 256);
    rig.changes();
    for byte in 0..63 {
        assert_eq!(rig.uart.read(DATA), byte);
    }
    assert_eq!(rig.changes(), []);
    rig.uart.read(DATA);
    assert_eq!(rig.changes(), [Low, High]);
    assert_eq!(rig.receive(), &paste[64..]);
}

#[test]
fn the_backlog_is_bounded_and_wants_input_when_it_is_empty() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    assert!(rig.uart.wants_input());
    assert_eq!(rig.uart.push(&[7; 2 * BACKLOG]), BACKLOG);
    assert!(!rig.uart.wants_input());
    assert_eq!(
        rig.uart.push(&[8; 2 * BACKLOG]),
        FIFO,
        "what the FIFO took left room"
    );
    assert_eq!(rig.receive().len(), BACKLOG + FIFO);
    assert!(rig.uart.wants_input());
}

#[test]
fn input_that_comes_before_a_driver_starts_survives_the_start() {
    let mut rig = Rig::new();
    rig.uart.push(b"typed ahead");
    // As Linux starts up a 16550: clear FIFOs, clear pending conditions, then enable.
    rig.uart.write(IIR_FCR, FCR_ENABLE);
    rig.uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RECEIVE | 4);
    rig.uart.write(IIR_FCR, 0);
    for register in [LSR, DATA, IIR_FCR, MSR] {
        rig.uart.read(register);
    }
    rig.uart.write(IER, IER_RECEIVE);
    assert_eq!(rig.receive(), b"typed ahead");
}

#[test]
fn a_guest_that_polls_gets_input_without_interrupts() {
    let mut rig = Rig::new();
    rig.uart.push(&[b'x'; 100]);
    let mut seen = 0;
    for _ in 0..1000 {
        if rig.uart.read(LSR) & LSR_DATA_READY != 0 {
            assert_eq!(rig.uart.read(DATA), b'x');
            seen += 1;
        }
    }
    assert_eq!(seen, 100);
    assert_eq!(rig.changes(), []);
}

#[test]
fn a_guest_that_prints_is_not_taken_for_one_that_polls_input() {
    let mut rig = Rig::new();
    rig.uart.push(b"x");
    for _ in 0..200 {
        rig.uart.read(LSR);
        assert_eq!(rig.uart.read(LSR) & LSR_DATA_READY, 0);
        rig.uart.write(DATA, b'.');
    }
}

#[test]
fn clearing_the_receive_fifo_drops_it_and_the_backlog_follows() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    rig.uart.push(&[1; 64]);
    rig.uart.push(&[2; 10]);
    rig.uart.write(LCR, LCR_DLAB);
    rig.uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RECEIVE);
    assert_eq!(rig.uart.read(LCR), LCR_DLAB, "the latch stays as it was");
    rig.uart.write(LCR, 0);
    assert_eq!(rig.receive(), [2; 10]);
}

#[test]
fn a_full_outbox_is_a_transmitter_that_is_not_empty_until_half_is_free() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_TRANSMIT);
    rig.uart.read(IIR_FCR);
    let mut written = 0;
    while rig.uart.read(LSR) & LSR_TRANSMIT_EMPTY == LSR_TRANSMIT_EMPTY {
        (0..16).for_each(|_| rig.uart.write(DATA, b'o'));
        written += 16;
        rig.uart.read(IIR_FCR);
    }
    assert!(
        written > CAPACITY - ROOM && written <= CAPACITY - ROOM + 16,
        "{written}"
    );
    assert_eq!(rig.uart.read(IIR_FCR), IIR_NONE, "no interrupt while full");
    rig.changes();
    let mut chunk = Vec::new();
    rig.uart.take(&mut chunk, 100);
    assert_eq!(rig.changes(), []);
    assert_eq!(rig.uart.read(LSR) & LSR_TRANSMIT_EMPTY, 0);
    rig.uart.take(&mut chunk, CAPACITY / 2);
    assert_eq!(rig.changes(), [High]);
    assert_eq!(rig.uart.read(LSR) & LSR_TRANSMIT_EMPTY, LSR_TRANSMIT_EMPTY);
    rig.uart.take(&mut chunk, CAPACITY);
    assert_eq!(chunk.len(), written);
    assert_eq!(rig.uart.lost(), 0);
}

#[test]
fn a_guest_that_does_not_look_loses_bytes_and_they_are_counted() {
    let mut rig = Rig::new();
    (0..CAPACITY + 5).for_each(|_| rig.uart.write(DATA, b'o'));
    assert_eq!((rig.uart.queued(), rig.uart.lost()), (CAPACITY, 5));
}

#[test]
fn loopback_returns_what_is_sent_and_keeps_the_host_out() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    rig.uart.write(MCR, MCR_LOOP | 0b1010);
    assert_eq!(rig.uart.read(MSR) & 0xf0, 0x90, "RTS to CTS, OUT2 to DCD");
    rig.uart.push(b"host");
    rig.uart.write(DATA, b'l');
    assert_eq!(rig.changes(), [High]);
    assert_eq!(rig.receive(), b"l");
    assert_eq!(rig.sent(), []);
    rig.uart.write(MCR, 0b1000);
    assert_eq!(rig.receive(), b"host");
}

#[test]
fn nothing_moves_while_held() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE);
    rig.uart.push(&[1; 70]);
    rig.changes();
    rig.uart.hold();
    assert_eq!(rig.uart.push(b"more"), 0);
    assert!(!rig.uart.wants_input());
    assert_eq!(rig.changes(), []);
    rig.uart.release();
    assert_eq!(rig.uart.push(b"more"), 4);
    assert_eq!(rig.receive().len(), 74);
}

#[test]
fn a_reset_clears_the_chip_but_not_what_is_outside_it() {
    let mut rig = Rig::new();
    rig.uart.write(IER, IER_RECEIVE | IER_TRANSMIT);
    rig.uart.write(SCR, 0x5a);
    rig.uart.write(DATA, b'o');
    rig.uart.push(&[1; 64]);
    rig.uart.push(&[2; 3]);
    rig.changes();
    rig.uart.reset();
    assert_eq!(rig.changes(), [Low]);
    assert_eq!((rig.uart.read(IER), rig.uart.read(SCR)), (0, 0));
    assert_eq!(rig.sent(), b"o");
    rig.uart.write(IER, IER_RECEIVE);
    assert_eq!(rig.receive(), [2; 3]);
}
