// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The two system calls behind [`Futex`](crate::Futex): wait while a word has a value, and wake.

// UNSAFETY: the kernel's futex call has no safe wrapper. The only memory it reads is the word, which
// a waiter keeps borrowed for the whole call and which a waker never has read at all.
#![expect(unsafe_code, reason = "the futex system call")]

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// Sleeps while `word` is `expected`, until a wake whose mask meets `mask`, or until `deadline`.
/// Returns early for no reason too. `false` iff the deadline had passed.
pub(crate) fn wait(word: &AtomicU32, expected: u32, mask: u32, deadline: Option<Instant>) -> bool {
    let until = match deadline {
        None => None,
        Some(at) => match at.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return false,
            Some(left) => Some(absolute(left)),
        },
    };
    let time = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the time outlive the call; the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            time,
            std::ptr::null::<u32>(),
            mask,
        )
    };
    if answer == 0 {
        return true;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => false,
        Some(libc::EAGAIN | libc::EINTR) => true,
        // Nothing else is possible for a valid word; should a filter refuse the call, the caller's
        // loop polls, and this keeps it from starving the thread it waits for.
        _ => {
            std::thread::yield_now();
            true
        }
    }
}

/// Wakes at most `count` threads that wait at the address `word` with a mask that meets `mask`.
/// The address is a key only: the memory may be gone already.
pub(crate) fn wake(word: *const u32, count: i32, mask: u32) {
    // SAFETY: a private futex wake uses the address as a key and reads nothing there.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
            count,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            mask,
        );
    }
}

/// `CLOCK_MONOTONIC` in `left` from now, as the kernel wants it.
fn absolute(left: Duration) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local of the right type. CLOCK_MONOTONIC cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanos = now.tv_nsec + i64::from(left.subsec_nanos());
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    libc::timespec {
        tv_sec: now
            .tv_sec
            .saturating_add(seconds)
            .saturating_add(nanos / 1_000_000_000),
        tv_nsec: nanos % 1_000_000_000,
    }
}
