// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's ends of a device that is a stream of bytes, such as a serial port or a console.
//!
//! # Threads
//! | thread | does | waits on | ends |
//! |---|---|---|---|
//! | `io-NAME` | reads host input into the backlog | event-manager: input, wake event | power-off |
//! | `io-NAME-out` | writes the outbox to the sink, which may block | outbox, a change | power-off, when drained |
//!
//! Both are owned and joined by [`Stream`]; what they read and write comes and goes, see [`ends`].
//! Everything the guest can see is in the [`Port`], under one lock, which is held while the interrupt
//! line is set (so that its levels arrive in order; the controller's lock is the inner one) and never
//! across a read or write of the host. Suspend sets a flag under that lock: when it returns, the
//! threads change nothing until resume, whatever the host's ends do.

mod ends;
mod input;
mod output;
mod worker;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_pdm::DeviceError;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use ends::Ends;

use ends::{Attached, Counts, Underway};
use worker::Worker;

/// Where input comes from: something that can be waited for. A read that has nothing to give after
/// all (a filter took it) answers [`std::io::ErrorKind::WouldBlock`]; `Ok(0)` is the end of input.
pub trait SerialInput: Read + AsRawFd + Send {}

impl<T: Read + AsRawFd + Send> SerialInput for T {}

/// Where input comes from.
type Input = Box<dyn SerialInput>;
/// Where output goes.
type Sink = Box<dyn Write + Send>;

/// Bytes of host input that wait for the guest.
pub(crate) const BACKLOG: usize = 1024;

/// The guest's side of a stream: registers, a backlog of at most [`BACKLOG`] bytes, an outbox. No
/// threads, no waiting.
pub(crate) trait Port: Send + 'static {
    /// Of its log messages.
    const LOG: &'static str;

    /// Host input; returns how many bytes were taken: none while held.
    fn push(&mut self, bytes: &[u8]) -> usize;
    /// Whether host input should be read: all that came before has reached the guest.
    fn wants_input(&self) -> bool;
    /// Moves at most `limit` bytes of output into `chunk`. While held only power-off does so, and
    /// the guest's side does not notice.
    fn take(&mut self, chunk: &mut Vec<u8>, limit: usize);
    /// Bytes of output that wait.
    fn queued(&self) -> usize;
    /// Whether output should be written now: a line is complete, or much waits.
    fn is_ripe(&self) -> bool;
    /// Suspended: input and output stand still, so nothing changes until a release.
    fn hold(&mut self);
    /// Takes up input and output again.
    fn release(&mut self);
    /// Whether the last was a hold.
    fn is_held(&self) -> bool;
}

/// A port and its two threads, which run from power-on to power-off.
pub(crate) struct Stream<P: Port> {
    /// `io-` and this is the name of the first thread.
    thread: String,
    drain_limit: Duration,
    shared: Arc<Shared<P>>,
    workers: Mutex<Workers>,
}

/// What EMTs and the two threads share.
struct Shared<P> {
    device: String,
    state: Mutex<State<P>>,
    /// Output to write, other ends, a release, or the end: for `io-NAME-out`.
    output: Condvar,
    /// A thread ended: for power-off.
    ended: Condvar,
    /// A change of the ends happened: for whoever settles it.
    settled: Condvar,
    /// Input wanted, a change of the ends, or the end: for `io-NAME`.
    wake: EventFd,
    counts: Arc<Counts>,
}

struct State<P> {
    port: P,
    ends: Attached,
    change: Option<Underway>,
    /// Changes begun.
    begun: u64,
    /// `io-NAME` waits for the backlog to empty.
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

#[derive(Default)]
struct Workers {
    input: Worker<INPUT>,
    output: Worker<OUTPUT>,
}

impl<P: Port> Stream<P> {
    /// Not powered on: the port works, input and output wait.
    ///
    /// # Errors
    /// [`DeviceError`] if the host has no event descriptor left.
    pub(crate) fn new(
        device: &str,
        thread: &str,
        drain_limit: Duration,
        port: P,
        ends: Option<Ends>,
    ) -> Result<Self, DeviceError> {
        let wake = EventFd::new(EFD_NONBLOCK).map_err(|e| DeviceError {
            device: device.to_owned(),
            what: format!("no event descriptor: {e}; raise the limit of open files"),
        })?;
        let state = State {
            port,
            ends: Attached::new(ends),
            change: None,
            begun: 0,
            input_waits: false,
            output_waits: output::Waits::No,
            stop: Stop::Run,
            running: 0,
        };
        let shared = Shared {
            device: device.to_owned(),
            state: Mutex::new(state),
            output: Condvar::new(),
            ended: Condvar::new(),
            settled: Condvar::new(),
            wake,
            counts: Arc::default(),
        };
        Ok(Self {
            thread: thread.to_owned(),
            drain_limit,
            shared: Arc::new(shared),
            workers: Mutex::default(),
        })
    }

    /// Does something to the port, then wakes whom it concerns. Never waits for the host.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut P) -> T) -> T {
        let mut state = self.shared.lock();
        let value = act(&mut state.port);
        self.shared.after(state);
        value
    }

    /// Starts both threads.
    ///
    /// # Errors
    /// [`DeviceError`] if one of the last power-off still is busy, or the host has no thread left.
    pub(crate) fn power_on(&self) -> Result<(), DeviceError> {
        let mut workers = self.workers();
        workers.input.collect(&self.shared);
        workers.output.collect(&self.shared);
        if workers.output.is_running() || workers.input.is_running() {
            return Err(
                self.error("still busy since the last power-off: its host end is stuck".into())
            );
        }
        {
            let mut state = self.shared.lock();
            state.stop = Stop::Run;
            state.port.release();
        }
        let (reads, writes) = self.threads();
        let started = workers
            .output
            .start(&self.shared, &writes, output::run)
            .and_then(|()| workers.input.start(&self.shared, &reads, input::run));
        drop(workers);
        started.map_err(|e| {
            // What did start ends again.
            let _ = self.power_off();
            self.error(format!(
                "cannot start an I/O thread: {e}; raise the limit of threads"
            ))
        })
    }

    /// Writes what is left of the output, at most for the drain limit, and ends both threads.
    ///
    /// # Errors
    /// [`DeviceError`] if the host's ends did not let go in time; names which.
    pub(crate) fn power_off(&self) -> Result<(), DeviceError> {
        let mut workers = self.workers();
        let left = self.shared.end(self.drain_limit);
        workers.input.collect(&self.shared);
        workers.output.collect(&self.shared);
        let limit = self.drain_limit;
        let (reads, writes) = self.threads();
        if workers.output.is_running() {
            return Err(self.error(format!(
                "{writes}: the output did not take all within {limit:?}, {left} bytes are left"
            )));
        }
        if workers.input.is_running() {
            return Err(self.error(format!("{reads}: a read of the input lasts over {limit:?}")));
        }
        Ok(())
    }

    fn threads(&self) -> (String, String) {
        let name = &self.thread;
        (format!("io-{name}"), format!("io-{name}-out"))
    }

    fn error(&self, what: String) -> DeviceError {
        DeviceError {
            device: self.shared.device.clone(),
            what,
        }
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Port> Drop for Stream<P> {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            log::warn!(target: P::LOG, "{error}");
        }
    }
}

impl<P> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `io-NAME`. The counter cannot overflow: that would take 2^64 wakes unread.
    fn wake_input(&self) {
        let _ = self.wake.write(1);
    }
}

impl<P: Port> Shared<P> {
    /// After something changed in `state`: wakes whom it concerns.
    fn after(&self, mut state: MutexGuard<'_, State<P>>) {
        if state.change.is_some() {
            self.try_change(&mut state);
        }
        let input = state.input_waits && state.port.wants_input();
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

    /// Has the threads end, and waits for that; bytes of output that nobody took.
    fn end(&self, limit: Duration) -> usize {
        let mut state = self.lock();
        state.stop = Stop::Drain;
        self.output.notify_one();
        self.wake_input();
        let until = Instant::now() + limit;
        while state.running > 0 && Instant::now() < until {
            let rest = until.saturating_duration_since(Instant::now());
            state = self
                .ended
                .wait_timeout(state, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if state.running > 0 {
            state.stop = Stop::Abandon;
        }
        self.output.notify_one();
        state.port.queued()
    }
}
