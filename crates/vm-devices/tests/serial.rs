// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The serial port with its threads: nothing is lost, no EMT is held up, everything ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest;

use std::fs::File;
use std::io::{PipeWriter, Seek, Write, pipe};
use std::sync::Arc;
use std::time::Duration;

use guest::{Driver, Edges, Gate, noise};
use vm_devices::{Ends, Serial, SerialInput, SerialSpec};
use vm_pdm::{BusBuilder, Device, IoCtx, IoHandler, IrqLine, ResetKind};

const PASTE: usize = 64 << 10;
const LINUX: u32 = 512;

struct Rig {
    serial: Arc<Serial>,
    driver: Driver,
    gate: Gate,
}

impl Rig {
    fn new(spec: SerialSpec, input: Option<Box<dyn SerialInput>>, passes: u32) -> Self {
        let edges = Arc::new(Edges::default());
        let gate = Gate::default();
        let irq = IrqLine::new(Arc::clone(&edges) as Arc<_>, Serial::COM1_GSI);
        let ends = Ends::new("a gate", input, Box::new(gate.clone()));
        let serial = Serial::new(spec, irq, Some(ends)).unwrap();
        let mut bus = BusBuilder::new();
        serial.attach(&mut bus).unwrap();
        let driver = Driver::new(Arc::new(bus.build()), edges, passes);
        Self {
            serial,
            driver,
            gate,
        }
    }

    fn with_pipe(passes: u32) -> (Self, PipeWriter) {
        let (reader, writer) = pipe().unwrap();
        let rig = Self::new(SerialSpec::default(), Some(Box::new(reader)), passes);
        (rig, writer)
    }

    fn receive(&mut self, count: usize) {
        while self.driver.received.len() < count {
            self.driver.interrupt();
        }
    }
}

/// Writes `bytes` from a thread of its own; joined when the returned value is called.
fn paste(mut to: PipeWriter, bytes: Vec<u8>) -> impl FnOnce() {
    let writer = std::thread::Builder::new()
        .name("paste".to_owned())
        .spawn(move || to.write_all(&bytes).unwrap())
        .unwrap();
    move || writer.join().unwrap()
}

#[test]
fn a_large_paste_arrives_whole_and_in_order_on_interrupts_alone() {
    // 1: a handler that looks once; 512: Linux's.
    for passes in [1, 2, LINUX] {
        let (mut rig, writer) = Rig::with_pipe(passes);
        rig.serial.power_on().unwrap();
        let expected = noise(PASTE);
        let done = paste(writer, expected.clone());
        rig.receive(PASTE);
        assert_eq!(rig.driver.received, expected);
        assert!(
            rig.driver.edges.rises() >= (PASTE / 64) as u64,
            "an edge for each FIFO of bytes"
        );
        done();
        rig.serial.power_off().unwrap();
    }
}

#[test]
fn output_on_interrupts_waits_for_a_sink_that_blocks_and_arrives_whole() {
    for passes in [1, LINUX] {
        let mut rig = Rig::new(SerialSpec::default(), None, passes);
        rig.serial.power_on().unwrap();
        let expected = noise(PASTE);
        rig.driver.send(&expected);
        // The sink takes one chunk and blocks, so the transmitter fills up and stays full.
        while rig.driver.read(5) & 0x20 != 0 {
            rig.driver.interrupt();
        }
        assert!(rig.driver.sent < PASTE && rig.serial.queued() <= 16 << 10);
        assert_eq!(rig.gate.written(), []);
        rig.gate.open();
        while rig.driver.sent < PASTE {
            rig.driver.interrupt();
        }
        rig.serial.power_off().unwrap();
        assert_eq!(rig.gate.written(), expected);
        assert_eq!(rig.serial.lost(), 0);
    }
}

#[test]
fn an_echo_returns_every_byte_both_ways_at_once() {
    let (mut rig, writer) = Rig::with_pipe(LINUX);
    rig.driver.echoes = true;
    rig.gate.open();
    rig.serial.power_on().unwrap();
    let expected = noise(PASTE);
    let done = paste(writer, expected.clone());
    rig.receive(PASTE);
    while rig.driver.sent < PASTE {
        rig.driver.interrupt();
    }
    done();
    rig.serial.power_off().unwrap();
    assert_eq!(rig.gate.written(), expected);
}

#[test]
fn a_prompt_without_an_end_of_line_comes_out() {
    let rig = Rig::new(SerialSpec::default(), None, LINUX);
    rig.gate.open();
    rig.serial.power_on().unwrap();
    for byte in *b"login: " {
        rig.driver.write(0, byte);
    }
    rig.gate.wait_for(7);
    assert_eq!(rig.gate.written(), b"login: ");
}

#[test]
fn output_that_is_left_comes_out_at_power_off() {
    let rig = Rig::new(SerialSpec::default(), None, LINUX);
    for byte in *b"Power down" {
        rig.driver.write(0, byte);
    }
    assert_eq!(rig.gate.written(), [], "no thread runs before power-on");
    rig.gate.open();
    rig.serial.power_on().unwrap();
    rig.serial.power_off().unwrap();
    assert_eq!(rig.gate.written(), b"Power down");
}

#[test]
fn a_stuck_sink_holds_up_neither_suspend_nor_reset_and_power_off_names_it() {
    let spec = SerialSpec {
        drain_limit: Duration::from_millis(5),
        ..SerialSpec::default()
    };
    let rig = Rig::new(spec, None, LINUX);
    rig.serial.power_on().unwrap();
    for byte in *b"stuck\n" {
        rig.driver.write(0, byte);
    }
    rig.gate.wait_entered();
    rig.serial.suspend().unwrap();
    rig.serial.resume().unwrap();
    rig.serial.reset(ResetKind::Hard).unwrap();
    let error = rig.serial.power_off().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("com1: io-serial-out: the output did not take all"),
        "{error}"
    );
    let error = rig.serial.power_on().unwrap_err();
    assert!(error.to_string().contains("still busy"), "{error}");
    rig.gate.open();
    rig.gate.wait_for(6);
    assert!((0..10_000).any(|_| rig.serial.power_off().is_ok()));
    rig.serial.power_on().unwrap();
    rig.driver.write(0, b'\n');
    rig.gate.wait_for(7);
    assert_eq!(rig.gate.written(), b"stuck\n\n");
}

/// A sink that panics.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("a sink of the embedder's that panics, as this test wants it to")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A sink that takes one byte at a time and would block every other time.
struct Reluctant(Gate, u32);

impl Write for Reluctant {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.1 += 1;
        if self.1 % 2 == 1 {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        self.0.write(&buf[..1])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn with_sink(sink: Box<dyn Write + Send>) -> Arc<Serial> {
    let irq = IrqLine::new(Arc::new(Edges::default()), Serial::COM1_GSI);
    let ends = Ends::new("a sink", None, sink);
    Serial::new(SerialSpec::default(), irq, Some(ends)).unwrap()
}

#[test]
fn a_sink_that_panics_costs_its_output_and_not_the_vm() {
    let serial = with_sink(Box::new(Broken));
    serial.write(&mut IoCtx::new(), 0, 1, u64::from(b'\n'));
    serial.power_on().unwrap();
    serial.power_off().unwrap();
    serial.write(&mut IoCtx::new(), 0, 1, u64::from(b'\n'));
    serial.power_on().unwrap();
    serial.power_off().unwrap();
    assert_eq!(serial.queued(), 0);
}

#[test]
fn a_sink_that_would_block_is_tried_again() {
    let gate = Gate::default();
    gate.open();
    let serial = with_sink(Box::new(Reluctant(gate.clone(), 0)));
    for byte in *b"again" {
        serial.write(&mut IoCtx::new(), 0, 1, byte.into());
    }
    serial.power_on().unwrap();
    serial.power_off().unwrap();
    assert_eq!(gate.written(), b"again");
}

#[test]
fn what_comes_while_suspended_arrives_after_the_resume() {
    let (mut rig, mut writer) = Rig::with_pipe(LINUX);
    rig.serial.power_on().unwrap();
    writer.write_all(b"before").unwrap();
    rig.receive(6);
    for _ in 0..50 {
        rig.serial.suspend().unwrap();
        let rises = rig.driver.edges.rises();
        writer.write_all(b"during").unwrap();
        assert_eq!(rig.driver.edges.rises(), rises);
        rig.serial.resume().unwrap();
        let so_far = rig.driver.received.len();
        rig.receive(so_far + 6);
    }
    assert_eq!(
        rig.driver.received,
        ["before", &"during".repeat(50)].concat().as_bytes()
    );
}

#[test]
fn output_that_waits_while_suspended_goes_on_after_the_resume() {
    let rig = Rig::new(SerialSpec::default(), None, LINUX);
    rig.gate.open();
    rig.serial.power_on().unwrap();
    for count in 1..50 {
        rig.serial.suspend().unwrap();
        rig.driver.write(0, b'\n');
        assert_eq!(rig.serial.queued(), 1, "it stays in the device");
        rig.serial.resume().unwrap();
        rig.gate.wait_for(count);
    }
    rig.serial.suspend().unwrap();
    rig.driver.write(0, b'!');
    rig.serial.power_off().unwrap();
    assert_eq!(
        rig.gate.written().last(),
        Some(&b'!'),
        "powered off from a suspended VM"
    );
}

#[test]
fn input_from_a_plain_file_arrives_whole_and_nothing_arrives_from_dev_null() {
    let expected = noise(5000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&expected).unwrap();
    file.rewind().unwrap();
    let mut rig = Rig::new(SerialSpec::default(), Some(Box::new(file)), LINUX);
    rig.serial.power_on().unwrap();
    rig.receive(expected.len());
    assert_eq!(rig.driver.received, expected);
    rig.serial.power_off().unwrap();

    let null = File::open("/dev/null").unwrap();
    let rig = Rig::new(SerialSpec::default(), Some(Box::new(null)), LINUX);
    rig.serial.power_on().unwrap();
    rig.serial.power_off().unwrap();
    assert_eq!(rig.driver.edges.rises(), 0);
}

#[test]
fn input_goes_on_after_a_power_cycle_and_its_end_is_no_error() {
    let (mut rig, mut writer) = Rig::with_pipe(LINUX);
    for round in 1..=20 {
        rig.serial.power_on().unwrap();
        writer.write_all(b"x").unwrap();
        rig.receive(round);
        rig.serial.power_off().unwrap();
    }
    rig.serial.power_on().unwrap();
    drop(writer);
    rig.serial.power_off().unwrap();
    rig.serial.power_off().unwrap();
}
