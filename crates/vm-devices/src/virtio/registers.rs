// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers of a virtio-mmio device, without thread and without lock (virtio 1.2, 4.2.2).
//!
//! # Interrupts
//! The line is edge-triggered. Each notification sets its bit of the interrupt status and makes an
//! edge, even if the bit was set: a handler acknowledges first and looks at the used ring after, so
//! what it may have missed makes one more edge, and none can be lost between. A superfluous edge
//! costs one look at the interrupt status.
//!
//! # Errors of the guest
//! What a driver may not do changes nothing. A queue that cannot be, or that breaks its rules while
//! it is used, sets DEVICE_NEEDS_RESET, and no queue is looked at until a reset.

use std::sync::Arc;

use vm_pdm::IrqLine;

use super::chain::{Broken, Chain};
use super::ring::{F_EVENT_IDX, QUEUE_MAX, Ring};
use super::show::Counts;
use crate::GuestRam as Ram;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = 0x464c_4d56;

const STATUS_FEATURES_OK: u32 = 8;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_NEEDS_RESET: u32 = 0x40;
const STATUS_FAILED: u32 = 0x80;
/// What a driver can set: acknowledge, driver, driver ok, features ok, failed.
const STATUS_DRIVERS: u32 = 1 | 2 | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED;

const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

const F_INDIRECT_DESC: u64 = 1 << 28;
const F_VERSION_1: u64 = 1 << 32;

const CONFIG: u64 = 0x100;

/// What kind of device it is; of this only the configuration changes, by [`Registers::set_config`].
#[derive(Debug, Clone)]
pub(super) struct Kind {
    /// Device id (virtio 1.2, 5).
    pub(super) id: u32,
    /// Features of its own, beside those of every device here.
    pub(super) features: u64,
    /// Its configuration space.
    pub(super) config: Vec<u8>,
    /// Number of queues.
    pub(super) queues: usize,
}

/// A request that was taken from a queue.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) queue: usize,
    pub(super) chain: Chain,
    /// What the driver accepted.
    pub(super) features: u64,
    /// The epoch in which it was taken: it is worth nothing in another.
    pub(super) epoch: u64,
    /// The configuration's generation then.
    pub(super) generation: u32,
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    kind: Kind,
    irq: IrqLine,
    status: u32,
    offered_page: u32,
    accepted_page: u32,
    accepted: u64,
    selected: u32,
    rings: Vec<Ring>,
    interrupt_status: u32,
    epoch: u64,
    /// Of the configuration.
    generation: u32,
    /// The driver does not know of the last generation yet.
    untold: bool,
    counts: Arc<Counts>,
}

impl Registers {
    pub(super) fn new(mut kind: Kind, irq: IrqLine) -> Self {
        kind.features |= F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;
        let rings = (0..kind.queues).map(|_| Ring::new()).collect();
        Self {
            kind,
            irq,
            status: 0,
            offered_page: 0,
            accepted_page: 0,
            accepted: 0,
            selected: 0,
            rings,
            interrupt_status: 0,
            epoch: 0,
            generation: 0,
            untold: false,
            counts: Arc::default(),
        }
    }

    /// As after construction; requests that are under way are worth nothing from here on.
    pub(super) fn reset(&mut self) {
        self.status = 0;
        self.offered_page = 0;
        self.accepted_page = 0;
        self.accepted = 0;
        self.selected = 0;
        self.interrupt_status = 0;
        self.rings.fill_with(Ring::new);
        self.untold = false;
        self.epoch += 1;
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    pub(super) fn status(&self) -> u32 {
        self.status
    }

    /// The features that the driver accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn rings(&self) -> &[Ring] {
        &self.rings
    }

    /// Changes at every reset.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Of the configuration: as long as it is the same, so is the configuration (2.4.1).
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Changes the configuration from byte `at` on; the driver hears of it by
    /// [`Registers::tell_config`]. Resets do not bring it back.
    pub(super) fn set_config(&mut self, at: usize, bytes: &[u8]) {
        let place = self.kind.config.iter_mut().skip(at);
        for (to, from) in place.zip(bytes) {
            *to = *from;
        }
        self.generation = self.generation.wrapping_add(1);
        self.untold = true;
    }

    /// Tells the driver of changes that it does not know of. One that is not ready yet may have read
    /// the configuration already: it is told when it is (2.1.2).
    pub(super) fn tell_config(&mut self) {
        if self.untold && self.has(STATUS_DRIVER_OK) {
            self.untold = false;
            self.interrupt(INTERRUPT_CONFIG);
        }
    }

    pub(super) fn read(&self, offset: u64, size: u8) -> u64 {
        if offset >= CONFIG {
            return self.read_config(offset - CONFIG, size);
        }
        if size != 4 {
            return 0;
        }
        let ring = self.ring();
        let value = match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.kind.id,
            0x00c => VENDOR,
            0x010 => half(self.kind.features, self.offered_page),
            0x034 => ring.map_or(0, |_| QUEUE_MAX.into()),
            0x044 => ring.map_or(0, |ring| ring.is_ready().into()),
            0x060 => self.interrupt_status,
            0x070 => self.status,
            // Length of a shared memory region that there is not (4.2.2).
            0x0b0 | 0x0b4 => u32::MAX,
            0x0fc => self.generation,
            _ => 0,
        };
        value.into()
    }

    fn read_config(&self, offset: u64, size: u8) -> u64 {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = [0; 8];
        let from = self.kind.config.iter().skip(start);
        for (to, from) in bytes.iter_mut().zip(from).take(size.into()) {
            *to = *from;
        }
        u64::from_le_bytes(bytes)
    }

    /// Whether there may be work now.
    pub(super) fn write(&mut self, offset: u64, size: u8, value: u64, ram: &Ram) -> bool {
        let Ok(value) = u32::try_from(value) else {
            return false;
        };
        if size != 4 {
            return false;
        }
        match offset {
            0x014 => self.offered_page = value,
            0x024 => self.accepted_page = value,
            0x020 => self.accept(value),
            0x030 => self.selected = value,
            0x044 => self.set_ready(value, ram),
            0x050 => return self.ring_bell(value),
            0x064 => self.interrupt_status &= !value,
            0x070 => return self.set_status(value),
            _ => self.write_ring(offset, value),
        }
        false
    }

    /// The selected queue.
    fn ring(&self) -> Option<&Ring> {
        self.rings.get(usize::try_from(self.selected).ok()?)
    }

    fn has(&self, status: u32) -> bool {
        self.status & status != 0
    }

    /// Whether queues are looked at.
    fn is_live(&self) -> bool {
        self.has(STATUS_DRIVER_OK) && !self.has(STATUS_NEEDS_RESET | STATUS_FAILED)
    }

    fn accept(&mut self, value: u32) {
        let shift = match self.accepted_page {
            0 => 0,
            1 => 32,
            // No device here offers anything beyond: what is accepted there cannot be.
            _ => return,
        };
        if !self.has(STATUS_FEATURES_OK) {
            self.accepted &= !(u64::from(u32::MAX) << shift);
            self.accepted |= u64::from(value) << shift;
        }
    }

    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return false;
        }
        let mut new = value & STATUS_DRIVERS & !self.status;
        let is_possible =
            self.accepted & !self.kind.features == 0 && self.accepted & F_VERSION_1 != 0;
        if !is_possible {
            new &= !STATUS_FEATURES_OK;
        }
        if (self.status | new) & STATUS_FEATURES_OK == 0 {
            new &= !STATUS_DRIVER_OK;
        }
        self.status |= new;
        // What was made available before counts too.
        if new & STATUS_DRIVER_OK != 0 {
            for ring in self.rings.iter_mut().filter(|ring| ring.is_ready()) {
                ring.rung = true;
            }
            self.tell_config();
        }
        self.is_live()
    }

    fn set_ready(&mut self, value: u32, ram: &Ram) {
        let features = self.accepted;
        let agreed = self.has(STATUS_FEATURES_OK);
        let selected = usize::try_from(self.selected).ok();
        let Some(ring) = selected.and_then(|n| self.rings.get_mut(n)) else {
            return;
        };
        match (value & 1, ring.is_ready()) {
            (0, true) => {
                ring.disable();
                // What was taken from it is worth nothing.
                self.epoch += 1;
            }
            (1, false) if agreed && ring.enable(ram, features).is_err() => self.break_down(),
            _ => {}
        }
    }

    fn write_ring(&mut self, offset: u64, value: u32) {
        let agreed = self.has(STATUS_FEATURES_OK);
        let selected = usize::try_from(self.selected).ok();
        let ring = selected.and_then(|n| self.rings.get_mut(n));
        let Some(ring) = ring.filter(|ring| agreed && !ring.is_ready()) else {
            return;
        };
        match offset {
            0x038 => ring.size = value,
            0x080 => set_low(&mut ring.descriptors, value),
            0x084 => set_high(&mut ring.descriptors, value),
            0x090 => set_low(&mut ring.available, value),
            0x094 => set_high(&mut ring.available, value),
            0x0a0 => set_low(&mut ring.used, value),
            0x0a4 => set_high(&mut ring.used, value),
            _ => {}
        }
    }

    fn ring_bell(&mut self, queue: u32) -> bool {
        self.counts.bells.inc();
        let ring = usize::try_from(queue)
            .ok()
            .and_then(|n| self.rings.get_mut(n))
            .filter(|ring| ring.is_ready());
        if let Some(ring) = ring {
            ring.rung = true;
        }
        self.is_live()
    }

    /// Whether a queue should be looked at.
    pub(super) fn is_rung(&self) -> bool {
        self.is_live() && self.rings.iter().any(|ring| ring.rung)
    }

    /// Takes a request from the first queue that has one.
    pub(super) fn take(&mut self, ram: &Ram) -> Option<Taken> {
        (0..self.rings.len()).find_map(|queue| self.take_from(queue, ram))
    }

    /// Takes a request from a queue. `None` with [`Registers::is_rung`]: look again.
    pub(super) fn take_from(&mut self, queue: usize, ram: &Ram) -> Option<Taken> {
        let (is_live, generation) = (self.is_live(), self.generation);
        let ring = self
            .rings
            .get_mut(queue)
            .filter(|ring| is_live && ring.rung)?;
        match ring.pop(ram) {
            Ok(chain) => chain.map(|chain| Taken {
                queue,
                chain,
                features: self.accepted,
                epoch: self.epoch,
                generation,
            }),
            Err(Broken) => {
                self.break_down();
                None
            }
        }
    }

    /// Gives a request of this epoch back.
    pub(super) fn complete(&mut self, ram: &Ram, queue: usize, head: u16, bytes: u32) {
        let Some(ring) = self.rings.get_mut(queue) else {
            return;
        };
        self.counts.completed.inc();
        match ring.complete(ram, head, bytes) {
            Ok(true) => self.interrupt(INTERRUPT_USED),
            Ok(false) => {}
            Err(Broken) => self.break_down(),
        }
    }

    /// The driver has to reset the device (virtio 1.2, 2.1.2).
    pub(super) fn break_down(&mut self) {
        if !self.has(STATUS_NEEDS_RESET) {
            self.counts.broken.inc();
            self.status |= STATUS_NEEDS_RESET;
            if self.has(STATUS_DRIVER_OK) {
                self.interrupt(INTERRUPT_CONFIG);
            }
        }
    }

    fn interrupt(&mut self, why: u32) {
        self.counts.interrupts.inc();
        self.interrupt_status |= why;
        self.irq.pulse();
    }
}

/// A half of `value`: 0 the low one, 1 the high one, no others.
fn half(value: u64, page: u32) -> u32 {
    let half = match page {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    };
    u32::try_from(half).expect("32 bits")
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register >> 32 << 32 | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = u64::from(value) << 32 | *register & 0xffff_ffff;
}
