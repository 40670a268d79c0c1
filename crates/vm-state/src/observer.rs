// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Observers: told of every change, in order, without a lock.
//!
//! Invariant: one thread at a time tells. A thread that makes a change while another is telling
//! leaves it in the queue and goes on; the teller looks at the queue again, under the lock, before
//! it stops. The queue is bounded: an observer that never returns costs later changes, which are
//! counted, and not memory.

use crate::{Cause, State, StateCell, sync};
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
        self.observer.gone.store(true, sync::Ordering::Release);
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
    gone: sync::AtomicBool,
    call: Box<dyn Fn(&Change) + Send + Sync>,
}

/// The observers at one moment, in the order of their registration.
pub(crate) struct Observers(Arc<Vec<Arc<Observer>>>);

impl Observers {
    /// Calls each that was there before `change` and is still wanted; gives how many panicked.
    pub(crate) fn tell(&self, change: &Change) -> u64 {
        let mut panics = 0;
        for observer in self
            .0
            .iter()
            .filter(|observer| observer.since < change.sequence)
        {
            // Acquire pairs with the Release in `Subscription::drop`.
            if observer.gone.load(sync::Ordering::Acquire) {
                continue;
            }
            if !sync::as_observer(|| (observer.call)(change)) {
                // Release as in `Subscription::drop`.
                observer.gone.store(true, sync::Ordering::Release);
                panics += 1;
            }
        }
        panics
    }
}

/// Who is to be told, and of what; guarded by the cell's lock.
#[derive(Default)]
pub(crate) struct Delivery {
    observers: Arc<Vec<Arc<Observer>>>,
    queue: VecDeque<Change>,
    busy: bool,
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
            gone: sync::AtomicBool::new(false),
            call,
        });
        // A teller may hold the list: it keeps the old one.
        Arc::make_mut(&mut self.observers).push(Arc::clone(&observer));
        observer
    }

    fn remove(&mut self, observer: &Arc<Observer>) {
        Arc::make_mut(&mut self.observers).retain(|other| !Arc::ptr_eq(other, observer));
    }

    pub(crate) fn push(&mut self, change: Change) {
        if self.observers.is_empty() {
            return;
        }
        if self.queue.len() < QUEUE_LIMIT {
            self.queue.push_back(change);
        } else {
            self.untold += 1;
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next change to tell and whom; `None`, and no longer busy, if there is none.
    pub(crate) fn take(&mut self) -> Option<(Change, Observers)> {
        let change = self.queue.pop_front();
        self.busy = change.is_some();
        Some((change?, Observers(Arc::clone(&self.observers))))
    }
}
