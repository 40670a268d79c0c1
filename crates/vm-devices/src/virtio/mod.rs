// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtio devices behind virtio-mmio: a disk and a source of entropy.
//!
//! # Threads
//! | thread | does | waits on | ends |
//! |---|---|---|---|
//! | `io-NAME` | takes requests, does the host's I/O, gives them back | work, a release | power-off |
//!
//! Registers and queues are under one lock, which is held while the interrupt line is set and while
//! bytes are copied from or to guest memory, never across I/O of the host.
//!
//! # Pending
//! Suspend and reset end at once for the guest's side; the device is pending while its thread still
//! is in a request. After a suspend that request is completed, then the device changes nothing until
//! resume. After a reset it is dropped: see [`request`].

mod blk;
mod image;
mod registers;
mod request;
mod ring;
mod rng;

use std::fmt::{self, Debug};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;
use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqLine, Link, ResetKind, Waker,
};

pub use image::{DiskAccess, DiskError, DiskImage};

use blk::Disk;
use registers::{Registers, Taken};
use request::{Backend, Request, Stop};
use rng::Entropy;

/// How long power-on and drop wait for a thread that was told to end: it may be in I/O of the host.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Guest memory: every write of a device marks the pages it touches in the bitmap beside each region.
/// `vm_cpu::GuestRam` is the same type.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// A virtio device at an address, with a thread of its own, `io-NAME`, from power-on to power-off.
///
/// The guest has to be told where it is; nothing is found by probing.
pub struct Virtio {
    name: String,
    address: u64,
    shared: Arc<Shared>,
    worker: Mutex<Worker>,
}

/// What EMTs and the thread share.
struct Shared {
    ram: GuestRam,
    state: Mutex<State>,
    /// For the thread: there is work, a release, or the end.
    work: Condvar,
    /// The thread ended.
    ended: Condvar,
}

struct State {
    registers: Registers,
    /// What the thread may do.
    allowed: Allowed,
    /// What the thread does.
    thread: Thread,
    /// A reset waits for the request under way.
    reset_waits: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Run,
    /// Suspended: take no request.
    Hold,
    /// End.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    None,
    Idle,
    /// In a request.
    Busy,
}

/// The thread, or what it works with while it does not run.
enum Worker {
    Parked(Box<dyn Backend>),
    Running(JoinHandle<Option<Box<dyn Backend>>>),
    /// It panicked.
    Gone,
}

impl Debug for Virtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtio")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Virtio {
    /// Bytes of address space that a device takes.
    pub const WINDOW: u64 = 0x1000;

    /// A disk. Its name is also the serial number that the guest sees, up to 20 bytes of it.
    pub fn disk(
        name: &str,
        address: u64,
        irq: IrqLine,
        ram: GuestRam,
        image: DiskImage,
    ) -> Arc<Self> {
        let disk = Disk::new(image, name);
        let registers = Registers::new(disk.kind(), irq);
        Self::new(name, address, ram, registers, Box::new(disk))
    }

    /// A source of entropy.
    pub fn entropy(name: &str, address: u64, irq: IrqLine, ram: GuestRam) -> Arc<Self> {
        let registers = Registers::new(Entropy::kind(), irq);
        Self::new(name, address, ram, registers, Box::new(Entropy))
    }

    fn new(
        name: &str,
        address: u64,
        ram: GuestRam,
        registers: Registers,
        backend: Box<dyn Backend>,
    ) -> Arc<Self> {
        let state = State {
            registers,
            allowed: Allowed::Run,
            thread: Thread::None,
            reset_waits: false,
            waker: None,
        };
        Arc::new(Self {
            name: name.to_owned(),
            address,
            shared: Arc::new(Shared {
                ram,
                state: Mutex::new(state),
                work: Condvar::new(),
                ended: Condvar::new(),
            }),
            worker: Mutex::new(Worker::Parked(backend)),
        })
    }

    /// Puts the registers on the memory bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the addresses.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let last = self.address.saturating_add(Self::WINDOW - 1);
        bus.mmio(&self.name, self.address..=last, Arc::clone(self) as _)?;
        Ok(())
    }

    fn error(&self, what: &str) -> DeviceError {
        DeviceError {
            device: self.name.clone(),
            what: what.to_owned(),
        }
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread end when it can.
    fn end(&self) {
        self.shared.lock().allowed = Allowed::End;
        self.shared.work.notify_one();
    }

    /// Waits for a thread that was told to end, and joins it; what became of it.
    fn await_end(&self) -> MutexGuard<'_, Worker> {
        let is_ending =
            |state: &mut State| state.allowed == Allowed::End && state.thread != Thread::None;
        let waited = self
            .shared
            .ended
            .wait_timeout_while(self.shared.lock(), END_LIMIT, is_ending)
            .unwrap_or_else(PoisonError::into_inner);
        drop(waited);
        let mut worker = self.worker();
        worker.collect(&self.shared);
        worker
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread may do becomes `to` if it is `from`: a thread that was told to end ends.
    fn change(&self, from: Allowed, to: Allowed) {
        let mut state = self.lock();
        if state.allowed == from {
            state.allowed = to;
        }
        drop(state);
        self.work.notify_one();
    }

    /// Waits for a request; `None`: it is time to end.
    fn next(&self) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            let is_rung = state.registers.is_rung();
            match state.allowed {
                Allowed::End => return None,
                Allowed::Run if is_rung => {
                    if let Some(taken) = state.registers.take(&self.ram) {
                        state.thread = Thread::Busy;
                        return Some(taken);
                    }
                    // A guest that rings without end does not keep others from the lock.
                    drop(state);
                    std::thread::yield_now();
                    state = self.lock();
                }
                Allowed::Run | Allowed::Hold => {
                    state = self
                        .work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Gives a request back, unless the device was reset since.
    fn finish(&self, taken: &Taken, served: Result<u32, Stop>) {
        let mut state = self.lock();
        if state.registers.epoch() == taken.epoch {
            match served {
                Ok(bytes) => {
                    let head = taken.chain.head;
                    state
                        .registers
                        .complete(&self.ram, taken.queue, head, bytes);
                }
                Err(Stop::Fault) => state.registers.break_down(),
                // Not in this epoch.
                Err(Stop::Reset) => {}
            }
        }
        state.thread = Thread::Idle;
        let is_awaited = std::mem::take(&mut state.reset_waits) || state.allowed != Allowed::Run;
        let waker = state.waker.clone().filter(|_| is_awaited);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The thread: serves until power-off, gives the backend back.
fn run(shared: &Shared, mut backend: Box<dyn Backend>) -> Box<dyn Backend> {
    while let Some(taken) = shared.next() {
        let served = backend.serve(&Request::new(shared, &taken));
        shared.finish(&taken, served);
    }
    backend
}

/// Says that the thread ended, however it ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.thread = Thread::None;
        state.reset_waits = false;
        let waker = state.waker.clone();
        drop(state);
        self.0.ended.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Worker {
    /// Starts the thread, unless it runs.
    fn start(&mut self, shared: &Arc<Shared>, name: &str) -> std::io::Result<()> {
        let backend = match std::mem::replace(self, Self::Gone) {
            Self::Parked(backend) => backend,
            other @ (Self::Running(_) | Self::Gone) => {
                *self = other;
                return Ok(());
            }
        };
        // Handed over through a cell, so that the backend is not lost if there is no thread.
        let cell = Arc::new(Mutex::new(Some(backend)));
        let theirs = Arc::clone(&cell);
        shared.lock().thread = Thread::Idle;
        let ending = Ending(Arc::clone(shared));
        let spawned = std::thread::Builder::new()
            .name(format!("io-{name}"))
            .spawn(move || {
                let backend = theirs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()?;
                Some(run(&ending.0, backend))
            });
        match spawned {
            Ok(handle) => {
                *self = Self::Running(handle);
                Ok(())
            }
            Err(error) => {
                let backend = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
                *self = backend.map_or(Self::Gone, Self::Parked);
                Err(error)
            }
        }
    }

    /// Joins the thread if it has said that it ends, after which nothing can hold it up.
    fn collect(&mut self, shared: &Shared) {
        let ended = shared.lock().thread == Thread::None;
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Running(handle) if ended => handle
                .join()
                .ok()
                .flatten()
                .map_or(Self::Gone, Self::Parked),
            other @ (Self::Running(_) | Self::Parked(_) | Self::Gone) => other,
        };
    }
}

impl Device for Virtio {
    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self, link: &Link) {
        self.shared.lock().waker = Some(link.waker.clone());
    }

    fn power_on(&self) -> Result<(), DeviceError> {
        let mut worker = self.await_end();
        match *worker {
            Worker::Parked(_) => {}
            Worker::Running(_) => {
                return Err(self.error(
                    "still in a request since the last power-off: the host's I/O is stuck",
                ));
            }
            Worker::Gone => return Err(self.error("its thread panicked: build the VM anew")),
        }
        self.shared.lock().allowed = Allowed::Run;
        worker.start(&self.shared, &self.name).map_err(|e| {
            self.error(&format!(
                "cannot start its I/O thread: {e}; raise the limit of threads"
            ))
        })
    }

    fn suspend(&self) -> Result<(), DeviceError> {
        self.shared.change(Allowed::Run, Allowed::Hold);
        Ok(())
    }

    fn resume(&self) -> Result<(), DeviceError> {
        self.shared.change(Allowed::Hold, Allowed::Run);
        Ok(())
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            let mut state = self.shared.lock();
            state.registers.reset();
            state.reset_waits = state.thread == Thread::Busy;
        }
        Ok(())
    }

    /// Has the thread end after the request it is in; pending until then.
    fn power_off(&self) -> Result<(), DeviceError> {
        self.end();
        self.worker().collect(&self.shared);
        Ok(())
    }

    fn is_pending(&self) -> bool {
        let state = self.shared.lock();
        match state.allowed {
            Allowed::End => state.thread != Thread::None,
            Allowed::Hold => state.thread == Thread::Busy,
            Allowed::Run => state.reset_waits,
        }
    }
}

impl Drop for Virtio {
    fn drop(&mut self) {
        self.end();
        if matches!(*self.await_end(), Worker::Running(_)) {
            let name = &self.name;
            log::warn!(target: "device.virtio", "io-{name}: still in I/O of the host after {END_LIMIT:?}, left behind");
        }
    }
}

impl IoHandler for Virtio {
    fn read(&self, _: &mut IoCtx, offset: u64, size: u8) -> u64 {
        self.shared.lock().registers.read(offset, size)
    }

    fn write(&self, _: &mut IoCtx, offset: u64, size: u8, value: u64) {
        let ram = &self.shared.ram;
        let is_work = self.shared.lock().registers.write(offset, size, value, ram);
        if is_work {
            self.shared.work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
