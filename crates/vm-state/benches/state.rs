// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What reading the state and moving it costs, beside a plain atomic and beside the usual way: a
//! mutex, a condition variable for those who wait, a list of boxed listeners.

use std::hint::black_box;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use vm_bench::{Rounds, row};
use vm_state::{Cause, State, StateCell, Subscription, SuspendReason, operations};

const READS: u32 = 2_000_000;
const CYCLES: u32 = 50_000;

/// ns for each of `count` runs of `one`.
fn each(count: u32, mut one: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        one();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// A running VM, whose changes `observers` observers count.
fn running(observers: u32) -> (Arc<StateCell>, Vec<Subscription>) {
    let (cell, creation) = StateCell::create();
    creation.commit(State::Created).expect("legal");
    let power_on = cell.begin(operations::POWER_ON.moves, Cause::User);
    power_on
        .expect("created")
        .commit(State::Running)
        .expect("legal");
    let seen = Arc::new(AtomicU64::new(0));
    let subscriptions = (0..observers)
        .map(|_| {
            let seen = seen.clone();
            cell.observe(move |change| {
                seen.fetch_add(change.sequence, SeqCst);
            })
        })
        .collect();
    (cell, subscriptions)
}

/// Two transitions, each begun and committed: four moves.
fn suspend_and_resume(cell: &Arc<StateCell>) {
    let why = Cause::Suspend(SuspendReason::User);
    let suspend = cell.begin(operations::SUSPEND.moves, why).expect("running");
    suspend.commit(State::Suspended).expect("legal");
    let resume = cell.begin(operations::RESUME.moves, Cause::User);
    let resume = resume.expect("suspended");
    resume.commit(State::Running).expect("legal");
}

/// Whether a change wakes waiters: a system call, also if there are none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notify {
    Always,
    Never,
}

/// The usual way.
struct Usual {
    notify: Notify,
    state: Mutex<(State, u64)>,
    changed: Condvar,
    #[expect(clippy::type_complexity, reason = "what such a list is")]
    listeners: Mutex<Vec<Box<dyn Fn(State, State, u64) + Send>>>,
}

impl Usual {
    fn new(notify: Notify, listeners: u32) -> Self {
        let seen = Arc::new(AtomicU64::new(0));
        let listener = |_| {
            let seen = seen.clone();
            let count = move |_, _, sequence| {
                seen.fetch_add(sequence, SeqCst);
            };
            Box::new(count) as Box<dyn Fn(State, State, u64) + Send>
        };
        Self {
            notify,
            state: Mutex::new((State::Running, 0)),
            changed: Condvar::new(),
            listeners: Mutex::new((0..listeners).map(listener).collect()),
        }
    }

    fn read(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn step(&self, from: State, to: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(state.0, from, "a move that is not possible");
        *state = (to, state.1 + 1);
        if self.notify == Notify::Always {
            self.changed.notify_all();
        }
        let listeners = self.listeners.lock();
        for listener in listeners.unwrap_or_else(PoisonError::into_inner).iter() {
            listener(from, to, state.1);
        }
    }

    fn suspend_and_resume(&self) {
        self.step(State::Running, State::Suspending);
        self.step(State::Suspending, State::Suspended);
        self.step(State::Suspended, State::Resuming);
        self.step(State::Resuming, State::Running);
    }
}

fn reading(rounds: Rounds) {
    let count = rounds.batch(READS);
    let (cell, _none) = running(0);
    let mut ours = || {
        each(count, || {
            black_box(black_box(&cell).read());
        })
    };
    let plain = Arc::new(AtomicU8::new(7)); // behind a pointer, as the cell is
    let limit = (
        "limit: a plain load",
        1.1,
        "the load, and the check that the number is a state: half a cycle",
    );
    row(rounds, ("state, read", "ns"), &mut ours, limit, &mut || {
        each(count, || {
            black_box(black_box(&plain).load(SeqCst));
        })
    });
    let usual = Usual::new(Notify::Never, 0);
    let peer = ("Mutex", 0.2, "nobody else wants the lock: two instructions");
    row(rounds, ("state, read", "ns"), &mut ours, peer, &mut || {
        each(count, || {
            black_box(black_box(&usual).read());
        })
    });
}

fn main() {
    let rounds = Rounds::from_args();
    reading(rounds);
    let count = rounds.batch(CYCLES);
    for observers in [0, 1, 8] {
        let name = format!("suspend and resume, {observers} observers");
        let (cell, _subscriptions) = running(observers);
        let peers = [
            ("Mutex, Condvar, boxes", Notify::Always, 1.0),
            ("Mutex, boxes", Notify::Never, 1.6),
        ];
        for (peer, notify, target) in peers {
            let usual = Usual::new(notify, observers);
            let why = "the table of moves, the cause, undo, and observers called without a lock";
            let mut ours = || each(count, || suspend_and_resume(black_box(&cell)));
            let peer = (peer, target, why);
            row(rounds, (&name, "ns"), &mut ours, peer, &mut || {
                each(count, || black_box(&usual).suspend_and_resume())
            });
        }
    }
}
