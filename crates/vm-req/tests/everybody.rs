// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests to every EMT and to any: who runs them, within which limit, and what happens to those
//! of an EMT that leaves.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod rig;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rig::Rig;
use vm_emt::{Bell, Bells, Emt, Flow, Kick, Phase};
use vm_req::{CallError, Dest, EachOrder, Queues, Which};

#[test]
fn an_emt_reaches_every_emt_and_itself_in_the_order_asked_for() {
    let rig = Rig::new(3);
    let order = Mutex::new(Vec::new());
    for asked in [EachOrder::Ascending, EachOrder::Descending] {
        let answers = rig.call(1, None, |me| {
            let queues = me.queues.clone();
            queues.each_from(me, asked, None, |other| {
                order.lock().unwrap().push(other.bell().id());
                other.bell().id()
            })
        });
        assert_eq!(answers, Ok(vec![Ok(0), Ok(1), Ok(2)]));
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 2, 1, 0]);
}

#[test]
fn a_limit_for_all_ends_the_wait_for_one_that_is_late() {
    let rig = Rig::new(2);
    let ample = Some(Duration::from_secs(600));
    let answers = rig.each(EachOrder::Ascending, ample, |me| me.bell().id());
    assert_eq!(answers, [Ok(0), Ok(1)]);
    let hold = rig.hold(0);
    let short = Some(Duration::from_millis(5));
    let answers = rig.each(EachOrder::Descending, short, |me| me.bell().id());
    assert!(
        matches!(answers[0], Err(CallError::Timeout { vcpu: 0, .. })),
        "{answers:?}"
    );
    hold.release();
}

#[test]
fn an_emt_gives_up_on_another_at_the_limit() {
    let rig = Rig::new(2);
    let hold = rig.hold(0);
    let limit = Some(Duration::from_millis(5));
    let answer = rig.call(1, None, |me| {
        let queues = me.queues.clone();
        queues.call_from(me, 0, limit, |other| other.bell().id())
    });
    assert!(
        matches!(answer, Ok(Err(CallError::Timeout { vcpu: 0, .. }))),
        "{answer:?}"
    );
    hold.release();
}

#[test]
fn requests_are_pending_for_their_own_emt_and_those_for_any_for_all() {
    let rig = Rig::new(2);
    let holds = [rig.hold(0), rig.hold(1)];
    let pending = || [rig.pending(0), rig.pending(1)];
    assert_eq!(pending(), [false, false]);
    let mut urgent = rig.post_priority(1, |me| me.log.push("urgent"));
    assert_eq!(pending(), [false, true]);
    let mut own = rig.post(Dest::Vcpu(0), |me| me.log.push("own"));
    assert_eq!(pending(), [true, true]);
    for hold in holds {
        hold.release();
    }
    assert_eq!((urgent.wait(None), own.wait(None)), (Ok(()), Ok(())));
    let logs = rig.each(EachOrder::Ascending, None, |me| me.log.clone());
    assert_eq!(logs, [Ok(vec!["own"]), Ok(vec!["urgent"])]);

    let holds = [rig.hold(0), rig.hold(1)];
    let mut any = rig.post(Dest::Any, |_| ());
    assert_eq!(pending(), [true, true]);
    for hold in holds {
        hold.release();
    }
    assert_eq!(any.wait(None), Ok(()));
}

#[test]
fn requests_that_never_ran_are_counted_as_refused() {
    let rig = Rig::new(1);
    rig.end(0);
    assert!(rig.call(0, None, |_| ()).is_err());
    assert!(rig.post(Dest::Any, |_| ()).wait(None).is_err());
    assert!(rig.post(Dest::Vcpu(9), |_| ()).wait(None).is_err());
    assert_eq!(rig.stats().refused, 3);
}

#[derive(Debug, Default)]
struct Leave(AtomicBool);

impl Kick for Leave {
    fn kick(&self) {
        self.0.store(true, SeqCst);
    }
}

struct Guest(Bell);

impl Emt for Guest {
    fn bell(&self) -> &Bell {
        &self.0
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }
}

/// Enters the guest as EMT `v` and stays until it is kicked, then serves once.
fn be_in_the_guest(bells: &Arc<Bells>, queues: &Queues<Guest>, v: u32) -> bool {
    let leave = Arc::new(Leave::default());
    let mut me = Guest(bells.enroll(v).unwrap());
    me.0.install_kick(leave.clone());
    me.0.clear();
    let entered = me.0.enter();
    while !leave.0.load(SeqCst) {
        thread::yield_now();
    }
    drop(entered);
    me.0.clear();
    queues.process(&mut me, Which::All);
    bells.counts(v).kicks == 1
}

#[test]
fn what_any_may_run_is_for_a_parked_emt_rather_than_one_in_the_guest() {
    let bells = Bells::new(2);
    let queues = Queues::<Guest>::new(bells.clone());
    let until = |v, phase| {
        while bells.word(v).phase() != phase {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let guest = scope.spawn(|| be_in_the_guest(&bells, &queues, 0));
        until(0, Phase::InGuest);
        let parked = scope.spawn(|| {
            let mut me = Guest(bells.enroll(1).unwrap());
            me.0.clear();
            me.0.park(None);
            queues.process(&mut me, Which::All);
        });
        until(1, Phase::Parked);
        let mut ran = queues.post(Dest::Any, |me| me.0.id());
        assert_eq!(ran.wait(None), Ok(1));
        parked.join().unwrap();
        // Now only the one in the guest is left, and it is fetched.
        let mut ran = queues.post(Dest::Any, |me| me.0.id());
        assert_eq!(ran.wait(None), Ok(0));
        assert!(guest.join().unwrap(), "kicked exactly once");
    });
}

#[test]
fn what_any_may_run_goes_to_another_when_the_one_that_was_rung_leaves() {
    let bells = Bells::new(2);
    let queues = Queues::<Guest>::new(bells.clone());
    thread::scope(|scope| {
        let parked = scope.spawn(|| {
            let bell = bells.enroll(0).unwrap();
            bell.clear();
            bell.park(None);
            // It was rung for the request, and leaves without a look.
        });
        let guest = scope.spawn(|| be_in_the_guest(&bells, &queues, 1));
        for (v, phase) in [(0, Phase::Parked), (1, Phase::InGuest)] {
            while bells.word(v).phase() != phase {
                thread::yield_now();
            }
        }
        let mut ran = queues.post(Dest::Any, |me| me.0.id());
        assert_eq!(ran.wait(None), Ok(1));
        parked.join().unwrap();
        assert!(guest.join().unwrap(), "kicked exactly once");
    });
}

#[test]
fn a_ticket_waited_for_with_a_limit_is_not_waited_for_longer() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut ticket = rig.post(Dest::Vcpu(0), |_| ());
    let begun = Instant::now();
    let limit = Duration::from_millis(3);
    assert!(ticket.wait(Some(limit)).is_err());
    assert!(begun.elapsed() >= limit, "nor given up early");
    hold.release();
    assert_eq!(ticket.wait(None), Ok(()));
}

#[test]
fn queues_and_tickets_can_be_looked_at() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut ticket = rig.post(Dest::Vcpu(0), |_| ());
    assert_eq!(format!("{ticket:?}"), "Ticket { to: 0, done: false }");
    hold.release();
    assert_eq!(ticket.wait(None), Ok(()));
    assert_eq!(format!("{ticket:?}"), "Ticket { to: 0, done: true }");
    assert!(format!("{:?}", rig.queues).starts_with("Queues { shared:"));
}
