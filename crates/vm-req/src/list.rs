// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One queue of requests: pushing is lock-free, taking is in order.
//!
//! Producers push onto a stack. Consumers, under a short lock, move the whole stack behind what was
//! sorted earlier, oldest first, and take from the front. A caller that gives up takes its own node
//! out under the same lock, so that a node on its stack never stays linked. No op runs, no thread
//! is woken and nothing is freed under the lock.

// UNSAFETY: nodes are linked by address; their callers keep them alive until they are out.
#![expect(
    unsafe_code,
    reason = "an intrusive list of nodes on their callers' stacks"
)]

use std::ptr::NonNull;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::node::{Node, release};
use crate::sync::{AtomicPtr, AtomicUsize, Mutex, MutexGuard};

/// One queue.
#[derive(Debug)]
pub(crate) struct List {
    /// The newest node not yet sorted.
    stack: AtomicPtr<Node>,
    /// How many are sorted; written under the lock.
    backlog: AtomicUsize,
    sorted: Mutex<Sorted>,
}

/// Nodes in order, oldest first.
#[derive(Debug)]
struct Sorted {
    first: Option<NonNull<Node>>,
    last: Option<NonNull<Node>>,
    len: usize,
}

// SAFETY: the nodes are Sync, and owning the list means owning the right to unlink them.
unsafe impl Send for Sorted {}

impl List {
    pub(crate) fn new() -> Self {
        Self {
            stack: AtomicPtr::new(std::ptr::null_mut()),
            backlog: AtomicUsize::new(0),
            sorted: Mutex::new(Sorted {
                first: None,
                last: None,
                len: 0,
            }),
        }
    }

    /// Whether anything is queued.
    pub(crate) fn is_empty(&self) -> bool {
        // Acquire: pairs with the stores under the lock. Who sees the stack emptied by `sort` sees
        // the backlog that was raised before that.
        self.stack.load(SeqCst).is_null() && self.backlog.load(Acquire) == 0
    }

    /// Queues a node. `true`: the stack was empty. `false`: whoever pushed onto the empty stack rings
    /// if it has not, and whoever empties it next finds this node too.
    ///
    /// # Safety
    /// The node is live and in no list, and stays live until it is done, released or unlinked.
    pub(crate) unsafe fn push(&self, node: NonNull<Node>) -> bool {
        // SAFETY: live by this function's condition.
        let link = unsafe { &node.as_ref().next };
        let mut head = self.stack.load(SeqCst);
        loop {
            // Relaxed: published by the compare-exchange below, read after the swap in `sort`.
            link.store(head, Relaxed);
            match self
                .stack
                .compare_exchange_weak(head, node.as_ptr(), SeqCst, SeqCst)
            {
                Ok(below) => return below.is_null(),
                Err(now) => head = now,
            }
        }
    }

    /// Takes the oldest request that was not cancelled, for [`finish`](crate::node::finish).
    ///
    /// The cheap look before is for consumers whom the bell ordered after the push.
    pub(crate) fn take(&self) -> Option<NonNull<Node>> {
        if self.is_empty() {
            None
        } else {
            self.take_for_certain()
        }
    }

    /// [`take`](Self::take) for those whom no bell orders: the swap of the stack does. A push before
    /// it is found here; a push after it sees what the caller wrote before (that the queues closed).
    pub(crate) fn take_for_certain(&self) -> Option<NonNull<Node>> {
        loop {
            let node = {
                let mut sorted = self.lock();
                if sorted.first.is_none() {
                    self.sort(&mut sorted);
                }
                let node = sorted.pop();
                self.backlog.store(sorted.len, Release); // pairs with is_empty
                node?
            };
            // SAFETY: out of the list and not done or released yet, hence live.
            if unsafe { node.as_ref() }.take() {
                return Some(node);
            }
            // SAFETY: take answered no, and the node is in no list.
            unsafe { release(node) };
        }
    }

    /// Takes a cancelled node out. `false`: a consumer has it in hand and will release it.
    pub(crate) fn unlink(&self, node: NonNull<Node>) -> bool {
        let mut sorted = self.lock();
        self.sort(&mut sorted);
        let found = sorted.remove(node);
        self.backlog.store(sorted.len, Release); // pairs with is_empty
        found
    }

    fn lock(&self) -> MutexGuard<'_, Sorted> {
        self.sorted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the stack behind what is sorted. The backlog is raised first, so that `is_empty` never
    /// says so while nodes are between the two.
    fn sort(&self, sorted: &mut Sorted) {
        self.backlog.store(sorted.len + 1, Release); // pairs with is_empty
        let mut newest = NonNull::new(self.stack.swap(std::ptr::null_mut(), SeqCst));
        // Reverse: the stack runs from newest to oldest.
        let mut chain: Option<NonNull<Node>> = None;
        let tail = newest;
        let mut count = 0;
        while let Some(node) = newest {
            // SAFETY: linked, hence live; the lock makes this the only thread that walks.
            let next = unsafe { &node.as_ref().next };
            // Relaxed: the swap above read what `push` published.
            let older = if chain.is_none() {
                // The only one, most of the time, and next to be claimed. One exchange fetches its
                // line for writing; a load would fetch it for reading first, a second trip.
                next.swap(std::ptr::null_mut(), Relaxed)
            } else {
                let older = next.load(Relaxed);
                next.store(as_link(chain), Relaxed);
                older
            };
            newest = NonNull::new(older);
            chain = Some(node);
            count += 1;
        }
        if let Some(oldest) = chain {
            match sorted.last {
                // SAFETY: linked, hence live; under the lock.
                Some(last) => unsafe { last.as_ref() }
                    .next
                    .store(oldest.as_ptr(), Relaxed),
                None => sorted.first = Some(oldest),
            }
            sorted.last = tail;
            sorted.len += count;
        }
    }
}

impl Sorted {
    fn pop(&mut self) -> Option<NonNull<Node>> {
        let node = self.first?;
        // SAFETY: linked, hence live; under the lock, which also orders this Relaxed load.
        self.first = NonNull::new(unsafe { node.as_ref() }.next.load(Relaxed));
        if self.first.is_none() {
            self.last = None;
        }
        self.len -= 1;
        Some(node)
    }

    fn remove(&mut self, node: NonNull<Node>) -> bool {
        let mut before: Option<NonNull<Node>> = None;
        let mut at = self.first;
        while let Some(here) = at {
            // SAFETY: linked, hence live; under the lock, which also orders these Relaxed accesses.
            let next = NonNull::new(unsafe { here.as_ref() }.next.load(Relaxed));
            if here == node {
                match before {
                    // SAFETY: as above.
                    Some(before) => unsafe { before.as_ref() }
                        .next
                        .store(as_link(next), Relaxed),
                    None => self.first = next,
                }
                if next.is_none() {
                    self.last = before;
                }
                self.len -= 1;
                return true;
            }
            before = at;
            at = next;
        }
        false
    }
}

fn as_link(node: Option<NonNull<Node>>) -> *mut Node {
    node.map_or(std::ptr::null_mut(), NonNull::as_ptr)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::node::{Job, Waiter};

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Push,
        Take,
        /// Cancel the request at this place in the queue, if there is one.
        Cancel(usize),
        /// Cancel one and leave it linked, as its caller does between the two steps.
        CancelOnly(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => Just(Act::Push),
            3 => Just(Act::Take),
            2 => (0..6_usize).prop_map(Act::Cancel),
            1 => (0..6_usize).prop_map(Act::CancelOnly),
        ];
        proptest::collection::vec(act, 0..60)
    }

    proptest! {
        #[test]
        fn requests_are_taken_in_order_whatever_is_withdrawn(acts in acts()) {
            let list = List::new();
            let jobs: Vec<_> =
                acts.iter().map(|_| Job::call(Waiter::Thread, |_: &mut ()| ())).collect();
            let mut model = VecDeque::new();
            for (n, act) in acts.iter().enumerate() {
                match *act {
                    Act::Push => {
                        // SAFETY: the jobs outlive the list's use of them.
                        let _empty = unsafe { list.push(jobs[n].link()) };
                        model.push_back((n, true));
                    }
                    Act::Take => {
                        model.retain(|&(_, queued)| queued);
                        let expected = model.pop_front().map(|(n, _)| jobs[n].link());
                        prop_assert_eq!(list.take(), expected);
                    }
                    Act::Cancel(at) => {
                        if let Some((n, queued)) = model.remove(at) {
                            prop_assert_eq!(jobs[n].node().cancel(), queued);
                            prop_assert!(list.unlink(jobs[n].link()) || !queued);
                        }
                    }
                    Act::CancelOnly(at) => {
                        if let Some((n, queued)) = model.get_mut(at) {
                            prop_assert_eq!(jobs[*n].node().cancel(), *queued);
                            *queued = false;
                        }
                    }
                }
                let rest = model.iter().filter(|(_, queued)| *queued).count();
                prop_assert!(rest == 0 || !list.is_empty());
            }
            // Whatever is cancelled and linked is handed back by the next look.
            model.retain(|&(_, queued)| queued);
            for (n, _) in model {
                prop_assert_eq!(list.take(), Some(jobs[n].link()));
            }
            prop_assert_eq!(list.take(), None);
            prop_assert!(list.is_empty());
        }
    }
}
