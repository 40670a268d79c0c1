// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The doorbell word under loom: every interleaving of an EMT with those who ring it. Each model has
//! broken variants, which it must catch; a lost wake-up shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vm-emt --test loom --release`

#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use loom::thread;
use vm_emt::{ANYONE, Bell, Bells, Departure, Fault, Futex, Kick};

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3)); // LOOM_MAX_PREEMPTIONS overrides
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
        return check(model);
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

/// An EMT that parks until `sources` sources have published.
fn attend(bell: &Bell, published: &AtomicUsize, sources: usize, fault: Fault) {
    loop {
        if fault == Fault::ClearAfterLook {
            let seen = published.load(SeqCst);
            bell.clear();
            if seen == sources {
                return;
            }
        } else {
            bell.clear();
            if published.load(SeqCst) == sources {
                return;
            }
        }
        bell.park(None);
    }
}

fn publish(bells: &Bells, published: &AtomicUsize, fault: Fault) {
    if fault == Fault::PublishAfterRing {
        bells.ring(0);
        published.fetch_add(1, SeqCst);
    } else {
        published.fetch_add(1, SeqCst);
        bells.ring(0);
    }
}

fn parking(fault: Fault, sources: usize) -> impl Fn() + Sync + Send + Copy + 'static {
    move || {
        let bells = Bells::broken(1, fault);
        let published = Arc::new(AtomicUsize::new(0));
        let ringers: Vec<_> = (0..sources)
            .map(|_| {
                let (bells, published) = (bells.clone(), published.clone());
                thread::spawn(move || publish(&bells, &published, fault))
            })
            .collect();
        let bell = bells.enroll(0).unwrap();
        attend(&bell, &published, sources, fault);
        for ringer in ringers {
            ringer.join().unwrap();
        }
    }
}

#[test]
fn a_parking_emt_sees_what_one_source_published() {
    check(parking(Fault::None, 1));
}

#[test]
fn a_parking_emt_sees_what_two_sources_published() {
    check(parking(Fault::None, 2));
}

#[test]
fn a_ring_that_does_not_wake_is_caught() {
    caught(
        "a_ring_that_does_not_wake_is_caught",
        parking(Fault::RingWithoutWake, 1),
    );
}

#[test]
fn parking_without_looking_again_is_caught() {
    caught(
        "parking_without_looking_again_is_caught",
        parking(Fault::ParkWithoutRecheck, 1),
    );
}

#[test]
fn publishing_after_the_ring_is_caught() {
    caught(
        "publishing_after_the_ring_is_caught",
        parking(Fault::PublishAfterRing, 1),
    );
}

#[test]
fn clearing_after_the_look_is_caught() {
    caught(
        "clearing_after_the_look_is_caught",
        parking(Fault::ClearAfterLook, 1),
    );
}

/// A guest that never leaves by itself; the kick is a level.
#[derive(Debug)]
struct Guest(Futex);

impl Kick for Guest {
    fn kick(&self) {
        self.0.fetch_or(1);
        self.0.key().wake_all(ANYONE);
    }
}

impl Guest {
    fn run(&self) {
        while self.0.load() == 0 {
            self.0.wait(0, ANYONE, None);
        }
    }
}

/// The loop of design section 4: the kick is cleared inside the guest phase, before the look.
fn guest(sources: usize) {
    let bells = Bells::new(1);
    let published = Arc::new(AtomicUsize::new(0));
    let ringers: Vec<_> = (0..sources)
        .map(|_| {
            let (bells, published) = (bells.clone(), published.clone());
            thread::spawn(move || publish(&bells, &published, Fault::None))
        })
        .collect();
    let bell = bells.enroll(0).unwrap();
    let guest = Arc::new(Guest(Futex::new(0)));
    bell.install_kick(guest.clone());
    loop {
        bell.clear();
        if published.load(SeqCst) == sources {
            break;
        }
        if let Some(inside) = bell.enter() {
            guest.run();
            guest.0.fetch_and(0);
            drop(inside);
        }
    }
    for ringer in ringers {
        ringer.join().unwrap();
    }
}

#[test]
fn an_emt_that_enters_the_guest_is_kicked_out_for_what_one_source_published() {
    check(|| guest(1));
}

#[test]
fn an_emt_that_enters_the_guest_is_kicked_out_for_what_two_sources_published() {
    check(|| guest(2));
}

/// An EMT that parks until a source has published, beside one that holds it when it can. While it is
/// held it does not get out of its sleep, and the ring that comes meanwhile is not lost.
fn holding(fault: Fault) {
    let bells = Bells::broken(1, fault);
    let published = Arc::new(AtomicUsize::new(0));
    let awake = Arc::new(AtomicBool::new(true));
    let bell = bells.enroll(0).unwrap();
    let ringer = thread::spawn({
        let (bells, published) = (bells.clone(), published.clone());
        move || publish(&bells, &published, fault)
    });
    let holder = thread::spawn({
        let (bells, awake) = (bells.clone(), awake.clone());
        move || {
            if bells.hold(0) {
                let running = awake.load(SeqCst);
                bells.let_go(0);
                assert!(!running, "held and awake");
            }
        }
    });
    loop {
        bell.clear();
        if published.load(SeqCst) == 1 {
            break;
        }
        awake.store(false, SeqCst);
        bell.park(None);
        awake.store(true, SeqCst);
    }
    ringer.join().unwrap();
    holder.join().unwrap();
}

#[test]
fn an_emt_that_is_held_stays_asleep_and_loses_no_ring() {
    check(|| holding(Fault::None));
}

#[test]
fn an_emt_that_leaves_while_it_is_held_is_caught() {
    caught_by(
        "held and awake",
        "an_emt_that_leaves_while_it_is_held_is_caught",
        || holding(Fault::LeaveWhileHeld),
    );
}

#[test]
fn holding_an_emt_that_is_no_longer_parked_is_caught() {
    caught_by(
        "held and awake",
        "holding_an_emt_that_is_no_longer_parked_is_caught",
        || holding(Fault::HoldWithoutCheck),
    );
}

#[test]
fn letting_go_without_the_wake_that_is_owed_is_caught() {
    caught("letting_go_without_the_wake_that_is_owed_is_caught", || {
        holding(Fault::LetGoWithoutWake)
    });
}

/// The deadline has passed, and nobody will ring: letting go has to be enough.
#[test]
fn an_emt_whose_deadline_passes_while_it_is_held_wakes_when_it_is_let_go() {
    check(|| {
        let bells = Bells::new(1);
        let bell = bells.enroll(0).unwrap();
        bell.clear();
        let awake = Arc::new(AtomicBool::new(false));
        let holder = thread::spawn({
            let (bells, awake) = (bells.clone(), awake.clone());
            move || {
                if bells.hold(0) {
                    let running = awake.load(SeqCst);
                    bells.let_go(0);
                    assert!(!running, "held and awake");
                }
            }
        });
        bell.park(Some(std::time::Instant::now()));
        awake.store(true, SeqCst);
        holder.join().unwrap();
    });
}

#[derive(Debug)]
struct Watcher {
    published: AtomicBool,
    seen: AtomicBool,
}

impl Departure for Watcher {
    fn left(&self, _v: u32) {
        self.seen.store(self.published.load(SeqCst), SeqCst);
    }
}

#[test]
fn what_is_published_while_an_emt_leaves_is_seen_by_the_ringer_or_by_the_watcher() {
    check(|| {
        let bells = Bells::new(1);
        let watcher = Arc::new(Watcher {
            published: AtomicBool::new(false),
            seen: AtomicBool::new(false),
        });
        let told: Arc<dyn Departure> = watcher.clone();
        bells.watch(Arc::downgrade(&told));
        let ready = Arc::new(Futex::new(0));
        let emt = thread::spawn({
            let (bells, ready) = (bells.clone(), ready.clone());
            move || {
                let bell = bells.enroll(0).unwrap();
                ready.fetch_or(1);
                ready.key().wake_all(ANYONE);
                drop(bell);
            }
        });
        while ready.load() == 0 {
            ready.wait(0, ANYONE, None);
        }
        watcher.published.store(true, SeqCst);
        let live = bells.ring_and_look(0).live();
        emt.join().unwrap();
        assert!(!live || watcher.seen.load(SeqCst));
        assert!(bells.enroll(0).is_ok());
    });
}
