// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One request: the closure, its reply and the word both sides agree on.
//!
//! A [`Job`] lives on the caller's stack (a call) or in an `Arc` (a post). Its first field is the
//! [`Node`] that lists link. The node's word decides who may touch what:
//!
//! | word | op | reply | memory belongs to |
//! |---|---|---|---|
//! | 0 (queued) | nobody | nobody | a list |
//! | RUNNING | the EMT | the EMT | the EMT |
//! | DONE | gone | the caller | the caller |
//! | CANCELLED | the caller, once unlinked | nobody | whoever unlinks it; RELEASED hands it back |

// UNSAFETY: a call allocates nothing, so its request is linked by address while its caller waits.
#![expect(unsafe_code, reason = "requests on the caller's stack, erased by type")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use vm_emt::{ANYONE, Bells, Futex};

use crate::error::CallError;
use crate::sync::AtomicPtr;

/// An EMT took it: no cancelling any more.
const RUNNING: u32 = 1;
/// The reply is in place and nobody but the caller touches the job any more.
const DONE: u32 = 2;
/// The caller gave up before anybody took it.
const CANCELLED: u32 = 4;
/// A cancelled node is out of every list and hand.
const RELEASED: u32 = 8;
/// The caller sleeps on the word.
const SLEEPER: u32 = 16;

/// Who waits for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A thread that sleeps on the node's word, if anybody.
    Thread,
    /// An EMT, which sleeps on its bell.
    Emt(u32),
}

/// What to do with a taken request.
pub(crate) enum Verdict {
    /// Run it on this EMT context.
    Run(NonNull<()>),
    /// Answer it without running it.
    Refuse(CallError),
}

/// The part of a request that lists and consumers see.
#[derive(Debug)]
pub(crate) struct Node {
    /// The next older node (in the stack) or newer one (in the sorted list). Belongs to the list.
    pub(crate) next: AtomicPtr<Node>,
    word: Futex,
    waiter: Waiter,
    settle: unsafe fn(NonNull<Node>, Verdict),
    /// Gives back the list's share of a job in an `Arc`.
    unref: Option<unsafe fn(NonNull<Node>)>,
}

/// A request with its closure and its reply.
#[repr(C)]
pub(crate) struct Job<F, T> {
    node: Node,
    op: UnsafeCell<Option<F>>,
    reply: UnsafeCell<Option<Result<T, CallError>>>,
}

// SAFETY: `op` and `reply` are each touched by one side at a time, as the word says; what crosses
// threads is F and T themselves.
unsafe impl<F: Send, T: Send> Sync for Job<F, T> {}

impl<F, T> std::fmt::Debug for Job<F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl<F, T> Job<F, T> {
    /// A call's job. The list must be fed only to consumers whose context is a `C`.
    pub(crate) fn on_stack<C>(waiter: Waiter, op: F) -> Self
    where
        F: FnOnce(&mut C) -> T,
    {
        Self::new::<C>(waiter, None, op)
    }

    /// A post's job.
    pub(crate) fn shared<C>(op: F) -> Arc<Self>
    where
        F: FnOnce(&mut C) -> T,
    {
        Arc::new(Self::new::<C>(Waiter::Thread, Some(unref::<F, T>), op))
    }

    fn new<C>(waiter: Waiter, unref: Option<unsafe fn(NonNull<Node>)>, op: F) -> Self
    where
        F: FnOnce(&mut C) -> T,
    {
        Self {
            node: Node {
                next: AtomicPtr::new(std::ptr::null_mut()),
                word: Futex::new(0),
                waiter,
                settle: settle::<C, F, T>,
                unref,
            },
            op: UnsafeCell::new(Some(op)),
            reply: UnsafeCell::new(None),
        }
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The address lists link. It reaches the whole job.
    pub(crate) fn link(&self) -> NonNull<Node> {
        NonNull::from(self).cast()
    }

    /// The list's share of a job in an `Arc`, given back by its consumer.
    pub(crate) fn link_shared(self: &Arc<Self>) -> NonNull<Node> {
        let raw = Arc::into_raw(Arc::clone(self)).cast_mut();
        NonNull::new(raw).expect("an Arc is not null").cast()
    }

    /// The reply, once.
    pub(crate) fn take_reply(&self) -> Option<Result<T, CallError>> {
        if !self.node.done() {
            return None;
        }
        // SAFETY: DONE: the consumer is finished with the reply, and the one caller (a call's frame,
        // or a ticket borrowed mutably) is here.
        unsafe { (*self.reply.get()).take() }
    }
}

/// Runs or refuses the op and puts the reply in its place.
///
/// # Safety
/// `node` is the first field of a `Job<F, T>` that the caller took, and a `Run` verdict holds a
/// `C` that is the caller's alone for the time of the call.
unsafe fn settle<C, F, T>(node: NonNull<Node>, verdict: Verdict)
where
    F: FnOnce(&mut C) -> T,
{
    // SAFETY: the node is the first field of a live Job (repr(C)); only shared access is made of it.
    let job = unsafe { node.cast::<Job<F, T>>().as_ref() };
    // SAFETY: taken (RUNNING): nobody else touches the op.
    let op = unsafe { (*job.op.get()).take() };
    let reply = match (verdict, op) {
        (Verdict::Run(me), Some(op)) => {
            let mut me = me.cast::<C>();
            // SAFETY: the caller lends its context for this call.
            let me = unsafe { me.as_mut() };
            guarded(|| op(me))
        }
        (Verdict::Refuse(why), op) => {
            // The op's own Drop may panic too; it must not take the consumer with it.
            guarded(|| drop(op)).and(Err(why))
        }
        (Verdict::Run(_), None) => Err(CallError::Taken),
    };
    // SAFETY: taken, and not yet DONE: nobody else touches the reply.
    unsafe { *job.reply.get() = Some(reply) };
}

/// Runs `op`; a panic becomes an error.
pub(crate) fn guarded<T>(op: impl FnOnce() -> T) -> Result<T, CallError> {
    catch_unwind(AssertUnwindSafe(op)).map_err(|payload| {
        // A payload may panic when dropped; such a one is leaked rather than let loose on the EMT.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
        CallError::Panicked
    })
}

/// # Safety
/// `node` came from `Job::<F, T>::link_shared`, once.
unsafe fn unref<F, T>(node: NonNull<Node>) {
    // SAFETY: the counterpart of the Arc::into_raw in link_shared.
    let job = unsafe { Arc::from_raw(node.cast::<Job<F, T>>().as_ptr().cast_const()) };
    // A detached ticket's result is dropped here, on the EMT; its panic is nobody's.
    let _dropped = guarded(|| drop(job));
}

impl Node {
    /// Whether the reply is in place.
    pub(crate) fn done(&self) -> bool {
        self.word.load() & DONE != 0
    }

    /// Takes a queued request for running or refusing. `false`: its caller cancelled it.
    pub(crate) fn take(&self) -> bool {
        self.word.fetch_or(RUNNING) & CANCELLED == 0
    }

    /// Gives a request up unless somebody took it.
    pub(crate) fn cancel(&self) -> bool {
        let mut old = self.word.load();
        while old & (RUNNING | DONE) == 0 {
            match self.word.compare_exchange(old, old | CANCELLED) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Sleeps until the reply is in place; `false` if `deadline` passed first.
    pub(crate) fn wait_done(&self, deadline: Option<std::time::Instant>) -> bool {
        self.sleep_until(DONE, deadline)
    }

    /// Sleeps until a cancelled node is out of everybody's hands. Short: the holder is between
    /// finding it in a list and looking at its word.
    pub(crate) fn wait_released(&self) {
        self.sleep_until(RELEASED, None);
    }

    fn sleep_until(&self, bit: u32, deadline: Option<std::time::Instant>) -> bool {
        loop {
            let word = self.word.load();
            if word & bit != 0 {
                return true;
            }
            if word & SLEEPER == 0 && self.word.compare_exchange(word, word | SLEEPER).is_err() {
                continue;
            }
            if !self.word.wait(word | SLEEPER, ANYONE, deadline) {
                return self.word.load() & bit != 0;
            }
        }
    }
}

/// Hands a cancelled node back to its caller, after which it may be gone.
///
/// # Safety
/// The node is live, out of every list, and [`Node::take`] answered `false` to the caller.
pub(crate) unsafe fn release(node: NonNull<Node>) {
    // SAFETY: live until RELEASED is set.
    let word = unsafe { &node.as_ref().word };
    let key = word.key();
    if word.fetch_or(RELEASED) & SLEEPER != 0 {
        key.wake_all(ANYONE);
    }
}

/// Settles a taken request and wakes its caller, after which the node may be gone.
///
/// # Safety
/// The node is live, out of every list, and [`Node::take`] answered `true` to the caller. A `Run`
/// verdict holds the context type the job was made for, the caller's alone for the time of the call.
pub(crate) unsafe fn finish(node: NonNull<Node>, verdict: Verdict, bells: &Bells) {
    let (settle, unref, waiter) = {
        // SAFETY: live until DONE is set, which is below.
        let node = unsafe { node.as_ref() };
        (node.settle, node.unref, node.waiter)
    };
    // SAFETY: settle was made for this very job; the rest is this function's own condition.
    unsafe { settle(node, verdict) };
    // SAFETY: still live: DONE is set below.
    let word = unsafe { &node.as_ref().word };
    let key = word.key();
    let old = word.fetch_or(DONE);
    if old & SLEEPER != 0 {
        key.wake_all(ANYONE);
    }
    if let Waiter::Emt(v) = waiter {
        bells.ring(v);
    }
    if let Some(unref) = unref {
        // SAFETY: the list's share was given out once per link and this is its one end.
        unsafe { unref(node) };
    }
}
