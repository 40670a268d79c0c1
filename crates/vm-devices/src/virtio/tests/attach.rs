// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Images that come and go while a request is under way, was refused, or others do things too.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use vm_pdm::{Begun, Change, Place, PlaceError};

use super::full::{
    BIG, FLUSH, Fickle, IN, IO_ERROR, Machine, OK, OUT, SECTORS, UNANSWERED, negotiate,
};
use super::*;
use crate::virtio::medium::Medium;

/// A host that says when it is asked, and waits until it is let go.
#[derive(Debug)]
struct Gated {
    host: Arc<Fickle>,
    asked: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Gated {
    fn pass(&self) {
        self.asked.send(()).expect("the test listens");
        let go = self.go.lock().expect("held by nobody");
        go.recv_timeout(LIMIT).expect("the test lets it go");
    }
}

impl Medium for Gated {
    fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        self.pass();
        self.host.read(to, at)
    }
    fn write(&self, from: &[u8], at: u64) -> io::Result<()> {
        self.pass();
        self.host.write(from, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.host.sync()
    }
    fn allocate(&self, _: FallocateFlags, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

fn image(host: &Arc<Fickle>, sectors: u64) -> DiskImage {
    DiskImage::of(
        Box::new(Arc::clone(host)),
        Path::new("/images/other.img"),
        sectors,
    )
}

fn change(device: &Virtio, change: Change<DiskImage>) -> Result<(), PlaceError> {
    let begun = device.begin(change)?;
    device.settle(begun, LIMIT)
}

fn config(device: &Virtio, offset: u64) -> u64 {
    device.read(&mut IoCtx::new(), offset, 4)
}

fn capacity(device: &Virtio) -> u64 {
    config(device, 0x104) << 32 | config(device, 0x100)
}

/// A machine in a request to a gated image.
struct Busy {
    machine: Machine,
    asked: Receiver<()>,
    go: Sender<()>,
}

impl Busy {
    fn new() -> Self {
        let mut machine = Machine::new();
        let ((asked, asked_rx), (go, go_rx)) = (channel(), channel());
        let gated = Gated {
            host: Arc::clone(&machine.host),
            asked,
            go: Mutex::new(go_rx),
        };
        let path = Path::new("/images/slow.img");
        let slow = DiskImage::of(Box::new(gated), path, SECTORS as u64);
        change(&machine.device, Change::Replace(slow)).expect("nothing is under way");
        machine.host.tried();
        machine.submit(OUT, 1, 512);
        asked_rx.recv_timeout(LIMIT).expect("it is served");
        Self {
            machine,
            asked: asked_rx,
            go,
        }
    }

    fn let_go(&self) {
        self.go.send(()).expect("the host waits");
    }

    fn begin(&self, change: Change<DiskImage>) -> Result<Begun, PlaceError> {
        self.machine.device.begin(change)
    }

    fn settle(&self, begun: Begun) {
        let settled = self.machine.device.settle(begun, LIMIT);
        settled.expect("the request ends");
    }
}

#[test]
fn a_detach_waits_for_the_request_under_way_which_is_answered_from_its_image() {
    let mut busy = Busy::new();
    busy.machine.submit(OUT, 2, 512);
    let begun = busy.begin(Change::Detach).expect("begins");
    assert_eq!(capacity(&busy.machine.device), SECTORS as u64);
    assert_eq!(busy.machine.statuses(), [UNANSWERED; 2]);
    busy.let_go();
    busy.settle(begun);
    // The one behind it was not begun.
    assert_eq!(busy.machine.answers(2), [OK, IO_ERROR]);
    assert_eq!(capacity(&busy.machine.device), 0);
    assert!(busy.asked.recv_timeout(LIMIT).is_err(), "the image is gone");
    // One write, and what makes it durable.
    assert_eq!(busy.machine.host.tried(), [512, 0]);
}

#[test]
fn a_host_that_does_not_answer_is_named_and_its_image_stays() {
    let mut busy = Busy::new();
    let other = Fickle::new();
    let begun = busy.begin(Change::Replace(image(&other, 8)));
    let limit = Duration::from_millis(10);
    let late = busy.machine.device.settle(begun.expect("begins"), limit);
    let late = late.expect_err("the host does not answer");
    assert!(matches!(late, PlaceError::Late { .. }), "{late}");
    assert!(late.to_string().starts_with("disk0 was still at work"));
    assert_eq!(Arc::strong_count(&other), 1, "what was to come is closed");
    busy.let_go();
    assert_eq!(busy.machine.answers(1), [OK]);
    assert_eq!(capacity(&busy.machine.device), SECTORS as u64);
    busy.machine.submit(OUT, 5, 512);
    busy.asked.recv_timeout(LIMIT).expect("the old image");
    busy.let_go();
    assert_eq!(busy.machine.answers(2), [OK; 2]);
    // And another try succeeds.
    change(&busy.machine.device, Change::Detach).expect("nothing is under way");
}

#[test]
fn one_change_at_a_time_is_begun() {
    let busy = Busy::new();
    let begun = busy.begin(Change::Detach).expect("begins");
    let others = [
        Change::Detach,
        Change::Attach(image(&Fickle::new(), 8)),
        Change::Replace(image(&Fickle::new(), 8)),
    ];
    for other in others {
        let second = busy.begin(other).expect_err("one is under way");
        assert!(matches!(second, PlaceError::Underway { .. }), "{second}");
    }
    busy.let_go();
    busy.settle(begun);
    assert_eq!(capacity(&busy.machine.device), 0);
}

#[test]
fn a_change_that_nobody_waits_for_happens_all_the_same() {
    let busy = Busy::new();
    let other = Fickle::new();
    let replaced = busy.begin(Change::Replace(image(&other, 8)));
    busy.let_go();
    assert_eq!(busy.machine.answers(1), [OK]);
    while capacity(&busy.machine.device) != 8 {
        std::thread::yield_now();
    }
    // What was there before is closed by whoever replaced it; then it is another's turn.
    let early = busy
        .begin(Change::Detach)
        .expect_err("it is not closed yet");
    assert!(matches!(early, PlaceError::Underway { .. }), "{early}");
    busy.settle(replaced.expect("begins"));
    let closed = busy.asked.recv_timeout(LIMIT);
    assert!(closed.is_err(), "the first image is closed");
    change(&busy.machine.device, Change::Detach).expect("nothing is under way");
    assert_eq!(Arc::strong_count(&other), 1);
}

#[test]
fn a_detach_ends_though_the_vm_is_suspended_reset_or_powered_off_meanwhile() {
    for hook in [
        |device: &Virtio| device.suspend(),
        |device: &Virtio| device.reset(ResetKind::Hard),
        |device: &Virtio| device.power_off(),
        |device: &Virtio| {
            // The driver resets the device.
            device.write(&mut IoCtx::new(), 0x70, 4, 0);
            Ok(())
        },
    ] {
        let busy = Busy::new();
        let begun = busy.begin(Change::Detach).expect("begins");
        hook(&busy.machine.device).expect("the hook succeeds");
        busy.let_go();
        busy.settle(begun);
        let end = Instant::now() + LIMIT;
        while busy.machine.device.is_pending() {
            assert!(Instant::now() < end, "still pending");
            std::thread::yield_now();
        }
        assert_eq!(capacity(&busy.machine.device), 0);
    }
}

#[test]
fn a_detach_ends_though_the_disks_thread_panics() {
    let Busy { machine, asked, go } = Busy::new();
    let begun = machine.device.begin(Change::Detach).expect("begins");
    // The host has nobody to wait for.
    drop(go);
    let settled = machine.device.settle(begun, LIMIT);
    settled.expect("nothing is under way any more");
    assert_eq!(capacity(&machine.device), 0);
    assert!(asked.recv_timeout(LIMIT).is_err(), "the image is closed");
    assert!(machine.device.power_on().is_err());
}

#[test]
fn a_request_refused_by_a_full_host_is_failed_by_a_detach_and_never_served_elsewhere() {
    for (replaces, suspends) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut machine = Machine::new();
        machine.host.refuse(Some((0, Errno::NOSPC)));
        machine.submit(OUT, 9, 512);
        machine.raised();
        if !suspends {
            // As after a suspend that failed: the request is kept, and the VM runs.
            machine.device.suspend().expect("suspends");
            machine.host.refuse(Some((0, Errno::NOSPC)));
            machine.resume();
            machine.raised.recv_timeout(LIMIT).expect("refused anew");
            let end = Instant::now() + LIMIT;
            while !machine.page().contains("waits to be served anew") {
                assert!(Instant::now() < end, "never put aside");
                std::thread::yield_now();
            }
        }
        machine.host.refuse(None);
        machine.host.tried();
        let other = Fickle::new();
        if replaces {
            change(&machine.device, Change::Replace(image(&other, 64))).expect("replaced");
        } else {
            change(&machine.device, Change::Detach).expect("detached");
            change(&machine.device, Change::Attach(image(&other, 64))).expect("attached");
        }
        if suspends {
            assert_eq!(machine.statuses(), [UNANSWERED], "it is suspended");
            machine.resume();
        }
        assert_eq!(machine.answers(1), [IO_ERROR]);
        // Made durable, and no more.
        assert_eq!((machine.host.tried(), other.tried()), (vec![0], vec![]));
        machine.submit(OUT, 1, 512);
        assert_eq!(machine.answers(2), [IO_ERROR, OK]);
        assert_eq!(other.tried(), [512]);
        assert!(machine.raised.try_recv().is_err());
    }
}

#[test]
fn what_the_host_cannot_write_of_a_detached_image_is_told() {
    let machine = Machine::new();
    machine.host.refuse(Some((0, Errno::IO)));
    let error = change(&machine.device, Change::Detach).expect_err("it is not durable");
    assert!(matches!(error, PlaceError::Unwritten { .. }), "{error}");
    assert!(error.to_string().contains("/images/small.img"), "{error}");
    assert_eq!(capacity(&machine.device), 0);
}

#[test]
fn a_driver_that_rereads_while_the_generation_changes_finds_no_capacity_that_never_was() {
    const ROUNDS: u64 = 2000;
    let machine = Machine::new();
    let (device, host) = (&*machine.device, &machine.host);
    // Halves that belong together are equal.
    let size = |n: u64| (n % 7 + 1) << 32 | (n % 7 + 1);
    let replace = |n| change(device, Change::Replace(image(host, size(n)))).expect("idle");
    replace(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=ROUNDS).for_each(replace);
            done.store(true, Ordering::SeqCst);
        });
        let mut whole = 0_u64;
        let end = Instant::now() + LIMIT;
        while !done.load(Ordering::SeqCst) || whole == 0 {
            assert!(Instant::now() < end, "the changes hang");
            let before = config(device, 0xfc);
            let capacity = capacity(device);
            if config(device, 0xfc) == before {
                whole += 1;
                assert_eq!(capacity >> 32, capacity & 0xffff_ffff, "{capacity:#x}");
            }
        }
    });
    assert_eq!(config(device, 0xfc), ROUNDS + 1);
}

/// What one thread does to the device over and over.
type Deed = fn(&Virtio, &GuestRam, &Arc<Fickle>);

#[test]
fn changes_beside_walks_resets_kicks_and_other_changes_leave_a_disk_that_works() {
    const ROUNDS: usize = 300;
    let deeds: [Deed; 5] = [
        |device, _, other| drop(change(device, Change::Replace(image(other, 64)))),
        |device, _, other| {
            drop(change(device, Change::Detach));
            drop(change(device, Change::Attach(image(other, 64))));
        },
        |device, ram, _| {
            let used = || -> u16 { ram.read_obj(GuestAddress(USED + 2)).expect("inside") };
            device.suspend().expect("suspends");
            let end = Instant::now() + LIMIT;
            while device.is_pending() {
                assert!(Instant::now() < end, "still pending");
                std::thread::yield_now();
            }
            let before = used();
            std::thread::yield_now();
            assert_eq!(used(), before, "a suspended device gives nothing back");
            device.resume().expect("resumes");
        },
        |device, _, _| {
            for (offset, value) in [(0x50, 0), (0x64, 3), (0x50, 0)] {
                device.write(&mut IoCtx::new(), offset, 4, value);
            }
        },
        |device, _, _| negotiate(device),
    ];
    let mut machine = Machine::new();
    let other = Fickle::new();
    for _ in 0..5 {
        machine.submit(IN, 3, 512);
    }
    std::thread::scope(|scope| {
        for deed in deeds {
            let (device, ram, other) = (&*machine.device, &machine.ram, &other);
            scope.spawn(move || (0..ROUNDS).for_each(|_| deed(device, ram, other)));
        }
    });
    change(&machine.device, Change::Replace(image(&other, 128))).expect("nothing is under way");
    assert_eq!(capacity(&machine.device), 128);
    let held = Arc::strong_count(&machine.host);
    assert_eq!(held, 1, "the first image is closed");
    machine.start();
    machine.submit(IN, 127, 512);
    machine.submit(IN, 128, 512);
    machine.submit(FLUSH, 0, 0);
    assert_eq!(machine.answers(3), [OK, IO_ERROR, OK]);
    let byte: u8 = machine.ram.read_obj(GuestAddress(BIG)).expect("inside");
    assert_eq!(byte, 0xff);
    change(&machine.device, Change::Detach).expect("nothing is under way");
    assert_eq!(Arc::strong_count(&other), 1);
}
