// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which timers are armed, until when, and whether what fires is still wanted. No thread, no clock.
//!
//! Invariant: a slot has a deadline if and only if `order` has it, under that deadline, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Action, TimerState};

/// Deadline, when it was armed among all, and which timer.
type Place = (u64, u64, u64);

#[derive(Default)]
pub(super) struct Queue {
    slots: BTreeMap<u64, Slot>,
    order: BTreeSet<Place>,
    /// The next timer's number.
    next: u64,
    /// How often anything was armed or cancelled: each time has a number of its own.
    changes: u64,
    /// The timer whose callback runs.
    pub(super) firing: Option<u64>,
    /// Nothing fires any more.
    pub(super) ended: bool,
}

struct Slot {
    name: String,
    action: Arc<Action>,
    armed: Option<Place>,
    /// The change that armed or cancelled it last.
    change: u64,
}

/// A timer that is due, taken off the queue.
pub(super) struct Due {
    pub(super) id: u64,
    pub(super) change: u64,
    pub(super) deadline_ns: u64,
    pub(super) action: Arc<Action>,
}

impl Queue {
    /// A new timer, not armed.
    pub(super) fn add(&mut self, name: &str, action: Arc<Action>) -> u64 {
        let id = self.next;
        self.next += 1;
        let slot = Slot {
            name: name.to_owned(),
            action,
            armed: None,
            change: 0,
        };
        self.slots.insert(id, slot);
        id
    }

    /// Removes a timer; gives what it would have done, to be dropped without the lock.
    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Action>> {
        self.change(id, None);
        self.slots.remove(&id).map(|slot| slot.action)
    }

    /// Arms it until `deadline_ns`, or not at all; whether it was armed.
    pub(super) fn change(&mut self, id: u64, deadline_ns: Option<u64>) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        self.changes += 1;
        slot.change = self.changes;
        let was = slot.armed.take();
        if let Some(place) = was {
            self.order.remove(&place);
        }
        if let Some(deadline_ns) = deadline_ns {
            let place = (deadline_ns, self.changes, id);
            slot.armed = Some(place);
            self.order.insert(place);
        }
        was.is_some()
    }

    /// Whether nobody armed, cancelled or removed the timer since that change.
    pub(super) fn is_current(&self, id: u64, change: u64) -> bool {
        self.slots
            .get(&id)
            .is_some_and(|slot| slot.change == change)
    }

    /// The nearest deadline.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.order.first().map(|&(deadline_ns, ..)| deadline_ns)
    }

    /// When the timer is to fire.
    pub(super) fn deadline(&self, id: u64) -> Option<u64> {
        let armed = self.slots.get(&id)?.armed;
        armed.map(|(deadline_ns, ..)| deadline_ns)
    }

    /// Takes the first timer that is due at `now_ns`; of the same deadline, the one armed first.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<Due> {
        let place = *self.order.first()?;
        let (deadline_ns, _, id) = place;
        if deadline_ns > now_ns {
            return None;
        }
        self.order.remove(&place);
        let slot = self.slots.get_mut(&id)?;
        slot.armed = None;
        Some(Due {
            id,
            change: slot.change,
            deadline_ns,
            action: Arc::clone(&slot.action),
        })
    }

    pub(super) fn name(&self, id: u64) -> &str {
        self.slots
            .get(&id)
            .map_or("a timer that is gone", |slot| &slot.name)
    }

    pub(super) fn list(&self) -> Vec<TimerState> {
        let state = |slot: &Slot| TimerState {
            name: slot.name.clone(),
            deadline_ns: slot.armed.map(|(deadline_ns, ..)| deadline_ns),
        };
        self.slots.values().map(state).collect()
    }
}
