// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can be asked of the bells of a VM with several vCPUs, and of an EMT's own.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

use std::sync::{Arc, Barrier, Mutex, Weak};
use std::thread;

use vm_emt::{Bells, Counts, Departure, Flow, Kick, Phase, Word};

#[derive(Debug)]
struct NoKick;

impl Kick for NoKick {
    fn kick(&self) {}
}

#[test]
fn a_bell_knows_its_vcpu_and_its_vm() {
    let bells = Bells::new(3);
    assert_eq!(bells.count(), 3);
    for v in 0..3 {
        let bell = bells.enroll(v).unwrap();
        assert_eq!((bell.id(), bells.current()), (v, Some(v)));
        assert!(Arc::ptr_eq(bell.bells(), &bells));
    }
}

#[test]
fn the_word_says_where_an_emt_is_and_only_an_idle_one_is_awake() {
    let bells = Bells::new(1);
    let says = |phase: Phase, awake: bool, text: &str| {
        let word = bells.word(0);
        assert_eq!((word.phase(), word.awake()), (phase, awake), "{text}");
        assert_eq!(word.to_string(), text);
    };
    says(Phase::Idle, false, "not enrolled");
    let bell = bells.enroll(0).unwrap();
    says(Phase::Idle, true, "awake, rung");
    bell.clear();
    says(Phase::Idle, true, "awake, not rung");
    bell.install_kick(Arc::new(NoKick));
    let guest = bell.enter();
    assert!(guest.is_some());
    says(Phase::InGuest, false, "in the guest, not rung");
    bells.ring(0);
    says(Phase::InGuest, false, "in the guest, rung");
    drop(guest);
    says(Phase::Idle, true, "awake, rung");
}

#[test]
fn a_parked_emt_is_not_awake() {
    let bells = Bells::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bell = bells.enroll(1).unwrap();
            bell.clear();
            bell.park(None);
        });
        while bells.word(1).phase() != Phase::Parked {
            thread::yield_now();
        }
        let word = bells.word(1);
        assert!(word.live() && !word.awake() && !word.pending());
        assert_eq!(word.to_string(), "parked, not rung");
        bells.ring_all();
    });
    assert_eq!((bells.counts(0).wakes, bells.counts(1).wakes), (0, 1));
}

#[test]
fn a_look_for_certain_tells_the_same_and_rings_nobody() {
    let bells = Bells::new(2);
    let bell = bells.enroll(1).unwrap();
    bell.clear();
    assert!(!bells.word_for_certain(0).live());
    assert!(bells.word_for_certain(1).live());
    assert_eq!(bells.word_for_certain(1), bells.word(1));
    assert!(!bell.pending());
    assert_eq!(bells.word_for_certain(7), Word::default());
}

#[test]
fn a_ring_answers_the_word_as_it_was_before() {
    let bells = Bells::new(2);
    let bell = bells.enroll(1).unwrap();
    bell.clear();
    let before = bells.ring_and_look(1);
    assert!(before.live() && !before.pending());
    assert!(bells.ring_and_look(1).pending());
    assert!(!bells.ring_and_look(0).live());
    assert!(!bells.ring_and_look(7).live());
}

#[test]
fn of_a_vcpu_that_does_not_exist_nothing_is_known() {
    let bells = Bells::new(1);
    assert_eq!(bells.last_exit(1), (0, 0));
    assert_eq!(bells.counts(1), Counts::default());
    assert!(!bells.live(1));
}

#[test]
fn of_what_is_kept_the_most_urgent_stays_until_it_is_taken() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    bell.keep(Flow::Stop);
    bell.keep(Flow::Look);
    assert_eq!(bell.take_kept(), Flow::Stop);
    assert_eq!(bell.take_kept(), Flow::Continue);
}

#[test]
fn meetings_nest() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    assert!(!bell.in_meeting());
    bell.begin_meeting();
    bell.begin_meeting();
    bell.end_meeting();
    assert!(bell.in_meeting(), "one of two has ended");
    bell.end_meeting();
    assert!(!bell.in_meeting());
}

#[derive(Debug, Default)]
struct Leavers(Mutex<Vec<u32>>);

impl Departure for Leavers {
    fn left(&self, v: u32) {
        self.0.lock().unwrap().push(v);
    }
}

#[test]
fn every_watcher_that_lives_is_told_however_many_came_and_went() {
    let bells = Bells::new(2);
    let watch = |leavers: &Arc<Leavers>| {
        let watcher: Weak<Leavers> = Arc::downgrade(leavers);
        bells.watch(watcher);
    };
    let [first, second, gone] = [(); 3].map(|()| Arc::new(Leavers::default()));
    watch(&first);
    watch(&gone);
    drop(gone);
    watch(&second);
    drop(bells.enroll(1).unwrap());
    assert_eq!(*first.0.lock().unwrap(), [1]);
    assert_eq!(*second.0.lock().unwrap(), [1]);
}

#[test]
fn threads_that_wait_for_emts_to_come_and_go_miss_none() {
    const ROUNDS: u32 = if cfg!(miri) { 20 } else { 300 };
    let bells = Bells::new(1);
    let next = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let bell = bells.enroll(0).unwrap();
                next.wait();
                thread::yield_now();
                drop(bell);
                next.wait();
                thread::yield_now();
            }
        });
        for _ in 0..ROUNDS {
            assert!(bells.wait_live(0, None));
            next.wait();
            assert!(bells.wait_left(0, None));
            next.wait();
        }
    });
    assert!(!bells.live(0));
}
