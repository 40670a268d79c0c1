// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Serial port: a 16550 at a port base, with input and output on threads of its own.
//!
//! # Threads
//! | thread | does | waits on | ends |
//! |---|---|---|---|
//! | `io-serial` | reads host input into the backlog | event-manager: input, wake event | power-off |
//! | `io-serial-out` | writes the outbox to the sink, which may block | outbox | power-off, when drained |
//!
//! Both are owned and joined by [`Serial`]. Everything the guest can see is under one lock, which is
//! held while the interrupt line is set (so that its levels arrive in order; the controller's lock is
//! the inner one) and never across a read or write of the host. Suspend sets a flag under that lock:
//! when it returns, the threads change nothing until resume, whatever the host's ends do.

mod input;
mod output;
mod uart;

use std::fmt::{self, Debug};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_pdm::{BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqLine, ResetKind};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bytes::{self, ByteRegisters};
use uart::Uart;

/// Where input comes from: something that can be waited for. A read that has nothing to give after
/// all (a filter took it) answers [`io::ErrorKind::WouldBlock`]; `Ok(0)` is the end of input.
pub trait SerialInput: Read + AsRawFd + Send {}

impl<T: Read + AsRawFd + Send> SerialInput for T {}

/// Where output goes.
type Sink = Box<dyn Write + Send>;

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
    shared: Arc<Shared>,
    workers: Mutex<Workers>,
}

/// What EMTs and the two threads share.
struct Shared {
    state: Mutex<State>,
    /// Output to write, a release, or the end: for `io-serial-out`.
    output: Condvar,
    /// A thread ended: for power-off.
    ended: Condvar,
    /// Input wanted, or the end: for `io-serial`.
    wake: EventFd,
}

struct State {
    uart: Uart,
    /// `io-serial` waits for the backlog to empty.
    input_waits: bool,
    output_waits: output::Waits,
    stop: Stop,
    /// Threads that run, a bit for each.
    running: u8,
}

/// Bits of the threads.
const INPUT: u8 = 1;
const OUTPUT: u8 = 2;

/// How far power-off is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Run,
    /// Write what is left, then end.
    Drain,
    /// End as soon as the sink lets go.
    Abandon,
}

struct Workers {
    input: Worker<Box<dyn SerialInput>, INPUT>,
    output: Worker<Sink, OUTPUT>,
}

/// A thread, or what it works on while it does not run.
enum Worker<T, const BIT: u8> {
    /// Nothing to work on.
    None,
    Parked(T),
    Running(std::thread::JoinHandle<Option<T>>),
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

    /// A port that is not powered on: registers work, input and output wait.
    ///
    /// # Errors
    /// [`DeviceError`] if the host has no event descriptor left.
    pub fn new(
        spec: SerialSpec,
        irq: IrqLine,
        input: Option<Box<dyn SerialInput>>,
        output: Box<dyn Write + Send>,
    ) -> Result<Arc<Self>, DeviceError> {
        let wake = EventFd::new(EFD_NONBLOCK).map_err(|e| DeviceError {
            device: spec.name.clone(),
            what: format!("no event descriptor: {e}; raise the limit of open files"),
        })?;
        let state = State {
            uart: Uart::new(irq, spec.output_bytes),
            input_waits: false,
            output_waits: output::Waits::No,
            stop: Stop::Run,
            running: 0,
        };
        let shared = Shared {
            state: Mutex::new(state),
            output: Condvar::new(),
            ended: Condvar::new(),
            wake,
        };
        let workers = Workers {
            input: input.map_or(Worker::None, Worker::Parked),
            output: Worker::Parked(output),
        };
        Ok(Arc::new(Self {
            spec,
            shared: Arc::new(shared),
            workers: Mutex::new(workers),
        }))
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
        self.shared.lock().uart.lost()
    }

    /// Bytes of output that wait for the sink: never more than the spec's, and at least 256.
    pub fn queued(&self) -> usize {
        self.shared.lock().uart.queued()
    }

    fn error(&self, what: String) -> DeviceError {
        DeviceError {
            device: self.spec.name.clone(),
            what,
        }
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `io-serial`. The counter cannot overflow: that would take 2^64 wakes unread.
    fn wake_input(&self) {
        let _ = self.wake.write(1);
    }

    /// After something changed in `state`: wakes whom it concerns.
    fn after(&self, mut state: MutexGuard<'_, State>) {
        let input = state.input_waits && state.uart.wants_input();
        if input {
            state.input_waits = false;
        }
        let output = output::is_due(&state);
        if output {
            state.output_waits = output::Waits::No;
        }
        drop(state);
        if output {
            self.output.notify_one();
        }
        if input {
            self.wake_input();
        }
    }
}

/// Says that a thread ended, however it ends.
struct Ending(Arc<Shared>, u8);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().running &= !self.1;
        self.0.ended.notify_all();
    }
}

impl Device for Serial {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn power_on(&self) -> Result<(), DeviceError> {
        let mut workers = self.workers();
        workers.input.collect(&self.shared);
        workers.output.collect(&self.shared);
        if workers.output.is_running() || workers.input.is_running() {
            return Err(
                self.error("still busy since the last power-off: its host end is stuck".into())
            );
        }
        if matches!(workers.output, Worker::None) {
            return Err(self.error("its output is gone: the thread that wrote it panicked".into()));
        }
        {
            let mut state = self.shared.lock();
            state.stop = Stop::Run;
            state.uart.release();
        }
        let started = workers
            .output
            .start(&self.shared, "io-serial-out", output::run)
            .and_then(|()| workers.input.start(&self.shared, "io-serial", input::run));
        drop(workers);
        started.map_err(|e| {
            // What did start ends again.
            let _ = self.power_off();
            self.error(format!(
                "cannot start an I/O thread: {e}; raise the limit of threads"
            ))
        })
    }

    fn suspend(&self) -> Result<(), DeviceError> {
        self.shared.lock().uart.hold();
        Ok(())
    }

    fn resume(&self) -> Result<(), DeviceError> {
        let mut state = self.shared.lock();
        state.uart.release();
        self.shared.after(state);
        Ok(())
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            let mut state = self.shared.lock();
            state.uart.reset();
            self.shared.after(state);
        }
        Ok(())
    }

    /// Writes what is left of the output, at most for the drain limit, and ends both threads.
    fn power_off(&self) -> Result<(), DeviceError> {
        let mut workers = self.workers();
        let left = {
            let mut state = self.shared.lock();
            state.stop = Stop::Drain;
            self.shared.output.notify_one();
            self.shared.wake_input();
            let until = Instant::now() + self.spec.drain_limit;
            while state.running > 0 && Instant::now() < until {
                let rest = until.saturating_duration_since(Instant::now());
                state = self
                    .shared
                    .ended
                    .wait_timeout(state, rest)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            if state.running > 0 {
                state.stop = Stop::Abandon;
            }
            self.shared.output.notify_one();
            state.uart.queued()
        };
        workers.input.collect(&self.shared);
        workers.output.collect(&self.shared);
        let limit = self.spec.drain_limit;
        if workers.output.is_running() {
            return Err(self.error(format!(
                "io-serial-out: the output did not take all within {limit:?}, {left} bytes are left"
            )));
        }
        if workers.input.is_running() {
            return Err(self.error(format!(
                "io-serial: a read of the input lasts over {limit:?}"
            )));
        }
        Ok(())
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            log::warn!(target: "device.serial", "{error}");
        }
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
        let mut state = self.shared.lock();
        let value = state.uart.read(offset);
        self.shared.after(state);
        value
    }

    fn write_byte(&self, _: &mut IoCtx, offset: u64, value: u8) {
        if let Some(offset) = u8::try_from(offset).ok().filter(|&offset| offset < 8) {
            let mut state = self.shared.lock();
            state.uart.write(offset, value);
            self.shared.after(state);
        }
    }
}

impl<T: Send + 'static, const BIT: u8> Worker<T, BIT> {
    fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Starts the thread if there is something to work on; it gives that back when it ends.
    fn start(
        &mut self,
        shared: &Arc<Shared>,
        name: &str,
        run: fn(&Arc<Shared>, T) -> T,
    ) -> io::Result<()> {
        let work = match std::mem::replace(self, Self::None) {
            Self::Parked(work) => work,
            other @ (Self::None | Self::Running(_)) => {
                *self = other;
                return Ok(());
            }
        };
        // The work is handed over through a cell, so that it is not lost if there is no thread.
        let cell = Arc::new(Mutex::new(Some(work)));
        shared.lock().running |= BIT;
        let ending = Ending(Arc::clone(shared), BIT);
        let theirs = Arc::clone(&cell);
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let work = theirs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()?;
                Some(run(&ending.0, work))
            });
        match spawned {
            Ok(handle) => {
                *self = Self::Running(handle);
                Ok(())
            }
            Err(error) => {
                let work = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
                *self = work.map_or(Self::None, Self::Parked);
                Err(error)
            }
        }
    }

    /// Joins the thread if it has said that it ends, after which nothing can hold it up.
    fn collect(&mut self, shared: &Shared) {
        let ended = shared.lock().running & BIT == 0;
        match std::mem::replace(self, Self::None) {
            Self::Running(handle) if ended => {
                *self = handle
                    .join()
                    .ok()
                    .flatten()
                    .map_or(Self::None, Self::Parked);
            }
            other @ (Self::None | Self::Parked(_) | Self::Running(_)) => *self = other,
        }
    }
}
