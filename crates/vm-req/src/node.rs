// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One request: the closure, its reply and the two words its sides agree on.
//!
//! A [`Job`] lives on the caller's stack (a call) or in a box (a post). It begins with the [`Node`]
//! that lists link. Two words say who may touch what, each on a cache line of its own, so that a
//! caller that polls for its answer does not slow the EMT that claims and runs the request:
//!
//! | claim (calls only) | op | memory belongs to |
//! |---|---|---|
//! | 0 (queued) | nobody | the list |
//! | CLAIMED | the EMT | the EMT, until it answers |
//! | CANCELLED | nobody | whoever unlinks it; RELEASED hands it back |
//!
//! | answer | reply | memory belongs to |
//! |---|---|---|
//! | 0 | the EMT, once it has claimed | as above |
//! | DONE | the caller | the caller; of a post, whoever comes second of DONE and DETACHED |

// UNSAFETY: a call allocates nothing, so its request is linked by address while its caller waits; a
// post is owned by its ticket and its EMT together.
#![expect(unsafe_code, reason = "requests on the caller's stack, erased by type")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::time::Instant;

use vm_emt::{ANYONE, Bells, Futex};

use crate::error::CallError;
use crate::sync::AtomicPtr;

/// An EMT took it: no cancelling any more.
const CLAIMED: u32 = 1;
/// The caller gave up before anybody took it.
const CANCELLED: u32 = 2;
/// A cancelled node is out of every list and hand.
const RELEASED: u32 = 4;
/// The reply is in place.
const DONE: u32 = 8;
/// A post's ticket is gone.
const DETACHED: u32 = 16;
/// Somebody sleeps on the word.
const SLEEPER: u32 = 32;

/// Who waits for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A thread that sleeps on the answer.
    Thread,
    /// An EMT, which sleeps on its bell.
    Emt(u32),
    /// The holder of a ticket, if there still is one.
    Ticket,
    /// Nobody, from the start.
    Nobody,
}

/// What to do with a taken request.
#[derive(Clone, Copy)]
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
    claim: Futex,
    waiter: Waiter,
    settle: unsafe fn(NonNull<Node>, Verdict, &Bells),
}

/// A request with its closure and its reply.
#[repr(C)]
pub(crate) struct Job<F, T> {
    front: Front<F>,
    /// Keeps the two apart. Not an alignment: that would make a post's allocation a slow one.
    _apart: [u8; 64],
    answer: Answer<T>,
}

/// What the EMT reads. First in the job, and the node first in it.
#[repr(C)]
struct Front<F> {
    node: Node,
    op: UnsafeCell<Option<F>>,
}

/// What the caller reads.
pub(crate) struct Answer<T> {
    word: Futex,
    reply: UnsafeCell<Option<Result<T, CallError>>>,
}

/// A request that nobody waits for: no reply, and as small as can be, since producers that are
/// ahead of their EMT fill memory with them. Owned by the list, then by the consumer.
#[repr(C)]
struct Sent<F> {
    node: Node,
    op: F,
}

/// Makes a request that nobody waits for; the node is the consumer's.
pub(crate) fn sent<C, F>(op: F) -> NonNull<Node>
where
    F: FnOnce(&mut C) + Send + 'static,
{
    let node = Node {
        next: AtomicPtr::new(std::ptr::null_mut()),
        claim: Futex::new(0),
        waiter: Waiter::Nobody,
        settle: settle_sent::<C, F>,
    };
    let sent = Box::into_raw(Box::new(Sent { node, op }));
    NonNull::new(sent).expect("a box is not null").cast()
}

/// Runs or drops the op and frees the request.
///
/// # Safety
/// As [`settle`], of a node made by [`sent`].
unsafe fn settle_sent<C, F>(node: NonNull<Node>, verdict: Verdict, _bells: &Bells)
where
    F: FnOnce(&mut C),
{
    // SAFETY: the node begins a Sent (repr(C)) that was a box, and is the caller's alone.
    let sent = *unsafe { Box::from_raw(node.cast::<Sent<F>>().as_ptr()) };
    let Sent { node: _, op } = sent;
    // A panic is nobody's business but the hook's.
    let _ended = match verdict {
        Verdict::Run(me) => {
            let mut me = me.cast::<C>();
            // SAFETY: the caller lends its context for this call.
            let me = unsafe { me.as_mut() };
            guarded(|| op(me))
        }
        Verdict::Refuse(_) => guarded(|| drop(op)),
    };
}

// SAFETY: `op` and `reply` are each touched by one side at a time, as the words say; what crosses
// threads is F and T themselves.
unsafe impl<F: Send, T: Send> Sync for Job<F, T> {}

impl<F, T> Job<F, T> {
    /// A call's job. The list must be fed only to consumers whose context is a `C`.
    pub(crate) fn call<C>(waiter: Waiter, op: F) -> Self
    where
        F: FnOnce(&mut C) -> T,
    {
        Self {
            front: Front {
                node: Node {
                    next: AtomicPtr::new(std::ptr::null_mut()),
                    claim: Futex::new(0),
                    waiter,
                    settle: settle::<C, F, T>,
                },
                op: UnsafeCell::new(Some(op)),
            },
            _apart: [0; 64],
            answer: Answer {
                word: Futex::new(0),
                reply: UnsafeCell::new(None),
            },
        }
    }

    /// A post's job, owned by the ticket and the consumer of the link together.
    pub(crate) fn post<C>(op: F) -> (NonNull<Node>, Shared<T>)
    where
        F: FnOnce(&mut C) -> T + Send + 'static,
        T: Send + 'static,
    {
        let job = Box::into_raw(Box::new(Self::call::<C>(Waiter::Ticket, op)));
        let job = NonNull::new(job).expect("a box is not null");
        (job.cast(), Shared { job })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.front.node
    }

    pub(crate) fn answer(&self) -> &Answer<T> {
        &self.answer
    }

    /// The address lists link. It reaches the whole job.
    pub(crate) fn link(&self) -> NonNull<Node> {
        NonNull::from(self).cast()
    }
}

impl<T> Answer<T> {
    /// Whether the reply is in place.
    pub(crate) fn done(&self) -> bool {
        self.word.load() & DONE != 0
    }

    /// Sleeps until the reply is in place or `deadline` passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        sleep_until(&self.word, DONE, deadline);
    }

    /// The reply, once.
    pub(crate) fn take(&self) -> Option<Result<T, CallError>> {
        if !self.done() {
            return None;
        }
        // SAFETY: DONE: the consumer is finished with the reply, and the one caller (a call's frame,
        // or a ticket borrowed mutably) is here.
        unsafe { (*self.reply.get()).take() }
    }
}

/// A job without the type of its closure.
trait Outcome<T>: Send + Sync {
    fn answer(&self) -> &Answer<T>;
}

impl<F: Send, T: Send> Outcome<T> for Job<F, T> {
    fn answer(&self) -> &Answer<T> {
        &self.answer
    }
}

/// A ticket's share of a job.
pub(crate) struct Shared<T> {
    job: NonNull<dyn Outcome<T>>,
}

// SAFETY: the share is one of two owners of a job that is Send and Sync.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; `&Shared` reaches only the answer, and its reply is taken through `&mut Ticket`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn answer(&self) -> &Answer<T> {
        // SAFETY: the job lives until both shares are given up, and this one is not.
        unsafe { self.job.as_ref() }.answer()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.answer().word.fetch_or(DETACHED) & DONE != 0 {
            // SAFETY: the consumer is done, so this is the last share of what was a box.
            drop(unsafe { Box::from_raw(self.job.as_ptr()) });
        }
    }
}

/// Runs or refuses the op, puts the reply in its place and wakes the caller, after which the job may
/// be gone.
///
/// # Safety
/// `node` begins a live `Job<F, T>` that is out of every list and that the caller [took](Node::take).
/// A `Run` verdict holds a `C` that is the caller's alone for the time of the call.
unsafe fn settle<C, F, T>(node: NonNull<Node>, verdict: Verdict, bells: &Bells)
where
    F: FnOnce(&mut C) -> T,
{
    let job = node.cast::<Job<F, T>>();
    let (waiter, key) = {
        // SAFETY: the node begins a live Job (repr(C)); only shared access is made of it, and none
        // after DONE.
        let job = unsafe { job.as_ref() };
        // SAFETY: taken: nobody else touches the op.
        let op = unsafe { (*job.front.op.get()).take() };
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
        unsafe { *job.answer.reply.get() = Some(reply) };
        (job.front.node.waiter, job.answer.word.key())
    };
    // SAFETY: still live: DONE is set by this very operation.
    let old = unsafe { job.as_ref() }.answer.word.fetch_or(DONE);
    if old & SLEEPER != 0 {
        key.wake_all(ANYONE);
    }
    match waiter {
        Waiter::Thread | Waiter::Nobody => {}
        Waiter::Emt(v) => bells.ring(v),
        Waiter::Ticket if old & DETACHED == 0 => {}
        Waiter::Ticket => {
            // SAFETY: the ticket is gone, so this is the last share of what was a box.
            let job = unsafe { Box::from_raw(job.as_ptr()) };
            // A result nobody wants is dropped here, on the EMT; its panic is nobody's.
            let _dropped = guarded(|| drop(job));
        }
    }
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

impl Node {
    /// Takes a queued request for running or refusing. `false`: its caller cancelled it.
    pub(crate) fn take(&self) -> bool {
        match self.waiter {
            Waiter::Ticket | Waiter::Nobody => true, // nobody cancels a post
            Waiter::Thread | Waiter::Emt(_) => self.claim.fetch_or(CLAIMED) & CANCELLED == 0,
        }
    }

    /// Gives a call up unless somebody took it.
    pub(crate) fn cancel(&self) -> bool {
        self.claim.compare_exchange(0, CANCELLED).is_ok()
    }

    /// Sleeps until a cancelled node is out of everybody's hands. Short: the holder is between
    /// finding it in a list and looking at its word.
    pub(crate) fn wait_released(&self) {
        sleep_until(&self.claim, RELEASED, None);
    }
}

fn sleep_until(futex: &Futex, bit: u32, deadline: Option<Instant>) {
    loop {
        let word = futex.load();
        if word & bit != 0 {
            return;
        }
        if word & SLEEPER == 0 && futex.compare_exchange(word, word | SLEEPER).is_err() {
            continue;
        }
        if !futex.wait(word | SLEEPER, ANYONE, deadline) {
            return; // it is over
        }
    }
}

/// Hands a cancelled node back to its caller, after which it may be gone.
///
/// # Safety
/// The node is live, out of every list, and [`Node::take`] answered `false` to the caller.
pub(crate) unsafe fn release(node: NonNull<Node>) {
    // SAFETY: live until RELEASED is set.
    let claim = unsafe { &node.as_ref().claim };
    let key = claim.key();
    if claim.fetch_or(RELEASED) & SLEEPER != 0 {
        key.wake_all(ANYONE);
    }
}

/// Settles a taken request and wakes its caller, after which the node may be gone.
///
/// # Safety
/// The node is live, out of every list, and [`Node::take`] answered `true` to the caller. A `Run`
/// verdict holds the context type the job was made for, the caller's alone for the time of the call.
pub(crate) unsafe fn finish(node: NonNull<Node>, verdict: Verdict, bells: &Bells) {
    // SAFETY: live until it is settled.
    let settle = unsafe { node.as_ref() }.settle;
    // SAFETY: made for this very job; the rest is this function's own condition.
    unsafe { settle(node, verdict, bells) };
}
