// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A disk whose host has no room, for as long as the test likes.

use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use vm_pdm::{Action, RuntimeError};

use super::*;
use crate::virtio::medium::Medium;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const HEADER: u64 = 0x5000;
const STATUS: u64 = 0x5800;
pub(super) const BIG: u64 = 0x10_0000;
const RAM: usize = 4 << 20;
pub(super) const SECTORS: usize = 2048;

pub(super) const OK: u8 = 0;
pub(super) const IO_ERROR: u8 = 1;
pub(super) const UNANSWERED: u8 = 0xee;

/// A file that does what it is told.
#[derive(Debug)]
pub(super) struct Fickle {
    pub(super) bytes: Mutex<Vec<u8>>,
    /// What every change is refused with, from this many changes on.
    refuses: Mutex<Option<(usize, Errno)>>,
    /// Where changes were tried, and flushes.
    tried: Mutex<Vec<u64>>,
}

impl Fickle {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0xff; SECTORS * 512]),
            refuses: Mutex::new(None),
            tried: Mutex::default(),
        })
    }

    fn change(&self, at: u64, to: &[u8]) -> Result<(), Errno> {
        self.tried.lock().expect("held by nobody").push(at);
        if let Some((after, errno)) = &mut *self.refuses.lock().expect("held by nobody") {
            if *after == 0 {
                return Err(*errno);
            }
            *after -= 1;
        }
        let at = usize::try_from(at).expect("small");
        self.bytes.lock().expect("held by nobody")[at..at + to.len()].copy_from_slice(to);
        Ok(())
    }

    pub(super) fn refuse(&self, what: Option<(usize, Errno)>) {
        *self.refuses.lock().expect("held by nobody") = what;
    }

    pub(super) fn tried(&self) -> Vec<u64> {
        std::mem::take(&mut self.tried.lock().expect("held by nobody"))
    }
}

impl Medium for Arc<Fickle> {
    fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).expect("small");
        to.copy_from_slice(&self.bytes.lock().expect("held by nobody")[at..at + to.len()]);
        Ok(())
    }

    fn write(&self, from: &[u8], at: u64) -> io::Result<()> {
        Ok(self.change(at, from)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(self.change(0, &[])?)
    }

    fn allocate(&self, _: FallocateFlags, at: u64, bytes: u64) -> Result<(), Errno> {
        self.change(at, &vec![0; usize::try_from(bytes).expect("small")])
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(4711)
    }
}

struct Edges(Mutex<Sender<()>>);

impl IrqChip for Edges {
    fn set(&self, _: u32, level: Level) {
        if level == Level::High {
            // Nobody listens any more when the test is over.
            let _ = self.0.lock().expect("held by nobody").send(());
        }
    }
}

pub(super) struct Machine {
    pub(super) device: Arc<Virtio>,
    pub(super) ram: GuestRam,
    pub(super) host: Arc<Fickle>,
    edges: Receiver<()>,
    pub(super) raised: Receiver<RuntimeError>,
    available: u16,
}

impl Machine {
    pub(super) fn new() -> Self {
        let (mut this, raiser) = Self::without_vm();
        this.device.connect(&Link {
            waker: Waker::new(|| {}),
            raiser: Raiser::new(move |error| raiser.send(error).expect("the test listens")),
        });
        this.begin();
        this
    }

    /// Not connected, and not powered on.
    fn without_vm() -> (Self, Sender<RuntimeError>) {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory");
        let host = Fickle::new();
        let path = Path::new("/images/small.img");
        let image = DiskImage::of(Box::new(Arc::clone(&host)), path, SECTORS as u64);
        let (edge, edges) = channel();
        let irq = IrqLine::new(Arc::new(Edges(Mutex::new(edge))), 5);
        let device = Virtio::disk("disk0", 0, irq, ram.clone(), image);
        let (raiser, raised) = channel();
        let this = Self {
            device,
            ram,
            host,
            edges,
            raised,
            available: 0,
        };
        (this, raiser)
    }

    fn begin(&mut self) {
        self.device.power_on().expect("a thread");
        self.start();
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        self.ram
            .write_slice(bytes, GuestAddress(at))
            .expect("inside");
    }

    /// From status 0 to DRIVER_OK.
    pub(super) fn start(&mut self) {
        self.put(AVAILABLE, &[0; 64]);
        self.put(USED, &[0; 256]);
        self.available = 0;
        negotiate(&self.device);
    }

    /// A request of `bytes` bytes of data at BIG; several may be under way.
    pub(super) fn submit(&mut self, kind: u32, sector: u64, bytes: u32) {
        let n = u64::from(self.available);
        let (header, status) = (HEADER + 16 * n, STATUS + n);
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &sector.to_le_bytes());
        self.put(status, &[UNANSWERED]);
        let head = 3 * self.available;
        let write = if kind == IN { 2 } else { 0 };
        for (n, (at, bytes, flags)) in
            [(header, 16, 1), (BIG, bytes, 1 | write), (status, 1, 2_u16)]
                .into_iter()
                .enumerate()
        {
            let slot = head + u16::try_from(n).expect("three");
            let at_slot = TABLE + 16 * u64::from(slot);
            self.put(at_slot, &u64::to_le_bytes(at));
            self.put(at_slot + 8, &u32::to_le_bytes(bytes));
            self.put(at_slot + 12, &flags.to_le_bytes());
            self.put(at_slot + 14, &(slot + 1).to_le_bytes());
        }
        self.put(AVAILABLE + 4 + 2 * n, &head.to_le_bytes());
        self.available += 1;
        self.put(AVAILABLE + 2, &self.available.to_le_bytes());
        self.device.write(&mut IoCtx::new(), 0x50, 4, 0);
    }

    /// A range for discard and write-zeroes, whose other readers see some bytes.
    fn set_data(&self, sector: u64, sectors: u32) {
        self.put(BIG, &sector.to_le_bytes());
        self.put(BIG + 8, &sectors.to_le_bytes());
        self.put(BIG + 12, &[0; 4]);
    }

    /// Waits until `count` requests since the start are given back; the answers of all.
    pub(super) fn answers(&self, count: u16) -> Vec<u8> {
        while self.used() < count {
            self.edges.recv_timeout(LIMIT).expect("the device answers");
        }
        self.statuses()
    }

    pub(super) fn used(&self) -> u16 {
        self.ram.read_obj(GuestAddress(USED + 2)).expect("inside")
    }

    pub(super) fn statuses(&self) -> Vec<u8> {
        let mut all = vec![0; self.available.into()];
        self.ram
            .read_slice(&mut all, GuestAddress(STATUS))
            .expect("inside");
        all
    }

    /// Waits for the device to raise; the request is put aside when this returns.
    pub(super) fn raised(&self) -> RuntimeError {
        let error = self.raised.recv_timeout(LIMIT).expect("the device raises");
        self.device.suspend().expect("suspends");
        while self.device.is_pending() {
            std::thread::yield_now();
        }
        error
    }

    pub(super) fn page(&self) -> String {
        let mut page = Page::new();
        self.device.info(&mut page).expect("written to memory");
        page.into_text()
    }

    pub(super) fn resume(&self) {
        self.device.resume().expect("resumes");
    }
}

/// From status 0 to DRIVER_OK, with what the queue's memory holds.
pub(super) fn negotiate(device: &Virtio) {
    // Flush, discard, write-zeroes.
    let features = 1 << 9 | 1 << 13 | 1 << 14;
    for (offset, value) in [
        (0x70, 0),
        (0x70, 3),
        (0x24, 0),
        (0x20, features),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x38, 16),
        (0x80, TABLE),
        (0x90, AVAILABLE),
        (0xa0, USED),
        (0x44, 1),
        (0x70, 15),
    ] {
        device.write(&mut IoCtx::new(), offset, 4, value);
    }
}

#[test]
fn what_a_full_host_refuses_waits_for_a_resume_and_is_then_done_once() {
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        for (kind, bytes) in [(OUT, 512), (FLUSH, 0), (DISCARD, 16), (WRITE_ZEROES, 16)] {
            let mut machine = Machine::new();
            machine.set_data(0, 4);
            machine.host.refuse(Some((0, errno)));
            machine.submit(kind, 0, bytes);
            let error = machine.raised();
            assert_eq!((error.id, error.action), ("DiskFull", Action::Suspend));
            assert_eq!(error.source, "disk0");
            for part in ["/images/small.img", "4711 bytes are free", "then resume"] {
                assert!(error.message.contains(part), "{part}: {error}");
            }
            assert_eq!((machine.used(), machine.statuses()), (0, vec![UNANSWERED]));
            assert_eq!(machine.host.tried(), [0]);
            assert!(machine.page().contains("waits to be served anew\n"));
            machine.host.refuse(None);
            machine.resume();
            assert_eq!(machine.answers(1), [OK], "{kind}");
            assert_eq!(machine.host.tried(), [0]);
            assert!(machine.raised.try_recv().is_err());
            assert!(!machine.page().contains("anew"));
        }
    }
}

#[test]
fn a_host_that_still_is_full_is_raised_again_after_each_resume() {
    let mut machine = Machine::new();
    machine.host.refuse(Some((0, Errno::NOSPC)));
    machine.submit(OUT, 3, 512);
    for _ in 0..3 {
        machine.raised();
        assert_eq!(machine.host.tried(), [3 * 512]);
        assert_eq!((machine.used(), machine.statuses()), (0, vec![UNANSWERED]));
        machine.resume();
    }
    machine.raised();
    machine.host.refuse(None);
    machine.resume();
    assert_eq!((machine.answers(1), machine.used()), (vec![OK], 1));
}

#[test]
fn what_was_written_before_the_host_was_full_is_written_again() {
    let mut machine = Machine::new();
    // Three pieces, of which the first finds room.
    let data: Vec<u8> = (0..700 * 512_u32).map(|n| n.to_le_bytes()[1]).collect();
    machine.put(BIG, &data);
    machine.host.refuse(Some((1, Errno::NOSPC)));
    machine.submit(OUT, 5, 700 * 512);
    machine.raised();
    let first = 5 * 512;
    let piece = 256 << 10;
    assert_eq!(machine.host.tried(), [first, first + piece]);
    machine.host.refuse(None);
    machine.resume();
    assert_eq!(machine.answers(1), [OK]);
    assert_eq!(machine.host.tried(), [first, first + piece]);
    let bytes = machine.host.bytes.lock().expect("held by nobody");
    assert_eq!(bytes[5 * 512..705 * 512], data);
    assert!(bytes[705 * 512..].iter().all(|byte| *byte == 0xff));
}

#[test]
fn no_request_overtakes_the_refused_one() {
    let mut machine = Machine::new();
    machine.host.refuse(Some((0, Errno::NOSPC)));
    machine.submit(OUT, 9, 512);
    machine.raised();
    for sector in [1, 2] {
        machine.submit(OUT, sector, 512);
    }
    machine.submit(IN, 9, 512);
    assert_eq!(machine.host.tried(), [9 * 512]);
    machine.host.refuse(None);
    machine.resume();
    assert_eq!(machine.answers(4), [OK; 4]);
    assert_eq!(machine.host.tried(), [9 * 512, 512, 1024]);
    // Heads in the used ring, in order.
    let heads: Vec<u32> = (0..4)
        .map(|n| machine.ram.read_obj(GuestAddress(USED + 4 + 8 * n)))
        .map(|head| head.expect("inside"))
        .collect();
    assert_eq!(heads, [0, 3, 6, 9]);
}

#[test]
fn a_bell_does_not_have_the_refused_request_served() {
    let mut machine = Machine::new();
    machine.host.refuse(Some((0, Errno::NOSPC)));
    machine.submit(OUT, 9, 512);
    machine.raised.recv_timeout(LIMIT).expect("raises");
    // Before the VM has come to suspend.
    machine.submit(OUT, 1, 512);
    machine.device.suspend().expect("suspends");
    while machine.device.is_pending() {
        std::thread::yield_now();
    }
    assert_eq!((machine.host.tried(), machine.used()), (vec![9 * 512], 0));
}

#[test]
fn a_reset_drops_the_refused_request() {
    for by_guest in [true, false] {
        let mut machine = Machine::new();
        machine.host.refuse(Some((0, Errno::NOSPC)));
        machine.submit(OUT, 9, 512);
        machine.raised();
        if !by_guest {
            machine.device.reset(ResetKind::Hard).expect("resets");
            assert!(!machine.device.is_pending());
        }
        machine.start();
        machine.host.refuse(None);
        machine.resume();
        machine.submit(OUT, 1, 512);
        assert_eq!(machine.answers(1), [OK]);
        assert_eq!(machine.host.tried(), [9 * 512, 512]);
    }
}

#[test]
fn a_power_off_drops_the_refused_request_and_does_not_wait_for_it() {
    let mut machine = Machine::new();
    machine.host.refuse(Some((0, Errno::NOSPC)));
    machine.submit(OUT, 9, 512);
    machine.raised();
    machine.device.power_off().expect("ends");
    while machine.device.is_pending() {
        std::thread::yield_now();
    }
    machine.device.power_on().expect("a new thread");
    machine.host.refuse(None);
    machine.start();
    machine.submit(OUT, 1, 512);
    assert_eq!(machine.answers(1), [OK]);
    assert_eq!(machine.host.tried(), [9 * 512, 512]);
}

#[test]
fn a_device_that_is_dropped_with_a_refused_request_ends_its_thread() {
    let mut machine = Machine::new();
    machine.host.refuse(Some((0, Errno::NOSPC)));
    machine.submit(OUT, 9, 512);
    machine.raised();
    let shared = Arc::downgrade(&machine.device.shared);
    drop(machine);
    assert!(shared.upgrade().is_none(), "the thread held it");
}

#[test]
fn other_errors_and_those_of_a_device_without_a_vm_are_the_guests() {
    let (mut alone, _raiser) = Machine::without_vm();
    alone.begin();
    for (mut machine, errno) in [(Machine::new(), Errno::IO), (alone, Errno::NOSPC)] {
        machine.host.refuse(Some((0, errno)));
        machine.submit(OUT, 9, 512);
        assert_eq!(machine.answers(1), [IO_ERROR]);
        assert!(machine.raised.try_recv().is_err());
    }
}

#[test]
fn a_file_tells_which_room_its_file_system_has_and_a_device_does_not() {
    let file = tempfile::tempfile().expect("a file");
    assert!(file.free_bytes().is_some());
    let null = std::fs::File::open("/dev/null").expect("there is one");
    assert_eq!(null.free_bytes(), None);
}

#[test]
fn a_full_device_of_the_host_is_known_as_one() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let error = Medium::write(&full.expect("there is one"), &[1], 0).expect_err("it is full");
    assert!(medium::is_full(&error));
}
