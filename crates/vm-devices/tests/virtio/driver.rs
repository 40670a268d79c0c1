// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A driver of one queue, as a guest would have it, in the same process.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use vm_devices::{DiskAccess, DiskImage, GuestRam, Virtio};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vm_pdm::info::Page;
use vm_pdm::stats::{Pattern, Scope, Stats, Value};
use vm_pdm::{BusBuilder, Buses, Device, IoCtx, IrqChip, IrqLine, Level};

pub(crate) const ADDRESS: u64 = 0xd000_0000;
pub(crate) const RAM: u64 = 4 << 20;
pub(crate) const QUEUE: u16 = 16;
pub(crate) const TABLE: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
/// Where header, status, and data of a request lie.
pub(crate) const HEADER: u64 = 0x4000;
pub(crate) const STATUS: u64 = 0x5000;
pub(crate) const DATA: u64 = 0x10_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;

/// Only a device that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// A descriptor: address, bytes, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

struct Edges(Mutex<Sender<()>>);

impl IrqChip for Edges {
    fn set(&self, _: u32, level: Level) {
        if level == Level::High {
            // Nobody listens any more when the driver is gone.
            let _ = self.0.lock().unwrap().send(());
        }
    }
}

pub(crate) struct Driver {
    pub(crate) device: Arc<Virtio>,
    pub(crate) ram: GuestRam,
    bus: Buses,
    interrupts: Receiver<()>,
    available: u16,
    used: u16,
    files: TempDir,
    /// Called when a request lies in memory and the device does not know of it yet.
    pub(crate) before_ask: Option<fn(&Driver)>,
}

impl Driver {
    /// A disk of `sectors` zeroes, powered on; nothing negotiated.
    pub(crate) fn disk(sectors: u64, access: DiskAccess) -> Self {
        let files = TempDir::new().unwrap();
        let path = files.path().join("disk");
        std::fs::write(&path, vec![0; usize::try_from(sectors).unwrap() * 512]).unwrap();
        let image = DiskImage::open(&path, access).unwrap();
        Self::new(files, |irq, ram| {
            Virtio::disk("disk0", ADDRESS, irq, ram, image)
        })
    }

    /// A disk without an image.
    pub(crate) fn empty(access: DiskAccess) -> Self {
        let files = TempDir::new().unwrap();
        Self::new(files, |irq, ram| {
            Virtio::empty_disk("disk0", ADDRESS, irq, ram, access)
        })
    }

    pub(crate) fn entropy() -> Self {
        let files = TempDir::new().unwrap();
        Self::new(files, |irq, ram| Virtio::entropy("rng0", ADDRESS, irq, ram))
    }

    fn new(files: TempDir, make: impl FnOnce(IrqLine, GuestRam) -> Arc<Virtio>) -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), usize::try_from(RAM).unwrap())]);
        let ram = ram.unwrap();
        let (edges, interrupts) = channel();
        let irq = IrqLine::new(Arc::new(Edges(Mutex::new(edges))), 5);
        let device = make(irq, ram.clone());
        let mut bus = BusBuilder::new();
        device.attach(&mut bus).unwrap();
        device.power_on().unwrap();
        Self {
            device,
            ram,
            bus: bus.build(),
            interrupts,
            available: 0,
            used: 0,
            files,
            before_ask: None,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.files.path().join("disk")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.files.path()
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let value = self.bus.mmio_read(&mut IoCtx::new(), ADDRESS + offset, 4);
        u32::try_from(value).unwrap()
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.access(offset, 4, value.into());
    }

    pub(crate) fn access(&self, offset: u64, size: u8, value: u64) {
        self.bus
            .mmio_write(&mut IoCtx::new(), ADDRESS + offset, size, value);
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write(0x14, 1);
        let high = self.read(0x10);
        self.write(0x14, 0);
        u64::from(high) << 32 | u64::from(self.read(0x10))
    }

    pub(crate) fn accept(&self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        self.write(0x24, 0);
        self.write(0x20, u32::try_from(features & 0xffff_ffff).unwrap());
        self.write(0x24, 1);
        self.write(0x20, u32::try_from(features >> 32).unwrap());
        self.write(0x70, 11);
    }

    pub(crate) fn place_queue(&self, size: u32, table: u64, available: u64, used: u64) {
        self.write(0x30, 0);
        self.write(0x38, size);
        for (offset, address) in [(0x80, table), (0x90, available), (0xa0, used)] {
            self.write(offset, u32::try_from(address & 0xffff_ffff).unwrap());
            self.write(offset + 4, u32::try_from(address >> 32).unwrap());
        }
        self.write(0x44, 1);
    }

    /// Everything up to DRIVER_OK, all features accepted that `without` does not name.
    pub(crate) fn start(&mut self, without: u64) {
        self.accept(self.offered() & !without);
        assert_eq!(self.read(0x70), 11, "the features are accepted");
        let zeroes = [0; 0x1000];
        for page in [TABLE, AVAILABLE, USED] {
            self.ram.write_slice(&zeroes, GuestAddress(page)).unwrap();
        }
        self.place_queue(QUEUE.into(), TABLE, AVAILABLE, USED);
        assert_eq!(self.read(0x44), 1, "the queue is accepted");
        self.write(0x70, 15);
        (self.available, self.used) = (0, 0);
        while self.interrupts.try_recv().is_ok() {}
    }

    pub(crate) fn describe(&self, table: u64, descriptors: &[Descriptor]) {
        for (n, (address, bytes, flags, next)) in (0_u64..).zip(descriptors) {
            let at = |offset| GuestAddress(table + 16 * n + offset);
            self.ram.write_obj(*address, at(0)).unwrap();
            self.ram.write_obj(*bytes, at(8)).unwrap();
            self.ram.write_obj(*flags, at(12)).unwrap();
            self.ram.write_obj(*next, at(14)).unwrap();
        }
    }

    /// Makes the chain from descriptor 0 available, and says so.
    pub(crate) fn submit(&mut self, descriptors: &[Descriptor]) {
        self.describe(TABLE, descriptors);
        let slot = AVAILABLE + 4 + 2 * u64::from(self.available % QUEUE);
        self.ram.write_obj(0_u16, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
        // Wants an interrupt for the next used one.
        let event = AVAILABLE + 4 + 2 * u64::from(QUEUE);
        self.ram.write_obj(self.used, GuestAddress(event)).unwrap();
        if let Some(before) = self.before_ask {
            before(self);
        }
        self.write(0x50, 0);
    }

    pub(crate) fn set_available(&self, index: u16) {
        self.ram
            .write_obj(index, GuestAddress(AVAILABLE + 2))
            .unwrap();
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.ram.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Waits for an interrupt, acknowledges it; its status.
    pub(crate) fn interrupt(&self) -> u32 {
        self.interrupts
            .recv_timeout(LIMIT)
            .expect("the device answers");
        let status = self.read(0x60);
        self.write(0x64, status);
        status
    }

    /// Waits until the last request is given back; bytes written.
    pub(crate) fn completed(&mut self) -> u32 {
        while self.used_index() == self.used {
            assert_eq!(self.interrupt() & !1, 0, "the queue works");
        }
        let slot = USED + 4 + 8 * u64::from(self.used % QUEUE);
        self.used = self.used.wrapping_add(1);
        self.ram.read_obj(GuestAddress(slot + 4)).unwrap()
    }

    pub(crate) fn header(&self, kind: u32, sector: u64) {
        self.ram.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.ram
            .write_obj(sector, GuestAddress(HEADER + 8))
            .unwrap();
        self.ram.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
    }

    pub(crate) fn status(&self) -> u8 {
        self.ram.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// A request with `bytes` of data at DATA; its answer.
    pub(crate) fn ask(&mut self, kind: u32, sector: u64, bytes: u32, flags: u16) -> u8 {
        self.header(kind, sector);
        self.submit(&request(DATA, bytes, flags));
        self.completed();
        self.status()
    }

    pub(crate) fn data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.ram.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    pub(crate) fn set_data(&self, data: &[u8]) {
        self.ram.write_slice(data, GuestAddress(DATA)).unwrap();
    }

    /// The device's page.
    pub(crate) fn page(&self) -> String {
        let mut page = Page::new();
        self.device.info(&mut page).unwrap();
        page.into_text()
    }

    /// What the device counted under `name`, having registered just now.
    pub(crate) fn count(&self, name: &str) -> u64 {
        match self.statistic(name) {
            Some(Value::Counter(n)) => n,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// What the device says under `name` is now.
    pub(crate) fn gauge(&self, name: &str) -> u64 {
        match self.statistic(name) {
            Some(Value::Gauge(n)) => n,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn statistic(&self, name: &str) -> Option<Value> {
        let stats = Stats::new();
        let mut scope = Scope::new(&stats, "/d");
        self.device.stats(&mut scope).unwrap();
        let all = stats.snapshot(&Pattern::default());
        all.get(&format!("/d/{name}"))
    }

    /// Has no page marked.
    pub(crate) fn clean(&self) {
        for region in self.ram.iter() {
            region.get_mmap().bitmap().reset();
        }
    }

    /// The pages that are marked, ascending.
    pub(crate) fn dirty(&self) -> Vec<u64> {
        let region = self.ram.find_region(GuestAddress(0)).unwrap();
        (0..RAM)
            .step_by(4096)
            .filter(|at| region.bitmap().dirty_at(usize::try_from(*at).unwrap()))
            .collect()
    }

    /// Waits until the device has given up on its queue.
    pub(crate) fn needs_reset(&self) {
        while self.read(0x70) & 0x40 == 0 {
            self.interrupt();
        }
    }

    /// Waits until the device is done with its last lifecycle hook.
    pub(crate) fn settled(&self) {
        while self.device.is_pending() {
            std::thread::yield_now();
        }
    }
}

/// Header, data, status.
pub(crate) fn request(data: u64, bytes: u32, flags: u16) -> [Descriptor; 3] {
    [
        (HEADER, 16, NEXT, 1),
        (data, bytes, NEXT | flags, 2),
        (STATUS, 1, WRITE, 0),
    ]
}
