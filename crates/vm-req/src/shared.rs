// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The queues of one VM without the type of the EMT context: lists, who is rung, who is refused.
//!
//! Invariant: a request that was pushed is taken exactly once, by the EMT it is for, or by whoever
//! finds that this EMT left or that the queues are closed. The pusher looks at both after its push;
//! the leaver and the closer look at the lists after they left or closed. So one of them sees it.

// UNSAFETY: requests are linked by address and carry their context type erased.
#![expect(unsafe_code, reason = "hands linked requests to the EMT's context")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use vm_emt::{Bells, Departure, Phase, Word};

use crate::error::CallError;
use crate::list::List;
use crate::node::{Answer, Job, Node, Verdict, finish};
use crate::sync::AtomicBool;

/// How long a caller spins for an EMT that is awake before it sleeps, in PAUSE instructions: a few
/// microseconds, which is more than an awake EMT needs and less than a sleep costs.
const SPINS: u32 = 256;

/// How long to spin on this machine: with one CPU the EMT cannot be running while we are. Models do
/// not spin.
fn spins() -> u32 {
    if cfg!(any(loom, shuttle))
        || std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1)
    {
        0
    } else {
        SPINS
    }
}

/// How often the spinner looks whether the EMT is still awake: each look costs the EMT a cache miss.
const LOOK_EVERY: u32 = 32;

/// Counters since the VM began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that ran, panicked ones included.
    pub processed: u64,
    /// Calls withdrawn at their limit before they ran.
    pub cancelled: u64,
    /// Requests answered without running, because their EMT had left or the queues were closed.
    pub refused: u64,
}

/// When an EMT serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    Ordinary,
    /// Also while the EMT waits for something else.
    Priority,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bells: Arc<Bells>,
    lanes: Box<[Lane]>,
    any: List,
    closed: AtomicBool,
    cancelled: AtomicU64,
    refused: AtomicU64,
    spins: u32,
}

/// One vCPU's queues.
#[derive(Debug)]
#[repr(align(128))]
struct Lane {
    priority: List,
    ordinary: List,
    processed: AtomicU64,
}

impl Shared {
    pub(crate) fn new(bells: Arc<Bells>) -> Arc<Self> {
        let lane = |_| Lane {
            priority: List::new(),
            ordinary: List::new(),
            processed: AtomicU64::new(0),
        };
        let shared = Arc::new(Self {
            lanes: (0..bells.count()).map(lane).collect(),
            any: List::new(),
            closed: AtomicBool::new(false),
            cancelled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            spins: spins(),
            bells,
        });
        let watcher = Arc::downgrade(&shared);
        shared.bells.watch(watcher);
        shared
    }

    /// The list of EMT `to`.
    ///
    /// # Errors
    /// There is no such vCPU, or the queues are closed.
    pub(crate) fn list(&self, to: u32, urgency: Urgency) -> Result<&List, CallError> {
        let lane = self.lane(to).ok_or(CallError::NoSuchVcpu {
            vcpu: to,
            count: self.bells.count(),
        })?;
        if self.closed.load(SeqCst) {
            return Err(CallError::Killed);
        }
        Ok(match urgency {
            Urgency::Ordinary => &lane.ordinary,
            Urgency::Priority => &lane.priority,
        })
    }

    /// Queues `job` for EMT `to`, has `wait` wait for it, and takes it back if it has not begun by
    /// then. `wait` answers nothing: what happened is in the job. `None`: withdrawn.
    ///
    /// # Safety
    /// The job was made for the context type that these queues' EMTs process with.
    pub(crate) unsafe fn run_scoped<F, T>(
        &self,
        list: &List,
        to: u32,
        job: &Job<F, T>,
        wait: impl FnOnce(Word),
    ) -> Option<Result<T, CallError>> {
        let node = job.link();
        {
            // Also on unwinding out of a kick or of what the waiting EMT serves: the job's memory is
            // about to go away.
            let _withdraw = Withdraw { list, job };
            #[cfg(any(loom, shuttle))]
            if self.bells.fault() == vm_emt::Fault::PublishAfterRing {
                self.bells.ring(to);
            }
            // SAFETY: the job lives until the guard has it done, released or unlinked.
            let _empty = unsafe { list.push(node) };
            wait(self.announce(to));
        }
        let reply = job.answer().take();
        if reply.is_none() {
            self.cancelled.fetch_add(1, Relaxed); // a counter: orders nothing
        }
        reply
    }

    /// Queues a post's job for EMT `to`, or for any (`None`). Answers whom a late answer is blamed
    /// on.
    ///
    /// # Safety
    /// As [`run_scoped`](Self::run_scoped); and `node` is the consumer's share of a post's job.
    pub(crate) unsafe fn post(
        &self,
        to: Option<u32>,
        urgency: Urgency,
        node: NonNull<Node>,
    ) -> u32 {
        let list = match to {
            Some(v) => self.list(v, urgency),
            None if self.closed() => Err(CallError::Killed),
            None => Ok(&self.any),
        };
        match list {
            Ok(list) => {
                // SAFETY: the consumer's share keeps the job alive.
                let empty = unsafe { list.push(node) };
                match to {
                    Some(v) => {
                        // Requests on the stack are always somebody's to look at: their first
                        // pusher's, until it has rung; then the bell's, until it is cleared; then
                        // the EMT's, which empties the stack or rings itself. Whoever leaves or
                        // closes empties it too, and a push after that finds it empty. So only the
                        // first pusher rings; a producer that is ahead of the EMT leaves its word's
                        // cache line alone. A call rings in any case: it must not wait for a pusher
                        // that was descheduled between its push and its ring.
                        if empty {
                            self.announce(v);
                        }
                        v
                    }
                    None => self.announce_any(),
                }
            }
            Err(why) => {
                self.refused.fetch_add(1, Relaxed); // a counter: orders nothing
                // SAFETY: in no list, and nobody cancels a post.
                unsafe { finish(node, Verdict::Refuse(why), &self.bells) };
                to.unwrap_or(0)
            }
        }
    }

    /// Rings for a pushed request and refuses it if nobody will look.
    fn announce(&self, to: u32) -> Word {
        let seen = {
            #[cfg(any(loom, shuttle))]
            if self.bells.fault() == vm_emt::Fault::PublishAfterRing {
                self.bells.word(to)
            } else {
                self.bells.ring_and_look(to)
            }
            #[cfg(not(any(loom, shuttle)))]
            self.bells.ring_and_look(to)
        };
        if !seen.live() || self.closed.load(SeqCst) {
            self.refuse_lane(to);
        }
        seen
    }

    /// Rings one EMT for a request that any may run: a parked one, the lowest first; else the
    /// caller, if it is an EMT; else one in the guest; else all, which are awake, so that the first
    /// to look has it.
    fn announce_any(&self) -> u32 {
        let rung = self.ring_in(Phase::Parked).or_else(|| {
            let me = self.bells.current()?;
            self.bells.ring(me);
            Some(me)
        });
        let rung = rung.or_else(|| self.ring_in(Phase::InGuest)).or_else(|| {
            let live = |v: &u32| self.bells.ring_and_look(*v).live();
            (0..self.bells.count())
                .filter(live)
                .fold(None, |first, v| first.or(Some(v)))
        });
        if rung.is_none() || self.closed.load(SeqCst) {
            self.refuse_any();
        }
        rung.unwrap_or(0)
    }

    fn ring_in(&self, phase: Phase) -> Option<u32> {
        (0..self.bells.count()).find(|&v| {
            let word = self.bells.word(v);
            word.live() && word.phase() == phase && self.bells.ring_and_look(v).live()
        })
    }

    /// The next request for EMT `v`: priority, then its own, then anybody's.
    pub(crate) fn next(&self, v: u32, only: Option<Urgency>) -> Option<NonNull<Node>> {
        let lane = self.lane(v)?;
        let urgent = lane.priority.take();
        if urgent.is_some() || only == Some(Urgency::Priority) {
            return urgent;
        }
        lane.ordinary.take().or_else(|| self.any.take())
    }

    /// Runs a taken request on `me`.
    ///
    /// # Safety
    /// `node` came from [`next`](Self::next), and C is the type these queues' jobs are made for.
    pub(crate) unsafe fn run<C>(&self, v: u32, node: NonNull<Node>, me: &mut C) {
        if let Some(lane) = self.lane(v) {
            // Relaxed and no read-modify-write: a counter with one writer, this EMT.
            let so_far = lane.processed.load(Relaxed);
            lane.processed.store(so_far + 1, Relaxed);
        }
        // SAFETY: taken; the context is lent for the call.
        unsafe { finish(node, Verdict::Run(NonNull::from(me).cast()), &self.bells) };
    }

    /// Whether anything is queued that EMT `v` could run.
    pub(crate) fn pending(&self, v: u32) -> bool {
        self.lane(v)
            .is_some_and(|lane| !lane.priority.is_empty() || !lane.ordinary.is_empty())
            || !self.any.is_empty()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
        self.refuse_all();
    }

    pub(crate) fn refuse_all(&self) {
        for v in 0..self.bells.count() {
            self.refuse_lane(v);
        }
        self.refuse_any();
    }

    pub(crate) fn closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    fn refuse_lane(&self, v: u32) {
        if let Some(lane) = self.lane(v) {
            self.refuse(&lane.priority, v);
            self.refuse(&lane.ordinary, v);
        }
    }

    fn refuse_any(&self) {
        self.refuse(&self.any, 0);
    }

    fn refuse(&self, list: &List, vcpu: u32) {
        while let Some(node) = list.take_for_certain() {
            let why = if self.closed() {
                CallError::Killed
            } else {
                CallError::NotLive { vcpu }
            };
            self.refused.fetch_add(1, Relaxed); // a counter: orders nothing
            // SAFETY: just taken.
            unsafe { finish(node, Verdict::Refuse(why), &self.bells) };
        }
    }

    /// Sleeps until there is an answer from EMT `to`, on a thread that is no EMT of this VM. Spins
    /// first, but only while that EMT says that it is awake, as it did when `seen`.
    pub(crate) fn sleep<T>(
        &self,
        answer: &Answer<T>,
        to: u32,
        seen: Word,
        deadline: Option<Instant>,
    ) {
        if seen.awake() {
            for turn in 1..=self.spins {
                if answer.done() {
                    return;
                }
                if turn % LOOK_EVERY == 0 && !self.bells.word(to).awake() {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        answer.wait(deadline);
    }

    pub(crate) fn late(&self, vcpu: u32) -> CallError {
        let (exit, rip) = self.bells.last_exit(vcpu);
        CallError::Timeout {
            vcpu,
            word: self.bells.word(vcpu),
            exit,
            rip,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            processed: self
                .lanes
                .iter()
                .map(|lane| lane.processed.load(Relaxed))
                .sum(),
            cancelled: self.cancelled.load(Relaxed), // counters: they order nothing
            refused: self.refused.load(Relaxed),
        }
    }

    fn lane(&self, v: u32) -> Option<&Lane> {
        self.lanes.get(usize::try_from(v).ok()?)
    }
}

impl Departure for Shared {
    fn left(&self, v: u32) {
        self.refuse_lane(v);
        if !self.any.is_empty() {
            self.announce_any();
        }
    }
}

/// Takes a call's node back, or waits for what has begun.
struct Withdraw<'a, F, T> {
    list: &'a List,
    job: &'a Job<F, T>,
}

impl<F, T> Drop for Withdraw<'_, F, T> {
    fn drop(&mut self) {
        let (node, answer) = (self.job.node(), self.job.answer());
        if answer.done() {
            return;
        }
        if !node.cancel() {
            answer.wait(None);
        } else if !self.list.unlink(self.job.link()) {
            node.wait_released();
        }
    }
}
