// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An EMT's half of its doorbell: enter, park, clear.
//!
//! Invariant: only the EMT's own thread sets or clears IN_GUEST, PARKED, DUE and LIVE or clears
//! PENDING; everybody else only sets PENDING, and sets or clears HELD while it says PARKED. So the
//! step into the guest or into sleep fails for one reason, a ring; and the step out of sleep for
//! two, a ring and a hold.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::bells::{Bells, Slot, count};
use crate::flow::Flow;
use crate::futex::ANYONE;
use crate::kick::Kick;
use crate::word::{DUE, HELD, IN_GUEST, LIVE, PARKED, PENDING};

/// Why a thread could not become an EMT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrollError {
    /// The VM has fewer vCPUs.
    #[error("there is no vCPU {vcpu}; this VM has {count}, numbered from 0")]
    NoSuchVcpu {
        /// The vCPU asked for.
        vcpu: u32,
        /// How many there are.
        count: u32,
    },
    /// Another thread is this EMT; wait until it has left.
    #[error("vCPU {vcpu} has an EMT already; wait until that thread has left")]
    AlreadyEnrolled {
        /// The vCPU asked for.
        vcpu: u32,
    },
    /// A thread is the EMT of one vCPU at most.
    #[error("this thread is an EMT already; enroll vCPU {vcpu} on a thread of its own")]
    ThreadIsEmt {
        /// The vCPU asked for.
        vcpu: u32,
    },
}

/// Why [`Bell::park`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Woken {
    /// The bell was rung: attend.
    Rung,
    /// The deadline passed and nobody rang.
    Deadline,
}

/// The EMT's half of its doorbell. Stays on the EMT's thread; dropping it ends the enrolment and
/// wakes whoever waits for that.
#[derive(Debug)]
pub struct Bell {
    bells: Arc<Bells>,
    id: u32,
    kept: Cell<Flow>,
    meetings: Cell<u32>,
    kick: Cell<Installed>,
    /// Neither Send nor Sync: the thread-local that says who we are belongs to this thread.
    stays: PhantomData<*const ()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installed {
    No,
    Yes,
}

/// Proof that the word says IN_GUEST. Dropping it says the EMT is back.
#[derive(Debug)]
#[must_use = "the EMT counts as being in the guest until this is dropped"]
pub struct InGuest<'a> {
    bell: &'a Bell,
}

impl Bell {
    pub(crate) fn new(bells: Arc<Bells>, id: u32) -> Self {
        Self {
            bells,
            id,
            kept: Cell::new(Flow::Continue),
            meetings: Cell::new(0),
            kick: Cell::new(Installed::No),
            stays: PhantomData,
        }
    }

    /// The vCPU's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The bells of the VM.
    #[must_use]
    pub fn bells(&self) -> &Arc<Bells> {
        &self.bells
    }

    /// Says how to make this vCPU leave the guest. Once, before the first [`enter`](Self::enter).
    pub fn install_kick(&self, kick: Arc<dyn Kick>) {
        self.slot().set_kick(Some(kick));
        self.kick.set(Installed::Yes);
    }

    /// Says that the EMT goes into the guest, unless its bell is rung: then `None`, and it has to
    /// attend first. From here a ring kicks.
    ///
    /// # Panics
    /// If no kick was installed: a ring could not get the vCPU out of the guest.
    ///
    /// # States
    /// Idle -> in guest, if not rung.
    pub fn enter(&self) -> Option<InGuest<'_>> {
        assert!(
            self.kick.get() == Installed::Yes,
            "install_kick comes before the first enter"
        );
        let entered = self.slot().word.compare_exchange(LIVE, LIVE | IN_GUEST);
        entered.ok().map(|_| InGuest { bell: self })
    }

    /// Sleeps until the bell is rung or `deadline` passes; at once if it is rung already. The ring
    /// stays pending: attend. Serves the suspended wait and the halted wait alike.
    ///
    /// If it is [held](Bells::hold) there, it stays until it is let go, whatever its deadline.
    ///
    /// # States
    /// Idle -> parked -> idle.
    pub fn park(&self, deadline: Option<Instant>) -> Woken {
        let slot = self.slot();
        #[cfg(any(loom, shuttle))]
        let refused = if self.bells.fault() == crate::Fault::ParkWithoutRecheck {
            slot.word.fetch_and(!PENDING);
            slot.word.fetch_or(PARKED);
            false
        } else {
            slot.word.compare_exchange(LIVE, LIVE | PARKED).is_err()
        };
        #[cfg(not(any(loom, shuttle)))]
        let refused = slot.word.compare_exchange(LIVE, LIVE | PARKED).is_err();
        if refused {
            return Woken::Rung;
        }
        self.sleep(deadline)
    }

    /// From parked to idle: once there is a reason, and not while the EMT is held.
    fn sleep(&self, mut deadline: Option<Instant>) -> Woken {
        let slot = self.slot();
        let mut late = false;
        loop {
            let word = slot.word.load();
            let rung = word & PENDING != 0;
            if (rung || late) && !self.holds_back(word) {
                let idle = word & !(PARKED | DUE | HELD);
                // It fails if a ring or a hold came between: the word decides, not the clock.
                match (slot.word.compare_exchange(word, idle), rung) {
                    (Ok(_), true) => return Woken::Rung,
                    (Ok(_), false) => return Woken::Deadline,
                    (Err(_), _) => {}
                }
            } else if late && word & (PENDING | DUE) == 0 {
                // Held: whoever lets go learns that it owes a wake. Either way, look again.
                let _changed = slot.word.compare_exchange(word, word | DUE);
            } else {
                if !slot.word.wait(word, ANYONE, deadline) {
                    (late, deadline) = (true, None);
                }
                count(&slot.parks);
            }
        }
    }

    fn holds_back(&self, word: u32) -> bool {
        #[cfg(any(loom, shuttle))]
        if self.bells.fault() == crate::Fault::LeaveWhileHeld {
            return false;
        }
        word & HELD != 0
    }

    /// Clears the ring and says whether there was one. Clear first, then look at every source: what
    /// is published after the clear rings again.
    pub fn clear(&self) -> bool {
        // The look before spares a locked instruction where there is nothing to clear; a ring that
        // comes after it is found by enter or park.
        self.pending() && self.slot().word.fetch_and(!PENDING) & PENDING != 0
    }

    /// Whether the bell is rung.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.slot().word.load() & PENDING != 0
    }

    /// Notes an exit for whoever has to say later where this EMT was: a code of the embedder's and
    /// the guest's RIP (0: unknown).
    pub fn note_exit(&self, code: u32, rip: u64) {
        let slot = self.slot();
        slot.exit.store(u64::from(code), Ordering::Relaxed); // diagnosis: orders nothing
        slot.rip.store(rip, Ordering::Relaxed);
    }

    /// Keeps what a request or rendezvous, served while this EMT waited for something else, asked
    /// its loop to do. The most urgent wins.
    pub fn keep(&self, flow: Flow) {
        self.kept.set(self.kept.get().max(flow));
    }

    /// What was kept, and forgets it. The request queue and the rendezvous merge it into what their
    /// next attendance answers.
    #[must_use = "what was kept is forgotten: act on it"]
    pub fn take_kept(&self) -> Flow {
        self.kept.replace(Flow::Continue)
    }

    /// Says that this EMT is held in a rendezvous (nests). While it is, the other EMTs are too and
    /// answer no requests.
    pub fn begin_meeting(&self) {
        self.meetings.set(self.meetings.get().saturating_add(1));
    }

    /// The other end of [`begin_meeting`](Self::begin_meeting).
    pub fn end_meeting(&self) {
        self.meetings.set(self.meetings.get().saturating_sub(1));
    }

    /// Whether this EMT is held in a rendezvous.
    #[must_use]
    pub fn in_meeting(&self) -> bool {
        self.meetings.get() != 0
    }

    fn slot(&self) -> &Slot {
        self.bells.slot(self.id).expect("enroll checked the number")
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.leave(self.id, self.slot());
    }
}

impl Drop for InGuest<'_> {
    fn drop(&mut self) {
        self.bell.slot().word.fetch_and(!IN_GUEST);
    }
}
