// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! EMTs that sleep through a rendezvous: held where they are, fetched where they are needed, told
//! afterwards what it came to.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

mod rig;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rig::{Ctx, Rig};
use vm_emt::{Emt, Flow, Phase};
use vm_rendezvous::{How, MeetError, Met};
use vm_req::Dest;

type Met0 = Result<Met, MeetError<Infallible>>;

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

fn until(rig: &Rig, phase: Phase) {
    for v in 0..rig.bells.count() {
        while rig.bells.word(v).phase() != phase {
            thread::yield_now();
        }
    }
}

/// How often any EMT was woken so far.
fn wakes(rig: &Rig) -> u64 {
    (0..rig.bells.count())
        .map(|v| rig.bells.counts(v).wakes)
        .sum()
}

fn met(flow: Flow, held: u32) -> Met0 {
    Ok(Met { flow, held, ran: 1 })
}

#[test]
fn what_runs_on_the_initiators_thread_wakes_nobody_who_sleeps() {
    let rig = Rig::new(4);
    until(&rig, Phase::Parked);
    let before = wakes(&rig);
    let own = thread::current().id();
    let answer = rig.meet_here(LONG, || {
        assert!((0..4).all(|v| rig.bells.word(v).held()));
        assert_eq!(thread::current().id(), own);
        Flow::Continue
    });
    assert_eq!(answer, met(Flow::Continue, 4));
    assert!((0..4).all(|v| !rig.bells.word(v).held()));
    assert_eq!(wakes(&rig), before);
}

#[test]
fn what_it_asks_for_reaches_the_loops_of_those_that_slept() {
    let rig = Rig::new(3);
    until(&rig, Phase::Parked);
    assert_eq!(rig.meet_here(LONG, || Flow::Look), met(Flow::Look, 3));
    assert!((0..3).all(|v| rig.flows(v) == [Flow::Look]));
    until(&rig, Phase::Parked);
    assert_eq!(rig.meet_here(LONG, || Flow::Stop), met(Flow::Stop, 3));
    assert!((0..3).all(|v| rig.bells.wait_left(v, None)));
}

#[test]
fn those_that_are_awake_or_in_the_guest_are_gathered_as_ever() {
    let rig = Rig::new(3);
    rig.guests.store(true, SeqCst);
    rig.bells.ring_all();
    until(&rig, Phase::InGuest);
    let answer = rig.meet_here(LONG, || {
        assert!((0..3).all(|v| rig.bells.word(v).phase() == Phase::Idle));
        Flow::Continue
    });
    assert_eq!(answer, met(Flow::Continue, 3));
    assert!((0..3).all(|v| rig.bells.counts(v).kicks >= 1));
}

#[test]
fn a_request_that_comes_while_its_emt_is_held_is_served_afterwards() {
    let rig = Rig::new(2);
    until(&rig, Phase::Parked);
    let mut ticket = None;
    let answer = rig.meet_here(LONG, || {
        ticket = Some(rig.queues.post(Dest::Vcpu(1), |me| me.bell.id()));
        assert_eq!(rig.bells.word(1).phase(), Phase::Parked);
        Flow::Continue
    });
    assert_eq!(answer, met(Flow::Continue, 2));
    assert_eq!(ticket.unwrap().wait(None), Ok(1));
}

#[test]
fn who_does_not_come_is_named_and_nothing_runs_here() {
    let rig = Rig::new(3);
    let hold = rig.hold(1);
    while rig.bells.word(0).phase() != Phase::Parked || rig.bells.word(2).phase() != Phase::Parked {
        thread::yield_now();
    }
    let late = rig.meet_here(SHORT, || panic!("must not run"));
    assert!(
        matches!(late, Err(MeetError::Late { vcpu: 1, .. })),
        "{late:?}"
    );
    assert_eq!(rig.queues.call(0, None, |_| 1), Ok(1));
    assert_eq!(rig.queues.call(2, None, |_| 1), Ok(1));
    hold.release();
    assert_eq!(
        rig.meet_here(LONG, || Flow::Continue),
        met(Flow::Continue, 3)
    );
}

#[test]
fn a_panic_here_lets_everybody_go_and_goes_on() {
    let rig = Rig::new(2);
    let hold = rig.hold(1);
    let awake = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            awake.wait();
            hold.release(); // so that one EMT comes, and one is held in its sleep
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            awake.wait();
            rig.meet_here(LONG, || panic!("on purpose"))
        }));
        assert!(outcome.is_err());
    });
    assert_eq!(
        rig.meet_here(LONG, || Flow::Continue),
        met(Flow::Continue, 2)
    );
    assert_eq!(rig.queues.call(1, None, |_| 1), Ok(1));
}

#[test]
fn whoever_holds_the_emts_cannot_meet_them_again() {
    let rig = Rig::new(2);
    let answer = rig.meet_here(LONG, || {
        let again: Met0 = rig.meet(How::ascending(), |_| Ok(Flow::Continue));
        assert_eq!(again, Err(MeetError::Deadlock));
        let again = rig.meet_here(LONG, || Flow::Continue);
        assert_eq!(again, Err(MeetError::Deadlock));
        Flow::Continue
    });
    assert_eq!(answer, met(Flow::Continue, 2));
    let after: Met0 = rig.meet(How::ascending(), |_| Ok(Flow::Continue));
    assert_eq!(after.map(|met| met.ran), Ok(2));
}

#[test]
fn a_vm_without_emts_has_nobody_to_hold() {
    let rig = Rig::empty(2);
    let answer = rig.meet_here(LONG, || panic!("must not run"));
    assert_eq!(answer, Err(MeetError::NoEmts));
}

#[test]
fn an_emt_that_enrolls_while_the_others_are_held_waits_for_the_end() {
    let mut rig = Rig::empty(2);
    rig.start(0);
    while rig.bells.word(0).phase() != Phase::Parked {
        thread::yield_now();
    }
    let rendezvous = rig.rendezvous.clone();
    let answer = rendezvous.meet_here(LONG, || {
        rig.start(1);
        let probe = rig.queues.post(Dest::Vcpu(1), |_| ());
        while rig.pending(1) {
            thread::yield_now(); // until it has seen the round
        }
        assert!(!probe.is_done(), "it is held, so it serves no requests");
        Flow::Continue
    });
    assert_eq!(answer, met(Flow::Continue, 1));
    assert_eq!(rig.queues.call(1, None, |_| 1), Ok(1));
}

#[test]
fn t_r05_an_emt_that_meets_once_wakes_nobody_who_sleeps() {
    let rig = Rig::new(3);
    let ran = rig.queues.call(0, None, |me| {
        let (rendezvous, bells) = (me.rendezvous.clone(), me.bell().bells().clone());
        for other in [1, 2] {
            while bells.word(other).phase() != Phase::Parked {
                thread::yield_now();
            }
        }
        let before = [1, 2].map(|v| bells.counts(v).wakes);
        let answer: Met0 = rendezvous.meet_from(me, How::once(), |me| {
            assert_eq!(me.bell.id(), 0);
            Ok(Flow::Continue)
        });
        assert_eq!([1, 2].map(|v| bells.counts(v).wakes), before);
        answer
    });
    assert_eq!(ran, Ok(met(Flow::Continue, 3)));
}

/// EMT 0 of a rig of two, which leaves when it is woken instead of attending, and EMT 1, idle.
fn with_one_that_leaves(act: impl FnOnce(&Rig)) {
    let mut rig = Rig::empty(2);
    rig.start(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bell = rig.bells.enroll(0).unwrap();
            bell.clear();
            bell.park(None);
        });
        until(&rig, Phase::Parked);
        act(&rig);
    });
}

#[test]
fn if_the_emt_that_is_fetched_leaves_another_one_is() {
    with_one_that_leaves(|rig| {
        let ran = AtomicU32::new(u32::MAX);
        let answer: Met0 = rig.meet(How::once(), |me: &mut Ctx| {
            ran.store(me.bell.id(), SeqCst);
            Ok(Flow::Continue)
        });
        assert_eq!(answer, met(Flow::Continue, 1));
        assert_eq!(ran.load(SeqCst), 1);
    });
}

#[test]
fn an_emt_that_leaves_when_a_nested_round_fetches_it_is_not_waited_for() {
    with_one_that_leaves(|rig| {
        let answer = rig.queues.call(1, None, |me| {
            let rendezvous = me.rendezvous.clone();
            rendezvous.meet_from(me, How::once(), |me| {
                let rendezvous = me.rendezvous.clone();
                let nested: Met0 =
                    rendezvous.meet_from(me, How::ascending(), |_| Ok(Flow::Continue));
                assert_eq!(nested, met(Flow::Continue, 1));
                Ok::<_, Infallible>(Flow::Continue)
            })
        });
        assert!(answer.unwrap().is_ok());
    });
}
