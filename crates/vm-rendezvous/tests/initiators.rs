// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Initiators out of the ordinary: unwound before its EMTs have come, or with something to do for
//! its own loop; and what can be looked at.

#![cfg(not(loom))]

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

use vm_emt::{Bell, Bells, Emt, Flow, Kick, Phase};
use vm_rendezvous::{How, MeetError, Met, Rendezvous};

#[derive(Debug)]
struct PanickingKick;

impl Kick for PanickingKick {
    fn kick(&self) {
        panic!("on purpose, for a test");
    }
}

struct Ctx(Bell);

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.0
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }
}

#[test]
fn a_kick_that_panics_withdraws_the_round_and_its_callback_never_runs() {
    let bells = Bells::new(1);
    let rendezvous = Rendezvous::<Ctx>::new(bells.clone());
    let (leave, ran) = (AtomicBool::new(false), AtomicU32::new(0));
    let count = |_: &mut Ctx| {
        ran.fetch_add(1, SeqCst);
        Ok::<_, Infallible>(Flow::Continue)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut me = Ctx(bells.enroll(0).unwrap());
            me.0.install_kick(Arc::new(PanickingKick));
            me.0.clear();
            let entered = me.0.enter();
            while !leave.load(SeqCst) {
                thread::yield_now();
            }
            drop(entered);
            while ran.load(SeqCst) == 0 {
                me.0.clear();
                rendezvous.attend(&mut me);
                thread::yield_now();
            }
        });
        while bells.word(0).phase() != Phase::InGuest {
            thread::yield_now();
        }
        let met = catch_unwind(AssertUnwindSafe(|| rendezvous.meet(How::once(), count)));
        assert!(met.is_err(), "the kick's panic is the initiator's");
        assert!(!rendezvous.pending(0), "nothing waits for the EMT any more");
        leave.store(true, SeqCst);
        while bells.word(0).phase() != Phase::Idle {
            thread::yield_now();
        }
        assert_eq!(ran.load(SeqCst), 0);
        let met: Result<Met, MeetError<Infallible>> = rendezvous.meet(How::once(), count);
        assert_eq!(met.map(|met| met.ran), Ok(1));
    });
}

#[test]
fn what_was_kept_for_the_initiating_emt_is_in_what_it_gets() {
    let bells = Bells::new(1);
    let rendezvous = Rendezvous::<Ctx>::new(bells.clone());
    let mut me = Ctx(bells.enroll(0).unwrap());
    me.0.keep(Flow::Look);
    let go_on = |_: &mut Ctx| Ok::<_, Infallible>(Flow::Continue);
    let met = rendezvous.meet_from(&mut me, How::once(), go_on);
    assert_eq!(met.map(|met| met.flow), Ok(Flow::Look));
    let met = rendezvous.meet_from(&mut me, How::once(), go_on);
    assert_eq!(met.map(|met| met.flow), Ok(Flow::Continue), "told once");
}

#[test]
fn a_rendezvous_can_be_looked_at() {
    let rendezvous = Rendezvous::<Ctx>::new(Bells::new(1));
    assert!(format!("{rendezvous:?}").starts_with("Rendezvous { shared:"));
}
