// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An EMT that waits and serves meanwhile: what ends the wait, and what does not.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use vm_emt::{Bell, Bells, Emt, Flow, Phase, serve_until};

struct Ctx {
    bell: Bell,
    served: u32,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        self.served += 1;
        Flow::Continue
    }
}

#[test]
fn a_ring_that_does_not_bring_what_is_waited_for_does_not_end_the_wait() {
    let bells = Bells::new(1);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let emt = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            let mut me = Ctx { bell, served: 0 };
            let far = Instant::now() + Duration::from_secs(3600);
            let reached = serve_until(&mut me, Some(far), |me| me.served >= 4);
            over.store(true, SeqCst);
            (reached, me.served)
        });
        while !over.load(SeqCst) {
            if bells.word(0).phase() == Phase::Parked {
                bells.ring(0);
            }
            thread::yield_now();
        }
        assert_eq!(emt.join().unwrap(), (true, 4));
    });
}

#[test]
fn a_wait_for_what_nobody_brings_ends_at_its_deadline_without_a_ring() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    bell.clear();
    let mut me = Ctx { bell, served: 0 };
    let deadline = Instant::now() + Duration::from_millis(3);
    assert!(!serve_until(&mut me, Some(deadline), |_| false));
    assert!(Instant::now() >= deadline);
    assert_eq!(me.served, 0, "nobody rang, so there was nothing to serve");
}

#[test]
fn what_is_there_at_the_deadline_counts_as_reached() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    bell.clear();
    let mut me = Ctx { bell, served: 0 };
    let mut looks = 0;
    let reached = serve_until(&mut me, Some(Instant::now()), |_| {
        looks += 1;
        looks == 2
    });
    assert!(reached);
}
