// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtio devices behind virtio-mmio: a disk and a source of entropy, and on threads of its own kind a
//! console, see [`console`].
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
//!
//! # Refused by the host
//! A request that the host cannot serve now (its disk is full) stays in the device, neither lost nor
//! answered, and those behind it in their queues. The error is raised while the request still is
//! under way, so that the suspend it causes ends after the request was put aside, and every resume
//! comes later still. Meanwhile nothing is under way and the device is not pending. A resume has it
//! served anew, once; a reset or a power-off drops it.
//!
//! # Images
//! A disk's image comes and goes at run time: see [`drive`].

mod blk;
mod chain;
mod console;
mod drive;
mod image;
mod medium;
mod registers;
mod request;
mod ring;
mod rng;
mod shared;
mod show;
#[cfg(fuzzing)]
mod step;
mod worker;

use std::fmt::{self, Debug};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;
use vm_pdm::info::Page;
use vm_pdm::stats::{Scope, StatError};
use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqLine, Link, ResetKind,
};

pub use console::{ConsoleSpec, VirtioConsole};
pub use image::{DiskAccess, DiskError, DiskImage};

use blk::Disk;
use drive::Drive;
use registers::Registers;
use request::Backend;
use rng::Entropy;
use shared::{Allowed, Shared, State, Thread};
use worker::Worker;

/// How long power-on and drop wait for a thread that was told to end: it may be in I/O of the host.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Guest memory: every write of a device marks the pages it touches in the bitmap beside each region.
/// `vm_cpu::GuestRam` is the same type.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// A virtio device at an address, with a thread of its own, `io-NAME`, from power-on to power-off.
///
/// The guest has to be told where it is; nothing is found by probing.
pub struct Virtio {
    address: u64,
    shared: Arc<Shared>,
    worker: Mutex<Worker>,
}

impl Debug for Virtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtio")
            .field("name", &self.shared.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
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
        let drive = Drive::new(image.access, Some(image));
        Self::with_drive(name, address, irq, ram, drive)
    }

    /// A disk of size 0 that has no image yet and answers every request with an error; what is
    /// attached to it later, by its [`Place`](vm_pdm::Place), is of this access.
    pub fn empty_disk(
        name: &str,
        address: u64,
        irq: IrqLine,
        ram: GuestRam,
        access: DiskAccess,
    ) -> Arc<Self> {
        Self::with_drive(name, address, irq, ram, Drive::new(access, None))
    }

    fn with_drive(
        name: &str,
        address: u64,
        irq: IrqLine,
        ram: GuestRam,
        drive: Drive,
    ) -> Arc<Self> {
        let registers = Registers::new(blk::kind(drive.access(), drive.sectors()), irq);
        let disk = Box::new(Disk::new(name));
        Self::new(name, address, ram, registers, disk, Some(drive))
    }

    /// A source of entropy.
    pub fn entropy(name: &str, address: u64, irq: IrqLine, ram: GuestRam) -> Arc<Self> {
        let registers = Registers::new(Entropy::kind(), irq);
        Self::new(name, address, ram, registers, Box::new(Entropy), None)
    }

    fn new(
        name: &str,
        address: u64,
        ram: GuestRam,
        registers: Registers,
        backend: Box<dyn Backend>,
        drive: Option<Drive>,
    ) -> Arc<Self> {
        let state = State {
            registers,
            allowed: Allowed::Run,
            thread: Thread::None,
            reset_waits: false,
            refused: None,
            drive,
            link: None,
        };
        Arc::new(Self {
            address,
            shared: Arc::new(Shared {
                name: name.to_owned(),
                ram,
                state: Mutex::new(state),
                work: Condvar::new(),
                ended: Condvar::new(),
                changed: Condvar::new(),
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
        bus.mmio(
            &self.shared.name,
            self.address..=last,
            Arc::clone(self) as _,
        )?;
        Ok(())
    }

    fn error(&self, what: &str) -> DeviceError {
        DeviceError {
            device: self.shared.name.clone(),
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

impl Device for Virtio {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        let counts = Arc::clone(self.shared.lock().registers.counts());
        counts.register(scope)?;
        self.shared.drive_stats(scope)
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        self.shared.lock().describe(page)
    }

    fn connect(&self, link: &Link) {
        self.shared.lock().link = Some(link.clone());
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
        let mut state = self.shared.lock();
        state.allowed = Allowed::Run;
        state.registers.tell_config();
        drop(state);
        worker.start(&self.shared).map_err(|e| {
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
        let mut state = self.shared.lock();
        if let Some(refused) = &mut state.refused {
            refused.again = true;
        }
        // What changed while it was suspended.
        if state.allowed == Allowed::Hold {
            state.registers.tell_config();
        }
        drop(state);
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
            let name = &self.shared.name;
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
