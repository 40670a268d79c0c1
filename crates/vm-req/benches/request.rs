// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a request costs beside a channel and beside the machine's own limit.
//!
//! The limits: a cache line that two polling threads pass to and fro, and a futex that two sleeping
//! threads do. The channels carry a boxed closure there and its result back.
#![expect(
    clippy::disallowed_methods,
    reason = "threads of a benchmark, joined by their owner"
)]

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use vm_bench::{Rounds, row};
use vm_emt::{ANYONE, Bell, Bells, Emt, Flow, Futex, Woken};
use vm_req::{Dest, Queues, Which};

const CALLS: u32 = 20_000;
const SLEEPY_CALLS: u32 = 200;
const POSTS: u32 = 50_000;
/// Between calls of an EMT that is to be asleep: long enough for it to fall asleep.
const GAP: Duration = Duration::from_micros(100);

struct Ctx {
    bell: Bell,
    work: u64,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }
}

/// What a server does when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Poll,
    Sleep,
}

/// A thread that serves until it is dropped.
struct Server {
    over: Arc<AtomicBool>,
    wake: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(wake: impl Fn() + 'static, serve: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = spawn({
            let over = over.clone();
            move || serve(&over)
        });
        Self {
            over,
            wake: Box::new(wake),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        (self.wake)();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a server does not panic");
        }
    }
}

/// Ours: an EMT whose loop polls or parks.
fn emt(idle: Idle) -> (Arc<Queues<Ctx>>, Server) {
    let bells = Bells::new(1);
    let queues = Queues::<Ctx>::new(bells.clone());
    let server = Server::new(
        {
            let bells = bells.clone();
            move || bells.ring(0)
        },
        {
            let (bells, queues) = (bells.clone(), queues.clone());
            move |over| {
                let mut me = Ctx {
                    bell: bells.enroll(0).expect("free"),
                    work: 0,
                };
                while !over.load(SeqCst) {
                    if queues.pending(0) {
                        me.bell.clear();
                        queues.process(&mut me, Which::All);
                    } else if idle == Idle::Poll {
                        spin_loop();
                    } else if me.bell.park(None) == Woken::Rung {
                        me.bell.clear();
                    }
                }
            }
        },
    );
    assert!(bells.wait_live(0, None), "no limit");
    (queues, server)
}

type Op = Box<dyn FnOnce(&mut u64) + Send>;

/// crossbeam-channel: a boxed closure there, a channel of one for the way back.
fn crossbeam(idle: Idle) -> (crossbeam_channel::Sender<Op>, Server) {
    let (sender, receiver) = crossbeam_channel::unbounded::<Op>();
    let last = sender.clone();
    let server = Server::new(
        move || drop(last.send(Box::new(|_| ()))), // a poller may be gone already
        move |over| {
            let mut work = 0;
            while !over.load(SeqCst) {
                if idle == Idle::Sleep {
                    receiver.recv().expect("a sender is kept")(&mut work);
                } else if let Ok(op) = receiver.try_recv() {
                    op(&mut work);
                } else {
                    spin_loop();
                }
            }
        },
    );
    (sender, server)
}

/// std's mpsc, the same way.
fn std_mpsc(idle: Idle) -> (mpsc::Sender<Op>, Server) {
    let (sender, receiver) = mpsc::channel::<Op>();
    let last = sender.clone();
    let server = Server::new(
        move || drop(last.send(Box::new(|_| ()))), // a poller may be gone already
        move |over| {
            let mut work = 0;
            while !over.load(SeqCst) {
                if idle == Idle::Sleep {
                    receiver.recv().expect("a sender is kept")(&mut work);
                } else if let Ok(op) = receiver.try_recv() {
                    op(&mut work);
                } else {
                    spin_loop();
                }
            }
        },
    );
    (sender, server)
}

/// A line passed to and fro: odd there, even back.
fn ping_pong() -> (Arc<AtomicU32>, Server) {
    let line = Arc::new(AtomicU32::new(0));
    let server = Server::new(|| (), {
        let line = line.clone();
        move |over| {
            while !over.load(SeqCst) {
                let seen = line.load(SeqCst);
                if seen % 2 == 1 {
                    line.store(seen.wrapping_add(1), SeqCst);
                } else {
                    spin_loop();
                }
            }
        }
    });
    (line, server)
}

/// A futex each way.
fn futex_ping_pong() -> (Arc<[Futex; 2]>, Server) {
    let pair = Arc::new([Futex::new(0), Futex::new(0)]);
    let wake = pair.clone();
    let server = Server::new(
        move || {
            wake[0].fetch_add(1);
            wake[0].key().wake_one();
        },
        {
            let pair = pair.clone();
            move |over| {
                let mut seen = 0;
                while !over.load(SeqCst) {
                    wait_for_change(&pair[0], seen);
                    seen = seen.wrapping_add(1);
                    pair[1].fetch_add(1);
                    pair[1].key().wake_one();
                }
            }
        },
    );
    (pair, server)
}

fn wait_for_change(word: &Futex, seen: u32) {
    while word.load() == seen {
        word.wait(seen, ANYONE, None);
    }
}

/// ns for each of `count` runs of `one`, each preceded by `gap`, which is not counted.
fn each(count: u32, gap: Duration, mut one: impl FnMut()) -> f64 {
    let mut spent = Duration::ZERO;
    if gap.is_zero() {
        let start = Instant::now();
        for _ in 0..count {
            one();
        }
        spent = start.elapsed();
    } else {
        for _ in 0..count {
            let begin = Instant::now() + gap;
            while Instant::now() < begin {
                spin_loop();
            }
            let start = Instant::now();
            one();
            spent += start.elapsed();
        }
    }
    spent.as_secs_f64() * 1e9 / f64::from(count)
}

fn call(queues: &Queues<Ctx>) {
    let add = black_box(1_u64);
    let sum = queues.call(0, None, |me| {
        me.work += add;
        me.work
    });
    black_box(sum).expect("the EMT serves");
}

fn crossbeam_call(sender: &crossbeam_channel::Sender<Op>) {
    let add = black_box(1_u64);
    let (reply, answer) = crossbeam_channel::bounded(1);
    let op = move |work: &mut u64| {
        *work += add;
        reply.send(*work).expect("the caller waits");
    };
    sender.send(Box::new(op)).expect("it serves");
    black_box(answer.recv()).expect("it answers");
}

fn mpsc_call(sender: &mpsc::Sender<Op>) {
    let add = black_box(1_u64);
    let (reply, answer) = mpsc::channel();
    let op = move |work: &mut u64| {
        *work += add;
        reply.send(*work).expect("the caller waits");
    };
    sender.send(Box::new(op)).expect("it serves");
    black_box(answer.recv()).expect("it answers");
}

fn waiting(rounds: Rounds, idle: Idle) {
    let (name, count, gap) = match idle {
        Idle::Poll => ("request, polling EMT", rounds.batch(CALLS), Duration::ZERO),
        Idle::Sleep => ("request, sleeping EMT", rounds.batch(SLEEPY_CALLS), GAP),
    };
    let bench = (name, "ns");
    // One server at a time: on two CPUs a second poller would take the caller's.
    let mut ours = || {
        let (queues, _server) = emt(idle);
        each(count, gap, || call(&queues))
    };
    let (limit, channel, why) = match idle {
        Idle::Poll => (
            2.0,
            0.35,
            "at the machine's slower pace, when a line to and fro takes several times as long",
        ),
        Idle::Sleep => (
            1.03,
            1.0,
            "a channel's caller spins while the other side wakes; ours sleeps, and its CPU is free",
        ),
    };
    match idle {
        Idle::Poll => row(
            rounds,
            bench,
            &mut ours,
            (
                "limit: one line to and fro",
                limit,
                "1.7 or 2.1, as the request comes to lie on its caller's stack",
            ),
            &mut || {
                let (line, _server) = ping_pong();
                each(count, gap, || {
                    let seen = line.load(SeqCst).wrapping_add(1);
                    line.store(seen, SeqCst);
                    while line.load(SeqCst) == seen {
                        spin_loop();
                    }
                })
            },
        ),
        Idle::Sleep => row(
            rounds,
            bench,
            &mut ours,
            (
                "limit: futex to and fro",
                limit,
                "within what repeats: both are two wake-ups by the same system call",
            ),
            &mut || {
                let (pair, _server) = futex_ping_pong();
                each(count, gap, || {
                    let seen = pair[1].load();
                    pair[0].fetch_add(1);
                    pair[0].key().wake_one();
                    wait_for_change(&pair[1], seen);
                })
            },
        ),
    }
    row(
        rounds,
        bench,
        &mut ours,
        ("crossbeam-channel", channel, why),
        &mut || {
            let (sender, _server) = crossbeam(idle);
            each(count, gap, || crossbeam_call(&sender))
        },
    );
    row(
        rounds,
        bench,
        &mut ours,
        ("std mpsc", channel, why),
        &mut || {
            let (sender, _server) = std_mpsc(idle);
            each(count, gap, || mpsc_call(&sender))
        },
    );
}

/// A call to the EMT that makes it.
fn inline(rounds: Rounds) {
    let bells = Bells::new(1);
    let queues = Queues::<Ctx>::new(bells.clone());
    let me = std::cell::RefCell::new(Ctx {
        bell: bells.enroll(0).expect("free"),
        work: 0,
    });
    let count = rounds.batch(1_000_000);
    let mut ours = || {
        let me = &mut *me.borrow_mut();
        each(count, Duration::ZERO, || {
            let add = black_box(1);
            black_box(queues.call_from(me, black_box(0), None, |me| me.work += add))
                .expect("inline");
        })
    };
    let direct: fn(&mut Ctx, u64) = |me, add| me.work += add;
    row(
        rounds,
        ("request, on its own EMT", "ns"),
        &mut ours,
        (
            "direct call",
            1.2,
            "nothing is inlined through catch_unwind: about a cycle more",
        ),
        &mut || {
            let me = &mut *me.borrow_mut();
            each(count, Duration::ZERO, || {
                black_box(direct)(me, black_box(1));
            })
        },
    );
}

/// Posts that nobody waits for, until the last one has run.
fn posting(rounds: Rounds, producers: u32) {
    let name = format!("post, {producers} producers");
    let count = rounds.batch(POSTS);
    let spread = |one: &(dyn Fn() + Sync), flush: &dyn Fn()| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..producers {
                scope.spawn(|| (0..count).for_each(|_| one()));
            }
        });
        flush();
        start.elapsed().as_secs_f64() * 1e9 / f64::from(count * producers)
    };
    let mut ours = || {
        let (queues, _server) = emt(Idle::Poll);
        let post = || {
            let add = black_box(1_u64);
            queues.send(Dest::Vcpu(0), move |me| me.work += add);
        };
        spread(&post, &|| call(&queues))
    };
    row(
        rounds,
        (&name, "ns"),
        &mut ours,
        (
            "crossbeam-channel",
            2.0,
            "an EMT that keeps up empties the stack for each post: two lines move, not one",
        ),
        &mut || {
            let (sender, _server) = crossbeam(Idle::Poll);
            let post = || {
                let add = black_box(1_u64); // without it the box would be empty, and free
                sender
                    .send(Box::new(move |work| *work += add))
                    .expect("it serves");
            };
            spread(&post, &|| crossbeam_call(&sender))
        },
    );
}

fn main() {
    let rounds = Rounds::from_args();
    waiting(rounds, Idle::Poll);
    waiting(rounds, Idle::Sleep);
    inline(rounds);
    for producers in [1, 2, 4, 8] {
        posting(rounds, producers);
    }
}
