// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The word that threads sleep on, alone: what its operations answer, what ends a sleep.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use vm_emt::{ANYONE, Bells, Futex, Phase, Woken};

#[test]
fn every_operation_answers_the_word_before_and_changes_it() {
    let word = Futex::new(0b0110);
    assert_eq!(word.load(), 0b0110);
    assert_eq!(word.fetch_or(0b1000), 0b0110);
    assert_eq!(word.fetch_and(0b1100), 0b1110);
    assert_eq!(word.fetch_add(5), 0b1100);
    assert_eq!(word.compare_exchange(12, 1), Err(17));
    assert_eq!(word.compare_exchange(17, u32::MAX), Ok(17));
    assert_eq!(word.fetch_add(1), u32::MAX);
    assert_eq!(word.load(), 0);
}

#[test]
fn a_wait_for_another_value_than_the_words_does_not_sleep() {
    let word = Futex::new(1);
    assert!(word.wait(0, ANYONE, None));
}

#[test]
fn a_wait_says_that_its_deadline_passed_and_never_before_it_has() {
    let word = Futex::new(0);
    for millis in 1..20 {
        let deadline = Instant::now() + Duration::from_millis(millis);
        while word.wait(0, ANYONE, Some(deadline)) {}
        assert!(Instant::now() >= deadline);
    }
    assert!(!word.wait(0, ANYONE, Some(Instant::now())));
}

/// Sleeps until a short deadline and then once more, which a waker tries to end by its own mask
/// until it has ended. Answers what the second sleep said.
fn sleep_and_wake(word: &Futex, sleeper: u32, waker: u32, deadline: Option<Instant>) -> bool {
    let (again, awake) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let sleep = scope.spawn(|| {
            let past = Instant::now() + Duration::from_millis(1);
            while word.wait(0, sleeper, Some(past)) {}
            again.store(true, SeqCst);
            let woken = word.wait(0, sleeper, deadline);
            awake.store(true, SeqCst);
            woken
        });
        while !awake.load(SeqCst) {
            if again.load(SeqCst) {
                word.key().wake_all(waker);
            }
            thread::yield_now();
        }
        sleep.join().unwrap()
    })
}

#[test]
fn a_sleeper_that_is_woken_says_so_even_after_a_sleep_that_was_not() {
    let word = Futex::new(0);
    assert!(sleep_and_wake(&word, ANYONE, ANYONE, None));
    assert!(sleep_and_wake(&word, 0b0110, 0b0011, None));
}

#[test]
fn a_sleeper_is_not_woken_by_a_mask_that_shares_nothing_with_its_own() {
    let word = Futex::new(0);
    let deadline = Instant::now() + Duration::from_millis(30);
    assert!(!sleep_and_wake(&word, 0b01, 0b10, Some(deadline)));
    assert!(Instant::now() >= deadline);
}

#[test]
fn a_deadline_of_any_fraction_of_a_second_is_slept_for_in_one_piece() {
    // Whatever the clock's own fraction is, one of these runs over the second with it.
    for fraction in [1, 500_000_000, 999_999_999] {
        let bells = Bells::new(1);
        let far = Instant::now() + Duration::new(3600, fraction);
        let woken = thread::scope(|scope| {
            let emt = scope.spawn(|| {
                let bell = bells.enroll(0).unwrap();
                bell.clear();
                bell.park(Some(far))
            });
            while bells.word(0).phase() != Phase::Parked {
                thread::yield_now();
            }
            for _ in 0..1000 {
                thread::yield_now();
            }
            bells.ring(0);
            emt.join().unwrap()
        });
        assert_eq!(woken, Woken::Rung);
        // None if the ring came before it could sleep at all.
        assert!(bells.counts(0).parks <= 1, "slept once, not in a loop");
    }
}
