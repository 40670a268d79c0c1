// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The doorbell with real threads: what a ring does in each phase, who may enroll, who is told.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vm_emt::{
    Bell, Bells, Departure, Emt, EnrollError, Flow, Kick, Phase, Woken, on_any_emt, serve_until,
};

#[derive(Debug, Default)]
struct CountingKick(AtomicU32);

impl Kick for CountingKick {
    fn kick(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// EMT 0 of a new VM on this thread, its first ring cleared.
fn lone() -> (Arc<Bells>, Bell) {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    assert!(bell.clear());
    (bells, bell)
}

fn until_parked(bells: &Bells, v: u32) {
    while bells.word(v).phase() != Phase::Parked {
        thread::yield_now();
    }
}

#[test]
fn a_new_emt_is_rung_so_that_it_looks_at_everything_first() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    assert!(bell.pending());
    assert_eq!(bell.park(None), Woken::Rung);
}

#[test]
fn a_ring_before_park_is_not_lost_and_costs_no_sleep() {
    let (bells, bell) = lone();
    bells.ring(0);
    assert_eq!(bell.park(None), Woken::Rung);
    assert_eq!(bells.counts(0).parks, 0);
    assert!(bell.clear());
    assert!(!bell.clear());
}

#[test]
fn park_returns_idle_at_its_deadline_when_nobody_rings() {
    let (bells, bell) = lone();
    assert_eq!(
        bell.park(Some(Instant::now() + Duration::from_millis(2))),
        Woken::Deadline
    );
    assert_eq!(bells.word(0).phase(), Phase::Idle);
    assert!(!bell.pending());
    assert_eq!(bell.park(Some(Instant::now())), Woken::Deadline);
}

#[test]
fn a_parked_emt_sleeps_until_the_first_ring_and_is_woken_once() {
    let bells = Bells::new(1);
    let go = Barrier::new(2);
    thread::scope(|scope| {
        let emt = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            bell.clear();
            let woken = bell.park(None);
            go.wait();
            woken
        });
        until_parked(&bells, 0);
        for _ in 0..1000 {
            thread::yield_now();
        }
        assert_eq!(
            bells.counts(0).parks,
            0,
            "it never came back from its one wait"
        );
        bells.ring(0);
        bells.ring(0);
        bells.ring(0);
        go.wait();
        assert_eq!(emt.join().unwrap(), Woken::Rung);
    });
    let counts = bells.counts(0);
    assert_eq!((counts.parks, counts.wakes), (1, 1));
}

#[test]
fn a_ring_of_an_awake_emt_is_no_system_call() {
    let (bells, bell) = lone();
    bells.ring(0);
    bells.ring_all();
    let counts = bells.counts(0);
    assert_eq!((counts.wakes, counts.kicks), (0, 0));
    assert!(bell.pending());
}

#[test]
fn an_emt_does_not_enter_the_guest_while_it_is_rung() {
    let (bells, bell) = lone();
    bell.install_kick(Arc::new(CountingKick::default()));
    bells.ring(0);
    assert!(bell.enter().is_none());
    bell.clear();
    let guest = bell.enter();
    assert!(guest.is_some());
    assert_eq!(bells.word(0).phase(), Phase::InGuest);
    drop(guest);
    assert_eq!(bells.word(0).phase(), Phase::Idle);
}

#[test]
fn only_the_first_ring_of_an_emt_in_the_guest_kicks() {
    let (bells, bell) = lone();
    let kick = Arc::new(CountingKick::default());
    bell.install_kick(kick.clone());
    bells.ring(0);
    assert_eq!(kick.0.load(SeqCst), 0, "awake");
    bell.clear();
    let guest = bell.enter();
    bells.ring(0);
    bells.ring(0);
    assert_eq!(kick.0.load(SeqCst), 1);
    drop(guest);
    assert!(bell.pending());
    assert_eq!(bells.counts(0).kicks, 1);
}

#[test]
#[should_panic(expected = "install_kick comes before the first enter")]
fn entering_without_a_kick_panics() {
    let (_bells, bell) = lone();
    let _ = bell.enter();
}

#[test]
fn a_kick_is_let_go_with_its_emt() {
    let (_bells, bell) = lone();
    let kick = Arc::new(CountingKick::default());
    bell.install_kick(kick.clone());
    assert_eq!(Arc::strong_count(&kick), 2);
    drop(bell);
    assert_eq!(Arc::strong_count(&kick), 1);
}

#[test]
fn a_thread_is_the_emt_of_one_vcpu_of_one_vm() {
    let (bells, other) = (Bells::new(2), Bells::new(2));
    assert_eq!((bells.current(), on_any_emt()), (None, false));
    let bell = bells.enroll(1).unwrap();
    assert_eq!(
        (bells.current(), other.current(), on_any_emt()),
        (Some(1), None, true)
    );
    assert_eq!(
        other.enroll(0).unwrap_err(),
        EnrollError::ThreadIsEmt { vcpu: 0 }
    );
    drop(bell);
    assert_eq!((bells.current(), on_any_emt()), (None, false));
    assert!(other.enroll(0).is_ok());
}

#[test]
fn a_vcpu_has_one_emt_at_a_time() {
    let bells = Bells::new(1);
    let bell = bells.enroll(0).unwrap();
    let second = thread::scope(|scope| scope.spawn(|| bells.enroll(0).err()).join().unwrap());
    assert_eq!(second, Some(EnrollError::AlreadyEnrolled { vcpu: 0 }));
    drop(bell);
    assert!(!bells.live(0));
    assert!(bells.enroll(0).is_ok());
}

#[test]
fn a_vcpu_that_does_not_exist_is_refused_and_its_ring_ignored() {
    let bells = Bells::new(1);
    bells.ring(1);
    assert_eq!(
        bells.enroll(1).unwrap_err(),
        EnrollError::NoSuchVcpu { vcpu: 1, count: 1 }
    );
    assert_eq!(bells.word(1).to_string(), "not enrolled");
}

#[test]
fn waiting_for_an_emt_to_come_and_to_leave_ends_when_it_does() {
    let bells = Bells::new(1);
    let past = Instant::now();
    assert!(!bells.wait_live(0, Some(past)));
    let go = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _bell = bells.enroll(0).unwrap();
            go.wait();
        });
        assert!(bells.wait_live(0, None));
        assert!(!bells.wait_left(0, Some(past)));
        go.wait();
        assert!(bells.wait_left(0, None));
    });
}

#[derive(Debug)]
struct Told(Arc<Bells>, Mutex<Vec<(u32, bool, bool)>>);

impl Departure for Told {
    fn left(&self, v: u32) {
        let enrollable = self.0.enroll(v).is_ok();
        self.1.lock().unwrap().push((v, self.0.live(v), enrollable));
    }
}

#[test]
fn watchers_are_told_after_the_emt_is_gone_and_before_the_next_can_come() {
    let bells = Bells::new(2);
    let told = Arc::new(Told(bells.clone(), Mutex::default()));
    let watcher: Arc<dyn Departure> = told.clone();
    bells.watch(Arc::downgrade(&watcher));
    drop(bells.enroll(1).unwrap());
    assert_eq!(*told.1.lock().unwrap(), [(1, false, false)]);
    assert!(bells.enroll(1).is_ok());
}

#[test]
fn the_last_exit_and_the_word_say_where_an_emt_was() {
    let (bells, bell) = lone();
    assert_eq!(bells.last_exit(0), (0, 0));
    bell.note_exit(7, 0xfff0);
    assert_eq!(bells.last_exit(0), (7, 0xfff0));
    assert_eq!(bells.word(0).to_string(), "awake, not rung");
    bells.ring(0);
    assert_eq!(bells.word(0).to_string(), "awake, rung");
}

struct Ctx {
    bell: Bell,
    served: u32,
    answer: Flow,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        self.served += 1;
        self.answer
    }
}

#[test]
fn an_emt_that_waits_serves_and_keeps_what_that_asked_for() {
    let (bells, bell) = lone();
    let mut me = Ctx {
        bell,
        served: 0,
        answer: Flow::Look,
    };
    bells.ring(0);
    assert!(serve_until(&mut me, None, |me| me.served == 1));
    assert_eq!(me.bell.take_kept(), Flow::Look);
    assert_eq!(me.bell.take_kept(), Flow::Continue);
    assert!(
        me.bell.pending(),
        "ordinary work was left where it was, so the loop must look"
    );
}

#[test]
fn an_emt_that_waits_gives_up_at_its_deadline_even_if_rung_all_the_time() {
    let (bells, bell) = lone();
    let mut me = Ctx {
        bell,
        served: 0,
        answer: Flow::Continue,
    };
    let deadline = Some(Instant::now() + Duration::from_millis(2));
    let reached = serve_until(&mut me, deadline, |_| {
        bells.ring(0);
        false
    });
    assert!(!reached);
    assert!(me.served > 0);
}

#[test]
fn what_many_threads_publish_and_ring_for_is_all_seen_by_an_emt_that_parks() {
    const RINGS: u32 = if cfg!(miri) { 200 } else { 5000 };
    let bells = Bells::new(1);
    let published = AtomicU32::new(0);
    thread::scope(|scope| {
        let emt = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            let mut seen = 0;
            while seen < 4 * RINGS {
                bell.clear();
                seen = published.load(SeqCst);
                if seen < 4 * RINGS {
                    bell.park(None);
                }
            }
            seen
        });
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..RINGS {
                    published.fetch_add(1, SeqCst);
                    bells.ring(0);
                }
            });
        }
        assert_eq!(emt.join().unwrap(), 4 * RINGS);
    });
}

/// Has EMT 0 park until `deadline` while `act` runs; answers why it woke.
fn parked(bells: &Arc<Bells>, deadline: Option<Instant>, act: impl FnOnce()) -> Woken {
    thread::scope(|scope| {
        let emt = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            bell.clear();
            bell.park(deadline)
        });
        // It may be over before we look, if it has a deadline and the machine is busy.
        while bells.word(0).phase() != Phase::Parked && !emt.is_finished() {
            thread::yield_now();
        }
        let acted = panic::catch_unwind(AssertUnwindSafe(act));
        if let Err(failure) = acted {
            // It sleeps, held or not, and would be waited for in vain.
            bells.ring(0);
            bells.let_go(0);
            panic::resume_unwind(failure);
        }
        emt.join().unwrap()
    })
}

#[test]
fn an_emt_that_is_held_and_let_go_sleeps_on() {
    let bells = Bells::new(1);
    let woken = parked(&bells, None, || {
        assert!(bells.hold(0));
        assert!(!bells.hold(0), "it is held already");
        assert!(bells.word(0).held());
        let said = bells.word(0).to_string();
        assert_eq!(said, "parked and held there, not rung");
        bells.let_go(0);
        assert!(!bells.word(0).held());
        assert_eq!(bells.counts(0).wakes, 0);
        bells.ring(0);
    });
    assert_eq!((woken, bells.counts(0).wakes), (Woken::Rung, 1));
}

#[test]
fn a_ring_reaches_an_emt_that_is_held_when_it_is_let_go() {
    let bells = Bells::new(1);
    let woken = parked(&bells, None, || {
        assert!(bells.hold(0));
        bells.ring(0);
        bells.ring(0);
        assert_eq!(bells.counts(0).wakes, 0);
        assert_eq!(bells.word(0).phase(), Phase::Parked);
        bells.let_go(0);
    });
    assert_eq!((woken, bells.counts(0).wakes), (Woken::Rung, 1));
}

#[test]
fn a_deadline_that_passes_while_an_emt_is_held_counts_when_it_is_let_go() {
    let bells = Bells::new(1);
    let soon = Instant::now() + Duration::from_millis(50);
    let mut held = false;
    let woken = parked(&bells, Some(soon), || {
        held = bells.hold(0); // not on a machine that took 50 ms to get here
        if held {
            while bells.counts(0).parks == 0 {
                thread::yield_now(); // it comes out of the kernel, and stays
            }
            assert_eq!(bells.word(0).phase(), Phase::Parked);
            bells.let_go(0);
        }
    });
    assert_eq!(woken, Woken::Deadline);
    assert_eq!(bells.word(0).phase(), Phase::Idle);
}

#[test]
fn an_emt_whose_deadline_passed_while_it_was_held_sleeps_and_enters_as_before() {
    let bells = Bells::new(1);
    thread::scope(|scope| {
        let emt = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            bell.install_kick(Arc::new(CountingKick::default()));
            bell.clear();
            let first = bell.park(Some(Instant::now() + Duration::from_millis(50)));
            let again = bell.park(Some(Instant::now() + Duration::from_millis(2)));
            (first, again, bell.enter().is_some())
        });
        while bells.word(0).phase() != Phase::Parked && !emt.is_finished() {
            thread::yield_now();
        }
        if bells.hold(0) {
            let asleep = bells.word(0);
            while bells.word(0) == asleep {
                thread::yield_now(); // until it has noted that its time is over
            }
            bells.let_go(0);
        }
        let expected = (Woken::Deadline, Woken::Deadline, true);
        assert_eq!(emt.join().unwrap(), expected);
    });
}

#[test]
fn only_an_emt_that_is_parked_and_not_rung_can_be_held() {
    let (bells, bell) = lone();
    assert!(!bells.hold(0), "awake");
    bell.install_kick(Arc::new(CountingKick::default()));
    let inside = bell.enter();
    assert!(!bells.hold(0), "in the guest");
    drop(inside);
    drop(bell);
    assert!(!bells.hold(0), "not enrolled");
    assert!(!bells.hold(1), "no such vCPU");
    bells.let_go(0);
    bells.let_go(1);
}
