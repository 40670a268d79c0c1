// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A call allocates nothing on either side, a post or a send once.

// UNSAFETY: an allocator that counts is the only witness; it hands everything on to the system's.
#![expect(unsafe_code, reason = "counts allocations")]
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use vm_emt::{Bell, Bells, Emt, Flow};
use vm_req::{Dest, Queues, Which};

const TIMES: u64 = if cfg!(miri) { 20 } else { 1000 };

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread's allocations count: the test harness has threads too.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: every method hands its arguments on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.get() {
            ALLOCATIONS.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise is ours to the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Ctx {
    bell: Bell,
    ran: u64,
    next: Flow,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }

    fn take_flow(&mut self) -> Flow {
        std::mem::take(&mut self.next)
    }
}

/// The allocations of the two threads since `before`.
fn since(before: u64) -> u64 {
    ALLOCATIONS.load(SeqCst) - before
}

#[test]
fn a_call_allocates_nothing_and_a_post_once() {
    let bells = Bells::new(1);
    let queues = Queues::<Ctx>::new(bells.clone());
    let counts = std::thread::scope(|scope| {
        scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            let mut me = Ctx {
                bell,
                ran: 0,
                next: Flow::Continue,
            };
            WATCHED.set(true);
            loop {
                me.bell.clear();
                if queues.process(&mut me, Which::All) == Flow::Stop {
                    break;
                }
                me.bell.park(None);
            }
        });
        assert!(bells.wait_live(0, None));
        WATCHED.set(true);
        let count = || queues.call(0, None, |me| me.ran += 1).is_ok();
        let first = count(); // whatever a first call may set up is set up

        let before = ALLOCATIONS.load(SeqCst);
        let all = (0..TIMES).all(|_| count());
        let calls = since(before);
        (0..TIMES).for_each(|_| drop(queues.post(Dest::Vcpu(0), |me| me.ran += 1)));
        let ran = queues.call(0, None, |me| me.ran);
        let posts = since(before);
        (0..TIMES).for_each(|_| queues.send(Dest::Vcpu(0), |me| me.ran += 1));
        let ran_too = queues.call(0, None, |me| me.ran);
        let sends = since(before);

        WATCHED.set(false);
        // Before anything is asserted, or a failure would wait for the EMT.
        assert_eq!(queues.call(0, None, |me| me.next = Flow::Stop), Ok(()));
        (first, all, calls, ran, posts, ran_too, sends)
    });
    let ran = (Ok(2 * TIMES + 1), Ok(3 * TIMES + 1));
    assert_eq!(counts, (true, true, 0, ran.0, TIMES, ran.1, 2 * TIMES));
}
