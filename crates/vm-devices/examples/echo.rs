// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest that echoes: input from a pipe, interrupts through the IOAPIC, output to another.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::{Read, Write, pipe};
use std::sync::{Arc, mpsc};

use vm_devices::{Ends, IoApic, Serial, SerialSpec};
use vm_pdm::{BusBuilder, Devices, IoCtx, IrqLine, MsiSink};

/// Stands for the engine: the message is the guest's interrupt.
struct Cpu(mpsc::Sender<u32>);

impl MsiSink for Cpu {
    fn deliver(&self, _addr: u64, data: u32) {
        // Nobody listens any more when the guest is gone.
        let _ = self.0.send(data);
    }
    fn route(&self, _pins: &[Option<(u64, u32)>]) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let (interrupts, interrupt) = mpsc::channel();
    let (keyboard_out, mut keyboard) = pipe()?;
    let (mut terminal, terminal_in) = pipe()?;
    let ioapic = IoApic::new(Arc::new(Cpu(interrupts)));
    let irq = IrqLine::new(Arc::clone(&ioapic) as Arc<_>, Serial::COM1_GSI);
    let input = Some(Box::new(keyboard_out) as Box<_>);
    let ends = Ends::new("two pipes", input, Box::new(terminal_in));
    let serial = Serial::new(SerialSpec::default(), irq, Some(ends))?;
    let (mut bus, mut devices) = (BusBuilder::new(), Devices::new());
    ioapic.attach(&mut bus)?;
    serial.attach(&mut bus)?;
    devices.add(ioapic)?;
    devices.add(serial)?;
    devices.power_on()?;

    let (bus, mut cx) = (bus.build(), IoCtx::new());
    // The guest routes COM1 to vector 0x31 and enables the receive interrupt.
    bus.mmio_write(
        &mut cx,
        IoApic::BASE,
        4,
        0x10 + 2 * u64::from(Serial::COM1_GSI),
    );
    bus.mmio_write(&mut cx, IoApic::BASE + 0x10, 4, 0x31);
    bus.pio_write(&mut cx, Serial::COM1 + 1, 1, 0x01);

    keyboard.write_all(b"hello, guest\n")?;
    let mut echoed = 0;
    while echoed < 13 {
        println!("interrupt: vector {:#x}", interrupt.recv()?);
        while bus.pio_read(&mut cx, Serial::COM1 + 5, 1) & 1 != 0 {
            let byte = bus.pio_read(&mut cx, Serial::COM1, 1);
            bus.pio_write(&mut cx, Serial::COM1, 1, byte);
            echoed += 1;
        }
    }
    devices.power_off()?;
    let mut shown = [0; 13];
    terminal.read_exact(&mut shown)?;
    println!(
        "the terminal shows: {}",
        String::from_utf8_lossy(&shown).trim_end()
    );
    Ok(())
}
