// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Lifecycle while a request is under way, with a backend that waits to be told.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{IrqChip, Level, Raiser, Waker};

use super::request::{Request, Stop};
use super::*;

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const DATA: u64 = 0x4000;
/// Only a device that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(60);

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

/// Says that a request began, waits, and then writes 0x55.
struct Slow {
    begun: Sender<()>,
    go: Receiver<()>,
    ended: Sender<Result<(), Stop>>,
}

impl Backend for Slow {
    fn serve(&mut self, request: &Request<'_>) -> Result<u32, Stop> {
        self.begun.send(()).expect("the test listens");
        self.go.recv_timeout(LIMIT).expect("the test lets it go");
        let written = request.write(0, &[0x55]);
        self.ended.send(written.clone()).expect("the test listens");
        written.map(|()| 1)
    }
}

struct Stand {
    device: Arc<Virtio>,
    ram: GuestRam,
    begun: Receiver<()>,
    go: Sender<()>,
    ended: Receiver<Result<(), Stop>>,
    woken: Receiver<()>,
}

impl Stand {
    /// A device in the middle of a request.
    fn busy() -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
        let ((begun, begun_rx), (go, go_rx)) = (channel(), channel());
        let ((ended, ended_rx), (woken, woken_rx)) = (channel(), channel());
        let slow = Slow {
            begun,
            go: go_rx,
            ended,
        };
        let registers = Registers::new(Entropy::kind(), IrqLine::new(Arc::new(Nowhere), 5));
        let device = Virtio::new("slow", 0, ram.clone(), registers, Box::new(slow), None);
        device.connect(&Link {
            waker: Waker::new(move || {
                // Nobody listens any more when the test is over.
                let _ = woken.send(());
            }),
            raiser: Raiser::new(|error| panic!("{error}")),
        });
        device.power_on().expect("a thread");
        let this = Self {
            device,
            ram,
            begun: begun_rx,
            go,
            ended: ended_rx,
            woken: woken_rx,
        };
        this.submit();
        this.begun.recv_timeout(LIMIT).expect("the request begins");
        this
    }

    fn submit(&self) {
        let put = |at: u64, bytes: &[u8]| {
            self.ram
                .write_slice(bytes, GuestAddress(at))
                .expect("inside");
        };
        put(TABLE, &DATA.to_le_bytes());
        put(TABLE + 8, &[1, 0, 0, 0, 2, 0, 0, 0]);
        put(AVAILABLE, &[0, 0, 1, 0, 0, 0]);
        put(USED, &[0; 16]);
        let set = |offset, value| self.device.write(&mut IoCtx::new(), offset, 4, value);
        for (offset, value) in [
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x38, 16),
            (0x80, TABLE),
            (0x90, AVAILABLE),
            (0xa0, USED),
            (0x44, 1),
            (0x70, 15),
            (0x50, 0),
        ] {
            set(offset, value);
        }
    }

    fn byte(&self, at: u64) -> u8 {
        self.ram.read_obj(GuestAddress(at)).expect("inside")
    }

    /// Lets the request go on; how its write ended.
    fn finish(&self) -> Result<(), Stop> {
        self.go.send(()).expect("the backend waits");
        self.ended.recv_timeout(LIMIT).expect("the request ends")
    }

    fn settles(&self) {
        while self.device.is_pending() {
            self.woken.recv_timeout(LIMIT).expect("the device wakes us");
        }
    }
}

#[test]
fn a_suspend_is_pending_until_the_request_is_given_back() {
    let stand = Stand::busy();
    assert!(!stand.device.is_pending(), "nobody waits yet");
    stand.device.suspend().expect("suspends");
    assert!(stand.device.is_pending());
    assert_eq!(stand.finish(), Ok(()));
    stand.settles();
    assert_eq!((stand.byte(DATA), stand.byte(USED + 2)), (0x55, 1));
}

#[test]
fn a_reset_is_pending_and_its_request_touches_nothing_any_more() {
    let stand = Stand::busy();
    stand.device.reset(ResetKind::Hard).expect("resets");
    assert!(stand.device.is_pending());
    assert_eq!(stand.finish(), Err(Stop::Reset));
    stand.settles();
    assert_eq!((stand.byte(DATA), stand.byte(USED + 2)), (0, 0));
}

#[test]
fn a_reset_by_the_guest_drops_the_request_and_the_next_one_is_served() {
    let stand = Stand::busy();
    stand.device.write(&mut IoCtx::new(), 0x70, 4, 0);
    assert_eq!(stand.device.read(&mut IoCtx::new(), 0x70, 4), 0);
    stand.submit();
    assert_eq!(stand.finish(), Err(Stop::Reset));
    stand
        .begun
        .recv_timeout(LIMIT)
        .expect("the next one begins");
    assert_eq!((stand.byte(DATA), stand.byte(USED + 2)), (0, 0));
    stand.device.suspend().expect("suspends");
    assert_eq!(stand.finish(), Ok(()));
    stand.settles();
    assert_eq!((stand.byte(DATA), stand.byte(USED + 2)), (0x55, 1));
}

#[test]
fn a_queue_that_is_taken_away_drops_its_request() {
    let stand = Stand::busy();
    stand.device.write(&mut IoCtx::new(), 0x44, 4, 0);
    assert_eq!(stand.finish(), Err(Stop::Reset));
    stand.device.suspend().expect("suspends");
    stand.settles();
    assert_eq!((stand.byte(DATA), stand.byte(USED + 2)), (0, 0));
}

#[test]
fn a_power_off_is_pending_until_the_thread_has_ended() {
    let stand = Stand::busy();
    stand.device.power_off().expect("begins to end");
    assert!(stand.device.is_pending());
    stand.device.resume().expect("changes nothing");
    assert!(stand.device.is_pending());
    assert_eq!(stand.finish(), Ok(()));
    stand.settles();
    stand.device.power_on().expect("a new thread");
}

mod attach;
mod full;
