// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A thousand lives leave nothing behind, and a suspended VM costs nothing.
//!
//! One test, since it counts what the whole process holds.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]
// UNSAFETY: counting what is allocated takes an allocator of our own, around the system's.
#![expect(unsafe_code, reason = "a counting allocator")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use common::{DESTROY, Machine};
use vm_cpu::script::Script;
use vm_state::SuspendReason;

const CYCLES: u32 = 1000;

/// The system's allocator, with the bytes counted that are allocated and not freed.
struct Counting;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

fn count(bytes: usize, sign: i64) {
    LIVE_BYTES.fetch_add(
        sign * i64::try_from(bytes).unwrap_or(i64::MAX),
        Ordering::SeqCst,
    );
}

// SAFETY: every call goes to the system's allocator unchanged; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Threads, file descriptors and mappings of this process.
fn held() -> (usize, usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (
        count("/proc/self/task"),
        count("/proc/self/fd"),
        maps.lines().count(),
    )
}

/// Times a thread was put on a processor (proc(5), schedstat).
fn timeslices(tid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    text.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn lives_leave_nothing_behind_and_a_suspended_vm_makes_no_system_call() {
    // Works a little, then halts: what is measured is the lives, not the scheduler under busy loops.
    let machine = Machine::new(Script::new().work(50).halt());
    let life = |vcpus| {
        let vm = machine.create(vcpus);
        vm.power_on().unwrap();
        vm.suspend(SuspendReason::User).unwrap();
        vm.power_off().unwrap();
        vm.destroy(DESTROY).unwrap();
        machine.log.lock().unwrap().clear();
    };
    for vcpus in [1, 2, 4, 8] {
        life(vcpus);
    }
    let before = held();
    let bytes_before = LIVE_BYTES.load(Ordering::SeqCst);
    for vcpus in [1, 2, 4, 8] {
        for _ in 0..CYCLES {
            life(vcpus);
        }
        let after = held();
        assert_eq!((before.0, before.1), (after.0, after.1), "{vcpus} vCPUs");
        let leaked = LIVE_BYTES.load(Ordering::SeqCst) - bytes_before;
        // A thread may still be giving back its last words; a life that leaked 8 bytes would show.
        assert!(
            leaked < 4096,
            "{vcpus} vCPUs: {leaked} bytes after {CYCLES} lives"
        );
        // The allocator may keep arenas of its own; a leak of one mapping a life would be 1,000.
        assert!(
            after.2 < before.2 + 100,
            "{vcpus} vCPUs: {before:?} {after:?}"
        );
    }

    let vm = machine.create(4);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    let tids: Vec<u32> = vm.status().tids.into_iter().flatten().collect();
    assert_eq!(tids.len(), 4);
    // The EMTs park on their own time; the last of them is asleep when its counter stands still.
    let settled = || tids.iter().map(|tid| timeslices(*tid)).collect::<Vec<_>>();
    let mut at_rest = settled();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        idle(Duration::from_millis(200));
        let now = settled();
        if now == at_rest {
            break;
        }
        assert!(Instant::now() < end, "the EMTs never rest");
        at_rest = now;
    }
    idle(Duration::from_secs(5));
    // A thread that was never put on a processor made no system call.
    assert_eq!(at_rest, settled());
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}

/// Lets time pass without work: what is measured is that nothing happens in it.
fn idle(time: Duration) {
    let (lock, cond) = (std::sync::Mutex::new(()), std::sync::Condvar::new());
    let guard = lock.lock().unwrap();
    let (_guard, timeout) = cond.wait_timeout_while(guard, time, |()| true).unwrap();
    assert!(timeout.timed_out());
}
