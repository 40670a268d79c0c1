// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What bringing sleeping threads together and letting them go costs, beside other ways to do it.
//!
//! The limit is one futex wake for each sleeping thread until the last one runs; it knows no release.
//! "channel pause" is a protocol as in VMMs with a channel pair per vCPU: tell each, hear each, twice;
//! three times if each is to run something while all are held.
//! "baton" is the least that one callback after the other on sleeping threads can do: wake all, pass
//! on from thread to thread, let all go.

use std::convert::Infallible;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use vm_bench::{Rounds, row};
use vm_emt::{ANYONE, Bell, Bells, Emt, Flow, Futex};
use vm_rendezvous::{How, Rendezvous};

struct Ctx(Bell);

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.0
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }
}

/// Named threads, joined at the end.
struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    fn start(count: u32, run: impl Fn(u32) + Send + Clone + 'static) -> Self {
        let start = |v| {
            let run = run.clone();
            let thread = Builder::new()
                .name(format!("emt-{v}"))
                .spawn(move || run(v));
            thread.expect("a thread")
        };
        Self((0..count).map(start).collect())
    }

    fn join(self) {
        for thread in self.0 {
            thread.join().expect("it does not panic");
        }
    }
}

/// Lets `count` threads fall asleep; not measured.
fn settle(count: u32) {
    let until = Instant::now() + Duration::from_micros(100 + 20 * u64::from(count));
    while Instant::now() < until {
        spin_loop();
    }
}

fn micros(spent: Duration, times: u32) -> f64 {
    spent.as_secs_f64() * 1e6 / f64::from(times)
}

/// EMTs that attend and park.
struct Emts {
    rendezvous: Arc<Rendezvous<Ctx>>,
    threads: Threads,
}

impl Emts {
    fn start(count: u32) -> Self {
        let bells = Bells::new(count);
        let rendezvous = Rendezvous::<Ctx>::new(bells.clone());
        let threads = Threads::start(count, {
            let (bells, rendezvous) = (bells.clone(), rendezvous.clone());
            move |v| {
                let mut me = Ctx(bells.enroll(v).expect("free"));
                loop {
                    me.0.clear();
                    if rendezvous.attend(&mut me) == Flow::Stop {
                        break;
                    }
                    me.0.park(None);
                }
            }
        });
        for v in 0..count {
            assert!(bells.wait_live(v, None), "no limit");
        }
        Self {
            rendezvous,
            threads,
        }
    }

    fn end(self) {
        let stop = |_: &mut Ctx| Ok::<_, Infallible>(Flow::Stop);
        assert!(self.rendezvous.meet(How::together(), stop).is_ok());
        self.threads.join();
    }
}

/// Ours: until the last callback has begun, and until all have left.
fn ours(how: How, count: u32, times: u32) -> (f64, f64) {
    let runs = if how == How::once() { 1 } else { count };
    let emts = Emts::start(count);
    let (mut stop, mut whole) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..times {
        settle(count);
        let (ran, last) = (AtomicU32::new(0), AtomicU64::new(0));
        let start = Instant::now();
        let met = emts.rendezvous.meet(how, |_| {
            if ran.fetch_add(1, SeqCst) + 1 == runs {
                let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                last.store(nanos, SeqCst);
            }
            Ok::<_, Infallible>(Flow::Continue)
        });
        whole += start.elapsed();
        stop += Duration::from_nanos(last.load(SeqCst));
        assert!(met.is_ok_and(|met| met.ran == runs), "all ran");
    }
    emts.end();
    (micros(stop, times), micros(whole, times))
}

/// Ours, with the callback on this thread: nobody wakes. In ns.
fn ours_here(count: u32, times: u32) -> f64 {
    const EACH: u32 = 32; // so that the clock's own cost does not show
    let emts = Emts::start(count);
    let mut spent = Duration::ZERO;
    settle(50 * count);
    for _ in 0..times {
        settle(count);
        let start = Instant::now();
        for _ in 0..EACH {
            let met = emts
                .rendezvous
                .meet_here(Duration::from_secs(10), || Flow::Continue);
            assert!(met.is_ok_and(|met| met.held == count), "all held");
        }
        spent += start.elapsed();
    }
    emts.end();
    1000.0 * micros(spent, times * EACH)
}

/// Wakes all, has each run after the one before it, lets all go, and waits until all have gone.
fn baton(count: u32, times: u32) -> f64 {
    // A word for each thread, one for the baton, one for the start, one for the release, one for home.
    let words: Arc<Vec<Futex>> = Arc::new((0..count + 3).map(|_| Futex::new(0)).collect());
    let (gate, release, home) = (words.len() - 3, words.len() - 2, words.len() - 1);
    let (came, gone) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let tell = |words: &[Futex], word: usize| {
        words[word].fetch_add(1);
        words[word].key().wake_all(ANYONE);
    };
    let wait = |words: &[Futex], word: usize, seen: u32| {
        while words[word].load() == seen {
            words[word].wait(seen, ANYONE, None);
        }
    };
    let threads = Threads::start(count, {
        let (words, came, gone, over) = (words.clone(), came.clone(), gone.clone(), over.clone());
        move |v| {
            let own = v as usize;
            for round in 0.. {
                wait(&words, gate, round);
                if over.load(SeqCst) {
                    break;
                }
                if came.fetch_add(1, SeqCst) + 1 == count {
                    tell(&words, 0);
                }
                wait(&words, own, round);
                if v + 1 == count {
                    tell(&words, release);
                } else {
                    tell(&words, own + 1);
                }
                wait(&words, release, round);
                if gone.fetch_add(1, SeqCst) + 1 == count {
                    tell(&words, home);
                }
            }
        }
    });
    let mut spent = Duration::ZERO;
    for round in 0..times {
        settle(count);
        came.store(0, SeqCst);
        gone.store(0, SeqCst);
        let start = Instant::now();
        tell(&words, gate);
        wait(&words, home, round);
        spent += start.elapsed();
    }
    over.store(true, SeqCst);
    tell(&words, gate);
    threads.join();
    micros(spent, times)
}

/// The limit: wake each, until the last one runs.
fn futex_wakes(count: u32, times: u32) -> f64 {
    let words: Arc<Vec<Futex>> = Arc::new((0..=count).map(|_| Futex::new(0)).collect());
    let (ran, over) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let home = words.len() - 1;
    let threads = Threads::start(count, {
        let (words, ran, over) = (words.clone(), ran.clone(), over.clone());
        move |v| {
            let own = &words[v as usize];
            let mut seen = 0;
            loop {
                while own.load() == seen {
                    own.wait(seen, ANYONE, None);
                }
                seen = seen.wrapping_add(1);
                if over.load(SeqCst) {
                    break;
                }
                if ran.fetch_add(1, SeqCst) + 1 == count {
                    words[home].fetch_add(1);
                    words[home].key().wake_one();
                }
            }
        }
    });
    let wake = || {
        for word in &words[..home] {
            word.fetch_add(1);
            word.key().wake_one();
        }
    };
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        settle(count);
        ran.store(0, SeqCst);
        let seen = words[home].load();
        let start = Instant::now();
        wake();
        while words[home].load() == seen {
            words[home].wait(seen, ANYONE, None);
        }
        spent += start.elapsed();
    }
    over.store(true, SeqCst);
    wake();
    threads.join();
    micros(spent, times)
}

/// Two passages of a barrier at which the threads wait already.
fn barrier(count: u32, times: u32) -> f64 {
    let barrier = Arc::new(Barrier::new(count as usize + 1));
    let over = Arc::new(AtomicBool::new(false));
    let threads = Threads::start(count, {
        let (barrier, over) = (barrier.clone(), over.clone());
        move |_| {
            loop {
                barrier.wait();
                if over.load(SeqCst) {
                    break;
                }
                barrier.wait();
            }
        }
    });
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        settle(count);
        let start = Instant::now();
        barrier.wait();
        barrier.wait();
        spent += start.elapsed();
    }
    over.store(true, SeqCst);
    barrier.wait();
    threads.join();
    micros(spent, times)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    Hold,
    Run,
    Release,
    End,
}

/// A channel pair per vCPU: tell each what to do and hear each, step by step.
fn channel_pause(steps: &[Tell], count: u32, times: u32) -> f64 {
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for v in 0..count {
        let (tell, told) = mpsc::channel();
        let (say, hear) = mpsc::channel();
        let run = move || {
            while let Ok(Tell::Hold | Tell::Run | Tell::Release) = told.recv() {
                say.send(()).expect("the initiator listens");
            }
        };
        threads.push(
            Builder::new()
                .name(format!("vcpu-{v}"))
                .spawn(run)
                .expect("a thread"),
        );
        handles.push((tell, hear));
    }
    let both = |what: Tell| {
        for (tell, _) in &handles {
            tell.send(what).expect("it runs");
        }
        for (_, hear) in &handles {
            hear.recv().expect("it runs");
        }
    };
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        settle(count);
        let start = Instant::now();
        steps.iter().for_each(|step| both(*step));
        spent += start.elapsed();
    }
    for (tell, _) in &handles {
        tell.send(Tell::End).expect("it runs");
    }
    Threads(threads).join();
    micros(spent, times)
}

/// Held and let go, each EMT with a callback of its own and none, one after the other and together.
fn main() {
    const FEW: &str =
        "two wake-ups in a row decide, the same for both; the rest is the machine's noise";
    const THREE: &str =
        "an EMT wakes three times, from its bell, to run and to leave; at the barrier twice";
    const LOCKS: &str = "four passages of the board's lock come before the first EMT";
    let rounds = Rounds::from_args();
    let times = rounds.batch(100);
    for count in [1, 4, 16, 64] {
        let many = count >= 16;
        let held = format!("rendezvous of {count}, until all run");
        let limit = (
            "limit: a futex wake each",
            if many { 1.5 } else { 1.1 },
            FEW,
        );
        let mut stop = || ours(How::together(), count, times).0;
        row(rounds, (&held, "us"), &mut stop, limit, &mut || {
            futex_wakes(count, times)
        });

        let both = format!("rendezvous of {count}, each runs and goes on");
        let mut whole = || ours(How::together(), count, times).1;
        let peer = ("channel pause", if many { 0.75 } else { 1.05 }, THREE);
        row(rounds, (&both, "us"), &mut whole, peer, &mut || {
            channel_pause(&[Tell::Hold, Tell::Run, Tell::Release], count, times)
        });
        let peer = ("std Barrier, twice", 1.05, THREE);
        row(rounds, (&both, "us"), &mut whole, peer, &mut || {
            barrier(count, times)
        });

        let once = format!("rendezvous of {count}, once, all asleep");
        let mut whole = || ours(How::once(), count, times).1;
        let peer = ("channel pause", if many { 0.5 } else { 1.05 }, FEW);
        row(rounds, (&once, "us"), &mut whole, peer, &mut || {
            channel_pause(&[Tell::Hold, Tell::Release], count, times)
        });

        let here = format!("rendezvous of {count}, here, all asleep");
        let budget = ("budget: 80 ns, 20 ns an EMT", 1.0, LOCKS);
        let mut whole = || ours_here(count, times);
        row(rounds, (&here, "ns"), &mut whole, budget, &mut || {
            80.0 + 20.0 * f64::from(count)
        });

        let orders = [
            ("ascending", How::from(How::ascending())),
            ("one by one", How::from(How::one_by_one())),
        ];
        for (name, how) in orders {
            let ordered = format!("rendezvous of {count}, {name}");
            let mut whole = || ours(how, count, times).1;
            let peer = (
                "baton: a futex each",
                1.2,
                "the turn is handed on under a lock, the baton without",
            );
            row(rounds, (&ordered, "us"), &mut whole, peer, &mut || {
                baton(count, times)
            });
        }
    }
}
