// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Doorbell word, request queue, rendezvous, park and destroy composed, under loom. A lost wake-up
//! shows as a deadlock, everything else as a failed assertion.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vm-rendezvous --test loom --release`

#![cfg(loom)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use loom::thread;
use vm_emt::{Bell, Bells, Emt, Fault, Flow, Kick};
use vm_rendezvous::{How, MeetError, Met, Rendezvous};
use vm_req::{CallError, Queues, Which};

struct Ctx {
    bell: Bell,
    vm: Vm,
    next: Flow,
}

#[derive(Clone)]
struct Vm {
    bells: Arc<Bells>,
    queues: Arc<Queues<Ctx>>,
    rendezvous: Arc<Rendezvous<Ctx>>,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        let vm = self.vm.clone();
        vm.rendezvous
            .attend(self)
            .max(vm.queues.process(self, Which::Priority))
    }

    fn take_flow(&mut self) -> Flow {
        std::mem::take(&mut self.next)
    }
}

impl Vm {
    fn new(count: u32, fault: Fault) -> Self {
        let bells = Bells::broken(count, fault);
        Self {
            queues: Queues::new(bells.clone()),
            rendezvous: Rendezvous::new(bells.clone()),
            bells,
        }
    }

    fn enroll(&self, v: u32) -> Ctx {
        Ctx {
            bell: self.bells.enroll(v).unwrap(),
            vm: self.clone(),
            next: Flow::Continue,
        }
    }

    fn meet(&self, how: impl Into<How>, flow: Flow) -> Result<Met, MeetError<Infallible>> {
        self.rendezvous.meet(how, |_| Ok(flow))
    }

    /// EMT `v` on a thread of its own, enrolled.
    fn start(&self, v: u32) -> thread::JoinHandle<()> {
        let vm = self.clone();
        let thread = thread::spawn(move || vm.enroll(v).run());
        while !self.bells.live(v) {
            thread::yield_now();
        }
        thread
    }
}

impl Ctx {
    fn run(mut self) {
        let vm = self.vm.clone();
        loop {
            self.bell.clear();
            let met = vm.rendezvous.attend(&mut self);
            if met.max(vm.queues.process(&mut self, Which::All)) == Flow::Stop {
                return;
            }
            self.bell.park(None);
        }
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
    caught_by("deadlock", test, model);
}

/// [`caught`], by what the model says then.
fn caught_by(saying: &str, test: &str, model: impl Fn() + Sync + Send + 'static) {
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
        String::from_utf8_lossy(&says).contains(saying),
        "it failed for another reason"
    );
}

/// A call, a rendezvous, and the end of the EMT by a second rendezvous, from one thread.
fn life(fault: Fault) {
    let vm = Vm::new(1, fault);
    let me = vm.enroll(0);
    let embedder = thread::spawn({
        let vm = vm.clone();
        move || {
            assert_eq!(
                vm.meet(How::once(), Flow::Continue).map(|met| met.ran),
                Ok(1)
            );
            assert_eq!(vm.queues.call(0, None, |me| me.bell.id()), Ok(0));
            assert_eq!(
                vm.meet(How::descending(), Flow::Stop).map(|met| met.flow),
                Ok(Flow::Stop)
            );
        }
    });
    me.run();
    embedder.join().unwrap();
}

#[test]
fn a_vm_with_one_emt_is_called_met_and_ended() {
    check(2, || life(Fault::None));
}

#[test]
fn a_round_published_after_the_ring_is_caught() {
    caught("a_round_published_after_the_ring_is_caught", || {
        life(Fault::PublishAfterRing)
    });
}

#[test]
fn a_ring_that_does_not_wake_is_caught() {
    caught("a_ring_that_does_not_wake_is_caught", || {
        life(Fault::RingWithoutWake)
    });
}

#[test]
fn parking_without_looking_again_is_caught() {
    caught("parking_without_looking_again_is_caught", || {
        life(Fault::ParkWithoutRecheck)
    });
}

/// An EMT that looks at its sources and clears its bell afterwards.
#[test]
fn clearing_after_the_look_is_caught() {
    caught("clearing_after_the_look_is_caught", || {
        let vm = Vm::new(1, Fault::None);
        let mut me = vm.enroll(0);
        let embedder = thread::spawn({
            let vm = vm.clone();
            move || vm.meet(How::once(), Flow::Stop)
        });
        while vm.rendezvous.attend(&mut me) != Flow::Stop {
            me.bell.clear();
            me.bell.park(None);
        }
        drop(me);
        assert!(embedder.join().unwrap().is_ok());
    });
}

#[test]
fn two_emts_meet_and_leave_with_the_same_answer() {
    check(2, || {
        let vm = Vm::new(2, Fault::None);
        let me = vm.enroll(0);
        let other = vm.start(1);
        let embedder = thread::spawn({
            let vm = vm.clone();
            move || vm.meet(How::descending(), Flow::Stop)
        });
        me.run();
        other.join().unwrap();
        let met = embedder.join().unwrap();
        assert_eq!(
            met,
            Ok(Met {
                flow: Flow::Stop,
                held: 2,
                ran: 2
            })
        );
    });
}

#[test]
fn a_round_that_is_withdrawn_while_an_emt_comes_runs_on_it_or_not_at_all() {
    check(3, || {
        let vm = Vm::new(1, Fault::None);
        let me = vm.enroll(0);
        let ran = Arc::new(AtomicU32::new(0));
        let embedder = thread::spawn({
            let (vm, ran) = (vm.clone(), ran.clone());
            move || {
                let met = vm.rendezvous.meet(How::once().limit(Duration::ZERO), |_| {
                    ran.fetch_add(1, SeqCst);
                    Ok::<_, Infallible>(Flow::Continue)
                });
                assert_eq!(u32::from(met.is_ok()), ran.load(SeqCst));
                assert!(vm.meet(How::once(), Flow::Stop).is_ok());
            }
        });
        me.run();
        embedder.join().unwrap();
    });
}

#[test]
fn destroy_ends_a_call_and_a_rendezvous_that_come_at_the_same_time() {
    check(2, || {
        let vm = Vm::new(1, Fault::None);
        let mut me = vm.enroll(0);
        let caller = thread::spawn({
            let vm = vm.clone();
            move || vm.queues.call(0, None, |_| ())
        });
        let initiator = thread::spawn({
            let vm = vm.clone();
            move || vm.meet(How::once(), Flow::Continue)
        });
        // Destroy: one last look, then the EMT is gone.
        me.bell.clear();
        vm.rendezvous.attend(&mut me);
        vm.queues.process(&mut me, Which::All);
        vm.queues.close();
        drop(me);
        let called = caller.join().unwrap();
        let refused = [CallError::Killed, CallError::NotLive { vcpu: 0 }];
        assert!(called.is_ok() || called.is_err_and(|why| refused.contains(&why)));
        let met = initiator.join().unwrap();
        assert!(met.is_ok_and(|met| met.ran == 1) || met == Err(MeetError::NoEmts));
    });
}

#[test]
fn an_emt_and_a_thread_that_initiate_at_once_both_have_their_round() {
    check(2, || {
        let vm = Vm::new(1, Fault::None);
        let mut me = vm.enroll(0);
        let embedder = thread::spawn({
            let vm = vm.clone();
            move || vm.meet(How::once(), Flow::Stop)
        });
        let own = vm.rendezvous.meet_from(&mut me, How::once(), |_| {
            Ok::<_, Infallible>(Flow::Continue)
        });
        assert_eq!(own.map(|met| met.ran), Ok(1));
        // The other round may have come while this EMT waited for its turn: then its answer is here.
        if own.is_ok_and(|met| met.flow == Flow::Stop) {
            drop(me);
        } else {
            me.run();
        }
        assert_eq!(embedder.join().unwrap().map(|met| met.ran), Ok(1));
    });
}

#[derive(Debug)]
struct Left;

impl Kick for Left {
    fn kick(&self) {}
}

#[test]
fn an_emt_that_enrolls_during_a_round_is_not_in_the_guest_while_callbacks_run() {
    check(2, || {
        let vm = Vm::new(2, Fault::None);
        let me = vm.enroll(0);
        let in_guest = Arc::new(AtomicBool::new(false));
        let late = thread::spawn({
            let (vm, in_guest) = (vm.clone(), in_guest.clone());
            move || {
                let mut me = vm.enroll(1);
                me.bell.install_kick(Arc::new(Left));
                me.bell.clear();
                vm.rendezvous.attend(&mut me);
                if let Some(_guest) = me.bell.enter() {
                    in_guest.store(true, SeqCst);
                    in_guest.store(false, SeqCst);
                }
                // Gone without another look: the round must not wait for it.
            }
        });
        let embedder = thread::spawn({
            let vm = vm.clone();
            move || {
                vm.rendezvous.meet(How::ascending(), |_| {
                    assert!(!in_guest.load(SeqCst));
                    Ok::<_, Infallible>(Flow::Stop)
                })
            }
        });
        me.run();
        late.join().unwrap();
        assert!(embedder.join().unwrap().is_ok());
    });
}

/// An EMT that is held in its sleep or comes, as it happens; a call at the same time; and its end by
/// a round that it may sleep through too.
fn held(fault: Fault) {
    let vm = Vm::new(1, fault);
    let me = vm.enroll(0);
    let caller = thread::spawn({
        let vm = vm.clone();
        move || vm.queues.call(0, None, |me| me.bell.id())
    });
    let holder = thread::spawn({
        let vm = vm.clone();
        move || vm.rendezvous.meet_here(Duration::MAX, || Flow::Continue)
    });
    let ender = thread::spawn(move || {
        assert_eq!(caller.join().unwrap(), Ok(0));
        assert_eq!(holder.join().unwrap().map(|met| met.held), Ok(1));
        let ended = vm.rendezvous.meet_here(Duration::MAX, || Flow::Stop);
        assert_eq!(ended.map(|met| met.held), Ok(1));
    });
    me.run();
    ender.join().unwrap();
}

#[test]
fn an_emt_that_is_held_in_its_sleep_serves_a_call_and_hears_its_end() {
    check(2, || held(Fault::None));
}

#[test]
fn a_sleeper_that_is_let_go_without_the_wake_it_is_owed_is_caught() {
    caught(
        "a_sleeper_that_is_let_go_without_the_wake_it_is_owed_is_caught",
        || held(Fault::LetGoWithoutWake),
    );
}

/// What an EMT does outside its sleep and its attendance never happens beside the callback.
fn beside(fault: Fault) {
    let vm = Vm::new(1, fault);
    let mut me = vm.enroll(0);
    let outside = Arc::new(AtomicBool::new(false));
    let holder = thread::spawn({
        let (vm, outside) = (vm.clone(), outside.clone());
        move || {
            let met = vm.rendezvous.meet_here(Duration::MAX, || {
                vm.bells.ring(0);
                thread::yield_now();
                assert!(!outside.load(SeqCst), "beside the callback");
                Flow::Continue
            });
            assert!(met.is_ok());
            assert!(vm.meet(How::once(), Flow::Stop).is_ok());
        }
    });
    loop {
        me.bell.clear();
        if vm.rendezvous.attend(&mut me) == Flow::Stop {
            break;
        }
        me.bell.park(None);
        outside.store(true, SeqCst);
        outside.store(false, SeqCst);
    }
    drop(me);
    holder.join().unwrap();
}

#[test]
fn an_emt_does_nothing_of_its_own_while_it_is_held_in_its_sleep() {
    check(2, || beside(Fault::None));
}

#[test]
fn an_emt_that_leaves_its_sleep_while_it_is_held_is_caught() {
    caught_by(
        "beside the callback",
        "an_emt_that_leaves_its_sleep_while_it_is_held_is_caught",
        || beside(Fault::LeaveWhileHeld),
    );
}

#[test]
fn two_emts_one_of_which_may_sleep_meet_once_and_leave_with_the_same_answer() {
    check(2, || {
        let vm = Vm::new(2, Fault::None);
        let me = vm.enroll(0);
        let other = vm.start(1);
        let embedder = thread::spawn({
            let vm = vm.clone();
            move || vm.meet(How::once(), Flow::Stop)
        });
        me.run();
        other.join().unwrap();
        let met = embedder.join().unwrap();
        assert_eq!(met.map(|met| (met.held, met.ran)), Ok((2, 1)));
    });
}
