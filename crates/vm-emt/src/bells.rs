// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The doorbells of one VM: anybody's half.
//!
//! Invariant: whoever changes PENDING from clear to set while the word says IN_GUEST or PARKED owes
//! the kick or the wake; every other ring owes nothing, because the EMT looks before it sleeps. While
//! the word says HELD too, the wake is owed by whoever clears that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::bell::{Bell, EnrollError};
use crate::futex::{ANYONE, Futex};
use crate::kick::Kick;
use crate::sync::ME;
use crate::word::{DUE, HELD, IN_GUEST, LEAVING, LIVE, PARKED, PENDING, Word};

/// Tells the VMs of one process apart; 0 is never given out.
static NEXT_VM: AtomicU64 = AtomicU64::new(1);

/// The doorbells of one VM, one per vCPU, shared as `Arc<Bells>`.
///
/// A source publishes what it has first and rings second; the EMT clears its bell first and looks at
/// every source second. Then nothing is lost, whatever the EMT was doing.
#[derive(Debug)]
pub struct Bells {
    vm: u64,
    slots: Box<[Slot]>,
    /// Counts enrolments and departures; threads that wait for one sleep on it.
    roll: Futex,
    watchers: Mutex<Vec<Weak<dyn Departure>>>,
    #[cfg(any(loom, shuttle))]
    fault: crate::Fault,
}

/// Told when an EMT leaves, to let go of whoever waits for it.
pub trait Departure: Send + Sync + std::fmt::Debug {
    /// EMT `v` is no longer enrolled. Called on the thread that was it; must not block.
    fn left(&self, v: u32);
}

/// The system calls that were made for one EMT since its VM began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Times it slept (returned from the kernel's wait, for whatever reason).
    pub parks: u64,
    /// Times a ring had to kick it out of the guest.
    pub kicks: u64,
    /// Times a ring had to wake it.
    pub wakes: u64,
}

/// One EMT's word and what belongs to it. The part written by ringers has a line of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Slot {
    pub(crate) word: Futex,
    pub(crate) exit: AtomicU64,
    pub(crate) rip: AtomicU64,
    pub(crate) parks: AtomicU64,
    ringers: Ringers,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Ringers {
    kicks: AtomicU64,
    wakes: AtomicU64,
    kick: Mutex<Option<Arc<dyn Kick>>>,
}

impl Slot {
    fn new() -> Self {
        Self {
            word: Futex::new(0),
            exit: AtomicU64::new(0),
            rip: AtomicU64::new(0),
            parks: AtomicU64::new(0),
            ringers: Ringers::default(),
        }
    }

    pub(crate) fn set_kick(&self, kick: Option<Arc<dyn Kick>>) {
        let old = {
            let mut place = self
                .ringers
                .kick
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, kick)
        };
        drop(old); // outside the lock: its Drop is the backend's code
    }

    fn kick(&self) {
        let kick = self
            .ringers
            .kick
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // None: the EMT was in the guest when it was rung and has left the VM since.
        if let Some(kick) = kick {
            count(&self.ringers.kicks);
            kick.kick();
        }
    }
}

/// Counters are for reading by people and tests; they order nothing, hence Relaxed throughout.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Bells {
    /// The bells of a VM with `count` vCPUs, nobody enrolled.
    #[must_use]
    pub fn new(count: u32) -> Arc<Self> {
        Arc::new(Self {
            vm: NEXT_VM.fetch_add(1, Ordering::Relaxed), // only unique, orders nothing
            slots: (0..count).map(|_| Slot::new()).collect(),
            roll: Futex::new(0),
            watchers: Mutex::default(),
            #[cfg(any(loom, shuttle))]
            fault: crate::Fault::None,
        })
    }

    /// Bells with one known mistake in them, which the models must catch.
    #[cfg(any(loom, shuttle))]
    #[doc(hidden)]
    #[must_use]
    pub fn broken(count: u32, fault: crate::Fault) -> Arc<Self> {
        let mut bells = Arc::into_inner(Self::new(count)).expect("just made");
        bells.fault = fault;
        Arc::new(bells)
    }

    /// The mistake these bells were made with.
    #[cfg(any(loom, shuttle))]
    #[doc(hidden)]
    #[must_use]
    pub fn fault(&self) -> crate::Fault {
        self.fault
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Draws EMT `v`'s attention: kicks it, wakes it, or nothing, as its word says. Publish first.
    /// A vCPU that does not exist is ignored.
    pub fn ring(&self, v: u32) {
        self.ring_and_look(v);
    }

    /// [`ring`](Self::ring), and the word as it was just before.
    ///
    /// If the answer is not [`live`](Word::live), nobody was enrolled as EMT `v` at the ring. If it
    /// is live, then what was published before the ring is visible to that EMT when it attends, and
    /// to every [`Departure`] told later that it left.
    pub fn ring_and_look(&self, v: u32) -> Word {
        let Some(slot) = self.slot(v) else {
            return Word::default();
        };
        let old = slot.word.fetch_or(PENDING);
        if old & PENDING == 0 {
            if old & IN_GUEST != 0 {
                slot.kick();
            } else if old & (PARKED | HELD) == PARKED {
                #[cfg(any(loom, shuttle))]
                if self.fault == crate::Fault::RingWithoutWake {
                    return Word(old);
                }
                count(&slot.ringers.wakes);
                slot.word.key().wake_one();
            }
        }
        Word(old)
    }

    /// Rings every EMT.
    pub fn ring_all(&self) {
        for v in 0..self.count() {
            self.ring(v);
        }
    }

    /// Holds EMT `v` in its sleep, if it is parked and not rung: until [`let_go`](Self::let_go) its
    /// [`park`](Bell::park) does not return. `false`: it is not held, because it is awake, in the
    /// guest, waking, not enrolled, or held by somebody else; ring it and have it come.
    ///
    /// What the EMT did before it parked happens before this returns `true`, and what is done while
    /// it is held happens before its `park` returns: whoever holds it may do what the EMT itself
    /// must not see half done.
    ///
    /// # Thread
    /// Any; one compare-and-swap, no system call. Whoever holds an EMT must let it go, soon, and must
    /// not wait for what only that EMT can do.
    ///
    /// # States
    /// Parked -> parked and held.
    #[must_use = "an EMT that is held must be let go; one that is not must be rung"]
    pub fn hold(&self, v: u32) -> bool {
        let Some(slot) = self.slot(v) else {
            return false;
        };
        #[cfg(any(loom, shuttle))]
        if self.fault == crate::Fault::HoldWithoutCheck {
            let parked = slot.word.load() == LIVE | PARKED;
            if parked {
                slot.word.fetch_or(HELD);
            }
            return parked;
        }
        let parked = LIVE | PARKED;
        slot.word.compare_exchange(parked, parked | HELD).is_ok()
    }

    /// Lets EMT `v` go, which the caller [held](Self::hold). Wakes it if it was rung meanwhile or its
    /// deadline passed; otherwise it sleeps on and never knows.
    ///
    /// # Thread
    /// Any.
    ///
    /// # States
    /// Parked and held -> parked.
    pub fn let_go(&self, v: u32) {
        let Some(slot) = self.slot(v) else { return };
        let old = slot.word.fetch_and(!HELD);
        if old & HELD != 0 && old & (PENDING | DUE) != 0 {
            #[cfg(any(loom, shuttle))]
            if self.fault == crate::Fault::LetGoWithoutWake {
                return;
            }
            count(&slot.ringers.wakes);
            slot.word.key().wake_one();
        }
    }

    /// A snapshot of EMT `v`'s word; "not enrolled" if there is no such vCPU.
    #[must_use]
    pub fn word(&self, v: u32) -> Word {
        self.slot(v)
            .map_or_else(Word::default, |slot| Word(slot.word.load()))
    }

    /// [`word`](Self::word), ordered like a ring but without its effect: if the answer is not live,
    /// then an EMT that enrolls later sees what was published before this.
    #[must_use]
    pub fn word_for_certain(&self, v: u32) -> Word {
        self.slot(v)
            .map_or_else(Word::default, |slot| Word(slot.word.fetch_or(0)))
    }

    /// Whether a thread is enrolled as EMT `v`.
    #[must_use]
    pub fn live(&self, v: u32) -> bool {
        self.word(v).live()
    }

    /// The last exit EMT `v` noted: the embedder's exit code, and the guest's RIP (0: unknown).
    /// The two may come from neighbouring exits when read while it runs.
    #[must_use]
    pub fn last_exit(&self, v: u32) -> (u32, u64) {
        self.slot(v).map_or((0, 0), |slot| {
            let code = slot.exit.load(Ordering::Relaxed); // diagnosis: orders nothing
            (
                u32::try_from(code).unwrap_or(0),
                slot.rip.load(Ordering::Relaxed),
            )
        })
    }

    /// What was done for EMT `v` so far.
    #[must_use]
    pub fn counts(&self, v: u32) -> Counts {
        self.slot(v).map_or_else(Counts::default, |slot| Counts {
            parks: slot.parks.load(Ordering::Relaxed), // counters: they order nothing
            kicks: slot.ringers.kicks.load(Ordering::Relaxed),
            wakes: slot.ringers.wakes.load(Ordering::Relaxed),
        })
    }

    /// Makes the calling thread EMT `v`, until the [`Bell`] is dropped. The new EMT's bell is rung,
    /// so that its first act is to look at every source.
    ///
    /// # Errors
    /// No such vCPU; somebody is EMT `v` already; the calling thread is an EMT already.
    ///
    /// # Thread
    /// The EMT's own.
    pub fn enroll(self: &Arc<Self>, v: u32) -> Result<Bell, EnrollError> {
        let slot = self.slot(v).ok_or(EnrollError::NoSuchVcpu {
            vcpu: v,
            count: self.count(),
        })?;
        if crate::on_any_emt() {
            return Err(EnrollError::ThreadIsEmt { vcpu: v });
        }
        let mut old = slot.word.load();
        loop {
            if old & (LIVE | LEAVING) != 0 {
                return Err(EnrollError::AlreadyEnrolled { vcpu: v });
            }
            match slot.word.compare_exchange(old, LIVE | PENDING) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        ME.with(|me| me.set((self.vm, v)));
        self.tell_roll();
        Ok(Bell::new(Arc::clone(self), v))
    }

    /// `Some(v)` iff the calling thread is EMT `v` of this VM.
    #[must_use]
    pub fn current(&self) -> Option<u32> {
        let (vm, v) = ME.with(std::cell::Cell::get);
        (vm == self.vm).then_some(v)
    }

    /// Waits until a thread is enrolled as EMT `v`. `false` if `deadline` passed first.
    ///
    /// # Thread
    /// Any but an EMT of this VM; blocks.
    #[must_use]
    pub fn wait_live(&self, v: u32, deadline: Option<Instant>) -> bool {
        self.wait_roll(deadline, || self.live(v))
    }

    /// Waits until nobody is enrolled as EMT `v` and everybody was told. `false` if `deadline` passed first.
    ///
    /// # Thread
    /// Any but EMT `v`; blocks.
    #[must_use]
    pub fn wait_left(&self, v: u32, deadline: Option<Instant>) -> bool {
        self.wait_roll(deadline, || self.word(v).0 & (LIVE | LEAVING) == 0)
    }

    /// Has `watcher` told of every EMT that leaves, as long as it lives.
    pub fn watch(&self, watcher: Weak<dyn Departure>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|old| old.strong_count() != 0);
        watchers.push(watcher);
    }

    pub(crate) fn slot(&self, v: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(v).ok()?)
    }

    /// The departing half of [`enroll`](Self::enroll): after this a ring finds nobody.
    pub(crate) fn leave(&self, v: u32, slot: &Slot) {
        ME.with(|me| me.set((0, 0)));
        slot.set_kick(None);
        let mut old = slot.word.load();
        while let Err(now) = slot.word.compare_exchange(old, LEAVING) {
            old = now; // a ring came between; it saw LIVE, and the watchers see what it published
        }
        let watchers = self
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for watcher in watchers {
            if let Some(watcher) = watcher.upgrade() {
                watcher.left(v);
            }
        }
        slot.word.fetch_and(0);
        self.tell_roll();
    }

    fn tell_roll(&self) {
        self.roll.fetch_add(1);
        self.roll.key().wake_all(ANYONE);
    }

    fn wait_roll(&self, deadline: Option<Instant>, done: impl Fn() -> bool) -> bool {
        loop {
            let roll = self.roll.load();
            if done() {
                return true;
            }
            if !self.roll.wait(roll, ANYONE, deadline) {
                return done();
            }
        }
    }
}
