// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The queues as callers and EMTs see them, typed by the EMT context.
//!
//! Why EMTs that call each other cannot deadlock: an EMT that waits in [`Queues::call_from`] serves
//! its priority requests, and a call from an EMT is one. Whatever an EMT is doing on its stack waits
//! only for things that were begun later than itself, so no cycle can close. The exception is a
//! rendezvous, whose EMTs are held and serve nothing: a call from inside one is refused.

// UNSAFETY: jobs are erased by type; this is where their context type is C on both sides.
#![expect(unsafe_code, reason = "pairs each job's context type with the EMT's")]

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_emt::{Bells, Emt, Flow, serve_until};

use crate::error::CallError;
use crate::node::{Job, Waiter, guarded, sent};
use crate::shared::{Shared, Stats, Urgency};
use crate::ticket::Ticket;

/// How many requests one [`Queues::process`] runs before it lets the loop look at the rest of its
/// sources: producers that never stop must not keep a vCPU from a rendezvous, or from its guest.
const BATCH: u32 = 256;

/// The request queues of one VM; `C` is the embedder's EMT context.
pub struct Queues<C> {
    shared: Arc<Shared>,
    context: PhantomData<fn(&mut C)>,
}

/// Where a post goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dest {
    /// To this vCPU's EMT.
    Vcpu(u32),
    /// To whichever EMT has time, the lowest parked one first.
    Any,
}

impl Dest {
    fn vcpu(self) -> Option<u32> {
        match self {
            Self::Vcpu(v) => Some(v),
            Self::Any => None,
        }
    }
}

/// The order of [`Queues::each`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EachOrder {
    /// vCPU 0 first.
    Ascending,
    /// vCPU 0 last.
    Descending,
}

/// What an EMT serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Everything: in the EMT's loop.
    All,
    /// Priority requests and calls from other EMTs: while the EMT waits for something else. Whoever
    /// serves only these rings its own bell when the wait is over ([`serve_until`] does).
    Priority,
}

impl<C: Emt> Queues<C> {
    /// The queues of the VM that `bells` belongs to.
    #[must_use]
    pub fn new(bells: Arc<Bells>) -> Arc<Self> {
        Arc::new(Self {
            shared: Shared::new(bells),
            context: PhantomData,
        })
    }

    /// Runs `op` on EMT `to` and waits for its result. Allocates nothing. If `limit` passes first,
    /// the request is withdrawn if it has not begun, else waited for.
    ///
    /// # Errors
    /// [`CallError`]; after every error but `Panicked`, `op` has not run.
    ///
    /// # Thread
    /// Any but an EMT of this VM, which uses [`call_from`](Self::call_from).
    pub fn call<T: Send>(
        &self,
        to: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut C) -> T + Send,
    ) -> Result<T, CallError> {
        self.call_outside(to, Urgency::Ordinary, limit, op)
    }

    /// [`call`](Self::call), which the EMT also serves while it waits for something else, and before
    /// its other requests. Only for what is harmless there.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_priority<T: Send>(
        &self,
        to: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut C) -> T + Send,
    ) -> Result<T, CallError> {
        self.call_outside(to, Urgency::Priority, limit, op)
    }

    /// Runs `op` on EMT `to` from the EMT `me`: inline if that is its own, else as a priority
    /// request, during which `me` serves what cannot wait.
    ///
    /// # Errors
    /// [`CallError`]; `Deadlock` inside a rendezvous.
    ///
    /// # Panics
    /// If `me` is an EMT of another VM.
    ///
    /// # Thread
    /// The EMT's own.
    #[inline]
    pub fn call_from<T: Send>(
        &self,
        me: &mut C,
        to: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut C) -> T + Send,
    ) -> Result<T, CallError> {
        let id = self.own_id(me);
        if to == id {
            return guarded(|| op(me));
        }
        self.call_other(me, id, to, limit, op)
    }

    /// The part of [`call_from`](Self::call_from) that leaves this thread: apart, so that the other
    /// part is inlined.
    #[inline(never)]
    fn call_other<T: Send>(
        &self,
        me: &mut C,
        id: u32,
        to: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut C) -> T + Send,
    ) -> Result<T, CallError> {
        let list = self.shared.list(to, Urgency::Priority)?;
        if me.bell().in_meeting() {
            return Err(CallError::Deadlock);
        }
        let deadline = deadline(limit);
        let job = Job::call::<C>(Waiter::Emt(id), op);
        let wait = |_| {
            serve_until(me, deadline, |_| job.answer().done());
        };
        // SAFETY: made for C, which is what process runs on.
        let reply = unsafe { self.shared.run_scoped(list, to, &job, wait) };
        reply.unwrap_or_else(|| Err(self.shared.late(to)))
    }

    /// Queues `op` for an EMT and goes on. One allocation. May be called on an EMT, also for itself:
    /// the request then runs later, from its loop.
    pub fn post<T: Send + 'static>(
        &self,
        to: Dest,
        op: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Ticket<T> {
        self.post_as(to, Urgency::Ordinary, op)
    }

    /// [`post`](Self::post) to one EMT, which also serves it while it waits for something else, and
    /// before its other requests. Only for what is harmless there.
    pub fn post_priority<T: Send + 'static>(
        &self,
        to: u32,
        op: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Ticket<T> {
        self.post_as(Dest::Vcpu(to), Urgency::Priority, op)
    }

    /// Queues `op` for an EMT and forgets it: a [`post`](Self::post) whose ticket nobody wants, for
    /// less. What becomes of it nobody hears: if its EMT leaves, or the queues are closed, or there is
    /// no such vCPU, it is dropped without running, on whichever thread finds that out.
    pub fn send(&self, to: Dest, op: impl FnOnce(&mut C) + Send + 'static) {
        let node = sent::<C, _>(op);
        // SAFETY: made for C, which is what process runs on; the node is the consumer's.
        unsafe { self.shared.post(to.vcpu(), Urgency::Ordinary, node) };
    }

    /// Runs `op` on every EMT, one after the other, all within one `limit`. One result per vCPU, by
    /// its number; one that fails does not stop the others.
    ///
    /// # Thread
    /// Any but an EMT of this VM, which uses [`each_from`](Self::each_from).
    pub fn each<T: Send>(
        &self,
        order: EachOrder,
        limit: Option<Duration>,
        op: impl Fn(&mut C) -> T + Send + Sync,
    ) -> Vec<Result<T, CallError>> {
        let deadline = deadline(limit);
        self.in_order(order, |v| self.call(v, left(deadline), &op))
    }

    /// [`each`](Self::each) from an EMT; its own turn runs inline.
    ///
    /// # Panics
    /// If `me` is an EMT of another VM.
    ///
    /// # Thread
    /// The EMT's own.
    pub fn each_from<T: Send>(
        &self,
        me: &mut C,
        order: EachOrder,
        limit: Option<Duration>,
        op: impl Fn(&mut C) -> T + Send + Sync,
    ) -> Vec<Result<T, CallError>> {
        let deadline = deadline(limit);
        self.in_order(order, |v| self.call_from(me, v, left(deadline), &op))
    }

    /// Runs what is queued for this EMT: priority requests first, looked for again before each
    /// request; then its own, then anybody's, each in the order in which they came. Ends early when
    /// a request asks the loop for something; the rest stays queued and the bell is rung.
    ///
    /// # Panics
    /// If `me` is an EMT of another VM. A panic of a request does not come through.
    ///
    /// # Thread
    /// The EMT's own. May be called again from inside a request.
    pub fn process(&self, me: &mut C, which: Which) -> Flow {
        let id = self.own_id(me);
        let only = match which {
            Which::All => None,
            Which::Priority => Some(Urgency::Priority),
        };
        let mut flow = me.bell().take_kept();
        for _ in 0..BATCH {
            if self.shared.closed() {
                self.shared.refuse_all();
            }
            if flow > Flow::Continue {
                break;
            }
            let Some(node) = self.shared.next(id, only) else {
                return flow;
            };
            // SAFETY: just taken from queues whose jobs are made for C.
            unsafe { self.shared.run(id, node, me) };
            flow = flow.max(me.take_flow()).max(me.bell().take_kept());
        }
        if self.shared.pending(id) {
            self.shared.bells.ring(id);
        }
        flow
    }

    /// Whether anything is queued that EMT `v` could run.
    #[must_use]
    pub fn pending(&self, v: u32) -> bool {
        self.shared.pending(v)
    }

    /// Ends all queueing: what is queued and every later request answers
    /// [`Killed`](CallError::Killed), once. A request that runs already ends as it would.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Counters since the VM began.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn post_as<T: Send + 'static>(
        &self,
        to: Dest,
        urgency: Urgency,
        op: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> Ticket<T> {
        let (node, job) = Job::post::<C>(op);
        // SAFETY: made for C, which is what process runs on; the node is the consumer's share.
        let rung = unsafe { self.shared.post(to.vcpu(), urgency, node) };
        Ticket::new(Arc::clone(&self.shared), rung, job)
    }

    fn call_outside<T: Send>(
        &self,
        to: u32,
        urgency: Urgency,
        limit: Option<Duration>,
        op: impl FnOnce(&mut C) -> T + Send,
    ) -> Result<T, CallError> {
        if self.shared.bells.current().is_some() {
            return Err(CallError::OnEmt);
        }
        let list = self.shared.list(to, urgency)?;
        let deadline = deadline(limit);
        let job = Job::call::<C>(Waiter::Thread, op);
        let wait = |seen| self.shared.sleep(job.answer(), to, seen, deadline);
        // SAFETY: made for C, which is what process runs on.
        let reply = unsafe { self.shared.run_scoped(list, to, &job, wait) };
        reply.unwrap_or_else(|| Err(self.shared.late(to)))
    }

    fn in_order<T>(
        &self,
        order: EachOrder,
        mut call: impl FnMut(u32) -> Result<T, CallError>,
    ) -> Vec<Result<T, CallError>> {
        let all = 0..self.shared.bells.count();
        match order {
            EachOrder::Ascending => all.map(call).collect(),
            EachOrder::Descending => {
                let mut results: Vec<_> = all.rev().map(&mut call).collect();
                results.reverse();
                results
            }
        }
    }

    /// The number of `me`, which is proof that this thread is that EMT: a `Bell` cannot leave its
    /// thread, and a thread has at most one.
    #[inline]
    fn own_id(&self, me: &C) -> u32 {
        let bell = me.bell();
        assert!(
            Arc::ptr_eq(bell.bells(), &self.shared.bells),
            "the EMT context belongs to another VM than these queues"
        );
        bell.id()
    }
}

impl<C> std::fmt::Debug for Queues<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("shared", &self.shared)
            .finish()
    }
}

fn deadline(limit: Option<Duration>) -> Option<Instant> {
    // A limit beyond the clock's range is none.
    limit.and_then(|time| Instant::now().checked_add(time))
}

fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|at| at.saturating_duration_since(Instant::now()))
}
