// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Console device with one port (virtio 1.2, 5.3).
//!
//! Bytes pass between the queues and two bounded buffers by whoever changes either: an EMT that rings
//! or a thread of [`crate::stream`], never longer than it takes to fill or empty a buffer. A buffer of
//! output is given back once its bytes are in the outbox; while that is full the guest's buffers wait
//! in their queue, so a stalled reader delays the guest's console and nothing else of the VM.
//!
//! # Errors of the guest
//! A buffer without a byte of room or content would be given back at no cost, for ever; it breaks the
//! queue, and so does one that lies outside of memory.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Write as _};
use std::sync::Arc;
use std::time::Duration;

use vm_pdm::info::Page;
use vm_pdm::stats::{Scope, StatError};
use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqLine, Place, ResetKind,
};

use super::Virtio;
use super::chain::Fault;
use super::registers::{Kind, Registers, Taken};
use super::show::Carried;
use crate::GuestRam;
use crate::stream::{BACKLOG, Ends, Port, Stream};

/// Queue of buffers for input.
const RECEIVE: usize = 0;
/// Queue of buffers with output.
const TRANSMIT: usize = 1;
/// Bytes of output that are copied at a time.
const PIECE: usize = 4096;
/// Bytes of output that are worth a write without a complete line.
const MUCH: usize = 128;

/// What a console is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSpec {
    /// Instance name; its threads are `io-NAME` and `io-NAME-out`.
    pub name: String,
    /// First address of its window of [`Virtio::WINDOW`] bytes.
    pub address: u64,
    /// Bytes of output that wait for the sink; at least 256. When they are full the guest waits.
    pub output_bytes: usize,
    /// How long power-off waits for the sink to take what is left.
    pub drain_limit: Duration,
}

impl ConsoleSpec {
    /// A console at `address`, with 16 KiB of output and two seconds to drain.
    pub fn new(name: &str, address: u64) -> Self {
        Self {
            name: name.to_owned(),
            address,
            output_bytes: 16 << 10,
            drain_limit: Duration::from_secs(2),
        }
    }
}

/// A virtio console, `/dev/hvc0` of a Linux guest, with two threads of its own: one reads input, one
/// writes output. They run from power-on to power-off and change nothing the guest can see while the
/// VM is suspended; the device is never pending.
///
/// The guest has to be told where it is; nothing is found by probing.
pub struct VirtioConsole {
    spec: ConsoleSpec,
    stream: Arc<Stream<Console>>,
}

impl Debug for VirtioConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioConsole")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl VirtioConsole {
    /// A console that is not powered on: registers work, input and output wait. Without
    /// `ends` it works as one from which they were detached.
    ///
    /// # Errors
    /// [`DeviceError`] if the host has no event descriptor left.
    pub fn new(
        spec: ConsoleSpec,
        irq: IrqLine,
        ram: GuestRam,
        ends: Option<Ends>,
    ) -> Result<Arc<Self>, DeviceError> {
        let port = Console {
            registers: Registers::new(kind(), irq),
            ram,
            backlog: VecDeque::new(),
            outbox: VecDeque::new(),
            capacity: spec.output_bytes.max(2 * MUCH),
            sending: None,
            held: false,
            carried: Arc::default(),
        };
        let name = &spec.name;
        let stream = Stream::new(name, name, spec.drain_limit, port, ends)?;
        let stream = Arc::new(stream);
        Ok(Arc::new(Self { spec, stream }))
    }

    /// Puts the registers on the memory bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the addresses.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let first = self.spec.address;
        let last = first.saturating_add(Virtio::WINDOW - 1);
        bus.mmio(&self.spec.name, first..=last, Arc::clone(self) as _)?;
        Ok(())
    }

    /// Where the host's ends of it come and go, see [`Ends`].
    pub fn ends(&self) -> Arc<dyn Place<Ends>> {
        Arc::clone(&self.stream) as _
    }

    /// Bytes of output that wait for the sink: never more than the spec's, and at least 256.
    pub fn queued(&self) -> usize {
        self.stream.with(|port| port.queued())
    }
}

/// What the two threads do, a step at a time and on the caller's thread: for `fuzz/`, where the same
/// input has to do the same whenever it is tried.
#[cfg(fuzzing)]
impl VirtioConsole {
    /// Input, if it is wanted; how many bytes were taken.
    pub fn step_input(&self, bytes: &[u8]) -> usize {
        self.stream.with(|port| {
            let wanted = port.wants_input();
            if wanted { port.push(bytes) } else { 0 }
        })
    }

    /// At most `limit` bytes of the output that waits, none while suspended.
    pub fn step_output(&self, limit: usize) -> Vec<u8> {
        let mut chunk = Vec::new();
        self.stream.with(|port| {
            if !port.is_held() {
                port.take(&mut chunk, limit);
            }
        });
        chunk
    }
}

fn kind() -> Kind {
    Kind {
        id: 3,
        features: 0,
        // struct virtio_console_config, virtio 1.2, 5.3.4: all of it is behind features.
        config: vec![0; 12],
        queues: 2,
    }
}

/// The registers, and the bytes on their way in and out.
struct Console {
    registers: Registers,
    ram: GuestRam,
    backlog: VecDeque<u8>,
    outbox: VecDeque<u8>,
    /// Bytes of the outbox, at most.
    capacity: usize,
    /// A buffer of output that did not fit as a whole.
    sending: Option<Sending>,
    held: bool,
    carried: Arc<Carried>,
}

struct Sending {
    taken: Taken,
    /// Bytes of it that are in the outbox.
    done: u64,
}

impl Console {
    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let is_work = self.registers.write(offset, size, value, &self.ram);
        let epoch = self.registers.epoch();
        self.sending.take_if(|sending| sending.taken.epoch != epoch);
        if is_work {
            self.settle();
        }
    }

    /// As after power-on. Output already sent and input not yet received are outside the device and
    /// stay.
    fn reset(&mut self) {
        self.registers.reset();
        self.sending = None;
    }

    /// Moves on what can move. Last act of everything that changes queues or buffers.
    fn settle(&mut self) {
        if self.held {
            return;
        }
        if self.send().and_then(|()| self.receive()).is_err() {
            self.registers.break_down();
        }
    }

    /// From the transmit queue to the outbox.
    fn send(&mut self) -> Result<(), Fault> {
        let mut piece = [0; PIECE];
        while self.outbox.len() < self.capacity {
            let Some(mut sending) = self.sending.take().or_else(|| self.next_output()) else {
                return Ok(());
            };
            let Sending { taken, done } = &mut sending;
            let left = taken.chain.readable_bytes() - *done;
            let room = (self.capacity - self.outbox.len()).min(PIECE);
            let count = usize::try_from(left).unwrap_or(room).min(room);
            if count == 0 {
                return Err(Fault);
            }
            let piece = &mut piece[..count];
            taken.chain.read(&self.ram, *done, piece)?;
            self.outbox.extend(&*piece);
            self.carried.sent.add(count as u64);
            *done += count as u64;
            if *done == taken.chain.readable_bytes() {
                let head = taken.chain.head;
                self.registers.complete(&self.ram, TRANSMIT, head, 0);
            } else {
                self.sending = Some(sending);
            }
        }
        Ok(())
    }

    fn next_output(&mut self) -> Option<Sending> {
        let taken = self.next(TRANSMIT)?;
        Some(Sending { taken, done: 0 })
    }

    /// From the backlog to the receive queue.
    fn receive(&mut self) -> Result<(), Fault> {
        while !self.backlog.is_empty() {
            let Some(taken) = self.next(RECEIVE) else {
                return Ok(());
            };
            let room = usize::try_from(taken.chain.writable_bytes()).unwrap_or(BACKLOG);
            let count = room.min(self.backlog.len());
            if count == 0 {
                return Err(Fault);
            }
            let bytes = &self.backlog.make_contiguous()[..count];
            taken.chain.write(&self.ram, 0, bytes)?;
            self.backlog.drain(..count);
            self.carried.received.add(count as u64);
            let written = u32::try_from(count).map_err(|_| Fault)?;
            let head = taken.chain.head;
            self.registers.complete(&self.ram, RECEIVE, head, written);
        }
        Ok(())
    }

    /// The next buffer of a queue.
    fn next(&mut self, queue: usize) -> Option<Taken> {
        let first = self.registers.take_from(queue, &self.ram);
        // One may have come while notifications were turned on.
        first.or_else(|| self.registers.take_from(queue, &self.ram))
    }
}

impl Port for Console {
    const LOG: &'static str = "device.virtio";

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
        let count = self.outbox.len().min(limit);
        chunk.extend(self.outbox.drain(..count));
        self.settle();
    }

    fn queued(&self) -> usize {
        self.outbox.len()
    }

    fn is_ripe(&self) -> bool {
        self.outbox.back() == Some(&b'\n') || self.outbox.len() >= MUCH
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

impl Device for VirtioConsole {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        let (counts, carried) = self.stream.with(|port| {
            let counts = Arc::clone(port.registers.counts());
            (counts, Arc::clone(&port.carried))
        });
        counts.register(scope)?;
        carried.register(scope)?;
        self.stream.register(scope)
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        self.stream.with(|port| {
            port.registers.describe(page)?;
            let (queued, capacity) = (port.outbox.len(), port.capacity);
            writeln!(
                page,
                "output: {queued} of {capacity} bytes wait for the host"
            )?;
            writeln!(
                page,
                "input: {} bytes wait for the guest",
                port.backlog.len()
            )
        })?;
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
            self.stream.with(Console::reset);
        }
        Ok(())
    }

    /// Writes what is left of the output, at most for the drain limit, and ends both threads.
    fn power_off(&self) -> Result<(), DeviceError> {
        self.stream.power_off()
    }
}

impl IoHandler for VirtioConsole {
    fn read(&self, _: &mut IoCtx, offset: u64, size: u8) -> u64 {
        self.stream.with(|port| port.registers.read(offset, size))
    }

    fn write(&self, _: &mut IoCtx, offset: u64, size: u8, value: u64) {
        self.stream.with(|port| port.write(offset, size, value));
    }
}
