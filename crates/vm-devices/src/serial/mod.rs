// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Serial port: a 16550 at a port base, with input and output on threads of its own.
//!
//! Its threads are `io-serial` and `io-serial-out`, see [`crate::stream`].

mod show;
mod uart;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use vm_pdm::info::Page;
use vm_pdm::stats::{Scope, StatError};
use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqLine, Place, ResetKind,
};

use crate::bytes::{self, ByteRegisters};
use crate::stream::{Ends, Port, Stream};
use uart::Uart;

/// What a serial port is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialSpec {
    /// Instance name.
    pub name: String,
    /// First of its 8 ports.
    pub base: u16,
    /// Bytes of output that wait for the sink; at least 256. When they are full the guest waits.
    pub output_bytes: usize,
    /// How long power-off waits for the sink to take what is left.
    pub drain_limit: Duration,
}

impl Default for SerialSpec {
    /// COM1.
    fn default() -> Self {
        Self {
            name: "com1".to_owned(),
            base: Serial::COM1,
            output_bytes: 16 << 10,
            drain_limit: Duration::from_secs(2),
        }
    }
}

/// A 16550 with two threads of its own: `io-serial` reads input, `io-serial-out` writes output. They
/// run from power-on to power-off and change nothing the guest can see while the VM is suspended.
///
/// When the sink is stuck, the outbox fills up and the guest sees a transmitter that is not empty:
/// it waits, its EMT does not. Bytes written by a guest that does not look are dropped and counted.
pub struct Serial {
    spec: SerialSpec,
    stream: Arc<Stream<Uart>>,
}

impl Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Serial {
    /// Base of the first serial port of a PC.
    pub const COM1: u16 = 0x3f8;
    /// Interrupt input of the first serial port of a PC.
    pub const COM1_GSI: u32 = 4;

    /// A port that is not powered on: registers work, input and output wait. Without
    /// `ends` it works as one from which they were detached.
    ///
    /// # Errors
    /// [`DeviceError`] if the host has no event descriptor left.
    pub fn new(
        spec: SerialSpec,
        irq: IrqLine,
        ends: Option<Ends>,
    ) -> Result<Arc<Self>, DeviceError> {
        let uart = Uart::new(irq, spec.output_bytes);
        let stream = Stream::new(&spec.name, "serial", spec.drain_limit, uart, ends)?;
        let stream = Arc::new(stream);
        Ok(Arc::new(Self { spec, stream }))
    }

    /// Puts the registers on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let last = self.spec.base.saturating_add(7);
        let handler = Arc::clone(self);
        bus.pio(&self.spec.name, self.spec.base..=last, handler)?;
        Ok(())
    }

    /// Bytes of output that were dropped because the guest wrote without looking.
    pub fn lost(&self) -> u64 {
        self.stream.with(|uart| uart.lost())
    }

    /// Where the host's ends of it come and go, see [`Ends`].
    pub fn ends(&self) -> Arc<dyn Place<Ends>> {
        Arc::clone(&self.stream) as _
    }

    /// Bytes of output that wait for the sink: never more than the spec's, and at least 256.
    pub fn queued(&self) -> usize {
        self.stream.with(|uart| uart.queued())
    }
}

impl Device for Serial {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        let counts = self.stream.with(|uart| Arc::clone(uart.counts()));
        counts.register(scope)?;
        self.stream.register(scope)
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        self.stream.with(|uart| uart.describe(page))?;
        self.stream.describe(page)
    }

    fn power_on(&self) -> Result<(), DeviceError> {
        self.stream.power_on()
    }

    fn suspend(&self) -> Result<(), DeviceError> {
        self.stream.with(Port::hold);
        Ok(())
    }

    fn resume(&self) -> Result<(), DeviceError> {
        self.stream.with(Port::release);
        Ok(())
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            self.stream.with(Uart::reset);
        }
        Ok(())
    }

    /// Writes what is left of the output, at most for the drain limit, and ends both threads.
    fn power_off(&self) -> Result<(), DeviceError> {
        self.stream.power_off()
    }
}

impl IoHandler for Serial {
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
        bytes::read(self, cx, offset, size)
    }

    fn write(&self, cx: &mut IoCtx, offset: u64, size: u8, value: u64) {
        bytes::write(self, cx, offset, size, value);
    }
}

impl ByteRegisters for Serial {
    fn read_byte(&self, _: &mut IoCtx, offset: u64) -> u8 {
        let Some(offset) = u8::try_from(offset).ok().filter(|&offset| offset < 8) else {
            return 0xff;
        };
        self.stream.with(|uart| uart.read(offset))
    }

    fn write_byte(&self, _: &mut IoCtx, offset: u64, value: u8) {
        if let Some(offset) = u8::try_from(offset).ok().filter(|&offset| offset < 8) {
            self.stream.with(|uart| uart.write(offset, value));
        }
    }
}
