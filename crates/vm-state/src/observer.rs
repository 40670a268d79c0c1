// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Observers: told of every change, in order, without a lock.
//!
//! Invariant: one thread at a time tells. A thread that makes a change while another is telling
//! leaves it in the queue and goes on; the teller cannot leave while there is something in it. The queue is bounded: an observer that never returns costs later changes, which are
//! counted, and not memory.

use crate::{
    Cause, State, StateCell,
    sync::{self, AtomicBool, AtomicU8, Ordering},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

/// How many changes may wait to be told: half a MiB, and far more than are made while the teller's
/// thread is not scheduled.
const QUEUE_LIMIT: usize = 16_384;

/// One change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its number, counted from 1 for each VM; a gap means changes that were not told.
    pub sequence: u64,
    /// The state left.
    pub old: State,
    /// The state entered.
    pub new: State,
    /// Why.
    pub cause: Cause,
}

/// Whether the calling thread is inside an observer, of any VM. A blocking operation must then be
/// refused: it would wait for what only the observer's return makes possible.
pub fn in_observer() -> bool {
    sync::inside_observer()
}

/// Runs `call` under the rules of an observer: a blocking operation called inside is refused, and a
/// panic ends here. For others who tell of a VM what is no change of state; false if it panicked.
pub fn as_observer(call: impl FnOnce()) -> bool {
    sync::as_observer(call)
}

/// An observer's registration; ends when dropped, which is fine inside the observer itself.
///
/// After the drop no call begins; one that another thread has begun may still be running.
#[must_use = "an observer whose subscription is dropped is not called"]
pub struct Subscription {
    cell: Weak<StateCell>,
    observer: Arc<Observer>,
}

impl Subscription {
    pub(crate) fn new(cell: &Arc<StateCell>, observer: Arc<Observer>) -> Self {
        Self {
            cell: Arc::downgrade(cell),
            observer,
        }
    }

    /// The number of the last change before it: the first it is told of has the next.
    pub fn since(&self) -> u64 {
        self.observer.since
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Observers::tell`.
        self.observer.gone.store(true, Ordering::Release);
        if let Some(cell) = self.cell.upgrade() {
            cell.lock().delivery.remove(&self.observer);
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("since", &self.since())
            .finish_non_exhaustive()
    }
}

pub(crate) struct Observer {
    since: u64,
    gone: AtomicBool,
    call: Box<dyn Fn(&Change) + Send + Sync>,
}

/// The observers at one moment, in the order of their registration.
#[derive(Default)]
pub(crate) struct Observers(Arc<Vec<Arc<Observer>>>);

impl Observers {
    /// Calls each that was there before `change` and is still wanted; gives how many panicked.
    pub(crate) fn tell(&self, change: &Change) -> u64 {
        let (mut next, mut panics) = (0, 0);
        while next < self.0.len() {
            let all_returned = sync::as_observer(|| {
                while let Some(observer) = self.0.get(next) {
                    next += 1;
                    // Acquire pairs with the Release in `Subscription::drop`.
                    if observer.since < change.sequence && !observer.gone.load(Ordering::Acquire) {
                        (observer.call)(change);
                    }
                }
            });
            if let (false, Some(last)) = (all_returned, self.0.get(next.saturating_sub(1))) {
                // Release as in `Subscription::drop`.
                last.gone.store(true, Ordering::Release);
                panics += 1;
            }
        }
        panics
    }
}

/// Who may tell: one thread at a time, from [`enter`](Self::enter) until [`leave`](Self::leave)
/// succeeds. All but `leave` are called with the cell's lock held, so only holders of the lock take
/// it away from idle.
#[derive(Default)]
pub(crate) struct Gate {
    word: AtomicU8,
}

const IDLE: u8 = 0;
/// A thread is telling, and the queue is empty.
const TELLING: u8 = 1;
/// A thread is telling, and there may be something in the queue.
const MORE: u8 = 2;

impl Gate {
    /// Whether the caller tells now: nobody does, so the queue is empty as well.
    pub(crate) fn enter(&self) -> bool {
        // Acquire pairs with the Release in `leave`: observers are told after those before.
        let idle = self.word.load(Ordering::Acquire) == IDLE;
        if idle {
            // Relaxed: who looks next holds the lock, or is this thread.
            self.word.store(TELLING, Ordering::Relaxed);
        }
        idle
    }

    /// After something was queued: whether the caller has to tell it, because the thread that did
    /// has left meanwhile.
    pub(crate) fn hand_over(&self) -> bool {
        // Acquire as in `enter`. What is in the queue is ordered by the lock, not by this word.
        self.word.swap(MORE, Ordering::Acquire) == IDLE
    }

    /// After the thread that tells has taken something from the queue and `left` remain.
    pub(crate) fn took(&self, left: usize) {
        let word = if left > 0 { MORE } else { TELLING };
        // Relaxed as in `enter`.
        self.word.store(word, Ordering::Relaxed);
    }

    /// Whether the thread that tells is done; if not, something has been queued. Takes no lock.
    pub(crate) fn leave(&self) -> bool {
        // Release pairs with the Acquire in `enter` and `hand_over`; a failure reads the queue
        // under the lock, so Relaxed is enough for it.
        let left = self
            .word
            .compare_exchange(TELLING, IDLE, Ordering::Release, Ordering::Relaxed);
        left.is_ok()
    }
}

/// Who is to be told, and of what; guarded by the cell's lock.
#[derive(Default)]
pub(crate) struct Delivery {
    observers: Arc<Vec<Arc<Observer>>>,
    queue: VecDeque<Change>,
    pub(crate) panics: u64,
    pub(crate) untold: u64,
}

impl Delivery {
    pub(crate) fn add(
        &mut self,
        since: u64,
        call: Box<dyn Fn(&Change) + Send + Sync>,
    ) -> Arc<Observer> {
        let observer = Arc::new(Observer {
            since,
            gone: AtomicBool::new(false),
            call,
        });
        // A teller may hold the list: it keeps the old one.
        Arc::make_mut(&mut self.observers).push(Arc::clone(&observer));
        observer
    }

    fn remove(&mut self, observer: &Arc<Observer>) {
        Arc::make_mut(&mut self.observers).retain(|other| !Arc::ptr_eq(other, observer));
    }

    /// Those to tell of a change made now; `None` if there are none.
    pub(crate) fn observers(&self) -> Option<Observers> {
        (!self.observers.is_empty()).then(|| Observers(Arc::clone(&self.observers)))
    }

    /// Queues a change for the thread that tells; false if there is no room and it stays untold.
    pub(crate) fn push(&mut self, change: Change) -> bool {
        let room = self.queue.len() < QUEUE_LIMIT;
        if room {
            self.queue.push_back(change);
        } else {
            self.untold += 1;
        }
        room
    }

    /// The next change to tell, and how many are left.
    pub(crate) fn take(&mut self) -> Option<(Change, usize)> {
        let change = self.queue.pop_front()?;
        Some((change, self.queue.len()))
    }
}
