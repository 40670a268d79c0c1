// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Queues under loom: calls against withdrawal, departure and closing. A request lost or run twice
//! fails an assertion; a lost wake-up shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vm-req --test loom --release`

#![cfg(loom)]

use std::time::Duration;

use loom::thread;
use vm_emt::{Bell, Bells, Emt, Fault, Flow};
use vm_req::{CallError, Dest, Queues, Which};

struct Ctx {
    bell: Bell,
    next: Flow,
    ran: u32,
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

fn check(bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(bound)); // LOOM_MAX_PREEMPTIONS overrides
    builder.check(model);
}

/// The model must end in a deadlock: a broken variant that passes is a model that sees nothing. It
/// runs in a process of its own, since the EMTs of a deadlocked model cannot be unwound.
fn caught(test: &str, model: impl Fn() + Sync + Send + 'static) {
    if std::env::var_os("BROKEN_VARIANT").is_some() {
        return check(2, model);
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env("BROKEN_VARIANT", "1")
        .output()
        .unwrap();
    let says = [child.stdout, child.stderr].concat();
    assert!(!child.status.success(), "the model missed the mistake");
    assert!(
        String::from_utf8_lossy(&says).contains("deadlock"),
        "it failed for another reason"
    );
}

/// Runs EMT 0's loop on this thread until a request asks it to stop; answers how many requests ran.
fn run(bell: Bell, queues: &Queues<Ctx>) -> u32 {
    let mut me = Ctx {
        bell,
        next: Flow::Continue,
        ran: 0,
    };
    loop {
        me.bell.clear();
        if queues.process(&mut me, Which::All) == Flow::Stop {
            return me.ran;
        }
        me.bell.park(None);
    }
}

fn call_and_stop(queues: &Queues<Ctx>) -> Result<u32, CallError> {
    queues.call(0, None, |me| {
        me.next = Flow::Stop;
        me.ran += 1;
        me.ran
    })
}

fn one_call(fault: Fault) {
    let bells = Bells::broken(1, fault);
    let queues = Queues::<Ctx>::new(bells.clone());
    let bell = bells.enroll(0).unwrap();
    let caller = thread::spawn({
        let queues = queues.clone();
        move || call_and_stop(&queues)
    });
    assert_eq!(run(bell, &queues), 1);
    assert_eq!(caller.join().unwrap(), Ok(1));
}

#[test]
fn a_call_is_answered() {
    check(3, || one_call(Fault::None));
}

#[test]
fn a_call_that_rings_before_it_is_queued_is_caught() {
    caught("a_call_that_rings_before_it_is_queued_is_caught", || {
        one_call(Fault::PublishAfterRing)
    });
}

#[test]
fn a_call_that_does_not_wake_its_emt_is_caught() {
    caught("a_call_that_does_not_wake_its_emt_is_caught", || {
        one_call(Fault::RingWithoutWake)
    });
}

#[test]
fn a_parking_emt_that_forgets_a_call_is_caught() {
    caught("a_parking_emt_that_forgets_a_call_is_caught", || {
        one_call(Fault::ParkWithoutRecheck)
    });
}

#[test]
fn a_withdrawn_call_never_runs_and_one_that_ran_is_answered() {
    check(3, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let caller = thread::spawn({
            let queues = queues.clone();
            move || {
                let first = queues.call(0, Some(Duration::ZERO), |me| me.ran += 1);
                (first.is_ok(), call_and_stop(&queues))
            }
        });
        let ran = run(bell, &queues);
        let (first, second) = caller.join().unwrap();
        assert_eq!(ran, 1 + u32::from(first));
        assert_eq!(second, Ok(ran));
    });
}

#[test]
fn two_callers_one_of_which_withdraws_lose_nothing() {
    check(2, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let impatient = thread::spawn({
            let queues = queues.clone();
            move || {
                queues
                    .call(0, Some(Duration::ZERO), |me| me.ran += 1)
                    .is_ok()
            }
        });
        let patient = thread::spawn({
            let queues = queues.clone();
            move || call_and_stop(&queues)
        });
        let ran = run(bell, &queues);
        assert!(patient.join().unwrap().is_ok());
        assert_eq!(ran, 1 + u32::from(impatient.join().unwrap()));
    });
}

#[test]
fn a_call_while_its_emt_leaves_is_answered_once() {
    check(3, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let caller = thread::spawn({
            let queues = queues.clone();
            move || queues.call(0, None, |me| me.ran += 1)
        });
        let mut me = Ctx {
            bell,
            next: Flow::Continue,
            ran: 0,
        };
        queues.process(&mut me, Which::All);
        let ran = me.ran;
        drop(me);
        match caller.join().unwrap() {
            Ok(()) => assert_eq!(ran, 1),
            Err(why) => assert_eq!((why, ran), (CallError::NotLive { vcpu: 0 }, 0)),
        }
    });
}

#[test]
fn a_call_while_the_queues_close_is_answered_or_killed_once() {
    check(2, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let caller = thread::spawn({
            let queues = queues.clone();
            move || queues.call(0, None, |me| me.ran += 1)
        });
        let closer = thread::spawn({
            let queues = queues.clone();
            move || queues.close()
        });
        let mut me = Ctx {
            bell,
            next: Flow::Continue,
            ran: 0,
        };
        queues.process(&mut me, Which::All);
        closer.join().unwrap();
        queues.process(&mut me, Which::All);
        let answer = caller.join().unwrap();
        assert_eq!(
            answer,
            if me.ran == 1 {
                Ok(())
            } else {
                Err(CallError::Killed)
            }
        );
    });
}

#[test]
fn a_post_to_any_while_an_emt_leaves_runs_or_is_refused() {
    check(3, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let poster = thread::spawn({
            let queues = queues.clone();
            move || queues.post(Dest::Any, |me| me.ran += 1).wait(None)
        });
        let mut me = Ctx {
            bell,
            next: Flow::Continue,
            ran: 0,
        };
        queues.process(&mut me, Which::All);
        let ran = me.ran;
        drop(me);
        assert_eq!(poster.join().unwrap().is_ok(), ran == 1);
    });
}

/// Two producers that do not wait, the second of which may find the first one's request and leave
/// the ring to it.
fn two_senders(fault: Fault) {
    let bells = Bells::broken(1, fault);
    let queues = Queues::<Ctx>::new(bells.clone());
    let bell = bells.enroll(0).unwrap();
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let queues = queues.clone();
            thread::spawn(move || {
                queues.send(Dest::Vcpu(0), |me| {
                    me.ran += 1;
                    if me.ran == 2 {
                        me.next = Flow::Stop;
                    }
                });
            })
        })
        .collect();
    assert_eq!(run(bell, &queues), 2);
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn what_two_producers_send_runs_once_each() {
    check(3, || two_senders(Fault::None));
}

#[test]
fn a_producer_that_does_not_wake_its_emt_is_caught() {
    caught("a_producer_that_does_not_wake_its_emt_is_caught", || {
        two_senders(Fault::RingWithoutWake)
    });
}

#[test]
fn what_is_sent_while_an_emt_leaves_runs_or_is_dropped() {
    check(2, || {
        let bells = Bells::new(1);
        let queues = Queues::<Ctx>::new(bells.clone());
        let bell = bells.enroll(0).unwrap();
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let queues = queues.clone();
                thread::spawn(move || queues.send(Dest::Vcpu(0), |me| me.ran += 1))
            })
            .collect();
        let mut me = Ctx {
            bell,
            next: Flow::Continue,
            ran: 0,
        };
        queues.process(&mut me, Which::All);
        let ran = me.ran;
        drop(me);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(!queues.pending(0));
        let stats = queues.stats();
        assert_eq!(stats.processed, u64::from(ran));
        assert_eq!(stats.processed + stats.refused, 2);
    });
}
