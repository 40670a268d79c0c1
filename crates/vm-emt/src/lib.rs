// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One doorbell word per emulation thread: ring, park, enter the guest, kick.
//!
//! An emulation thread (EMT) sleeps on many things at once: requests, rendezvous, state changes,
//! timers. Here it has one word for all of them. Every source publishes first and rings second; the
//! EMT clears the word first and looks at every source second; and the step into the guest or into
//! sleep is one compare-and-swap that fails if somebody rang. That leaves no place to lose a wake-up.
//!
//! | type | is |
//! |---|---|
//! | [`Bells`] | the doorbells of one VM: [`ring`](Bells::ring) from any thread, [`hold`](Bells::hold) one that sleeps |
//! | [`Bell`] | the EMT's half: [`enter`](Bell::enter), [`park`](Bell::park), [`clear`](Bell::clear) |
//! | [`InGuest`] | proof that rings kick; dropped on the way out |
//! | [`Kick`] | makes a vCPU leave the guest; a CPU backend implements it |
//! | [`Emt`] | the embedder's EMT context; [`serve_until`] waits on it |
//! | [`Flow`] | what the EMT's loop must do next |
//! | [`Word`], [`Phase`], [`Counts`] | what the doorbell says, for errors and tests |
//! | [`Departure`] | is told when an EMT leaves |
//! | [`Futex`] | the word to sleep on, shared with the crates above |
//!
//! ```
//! use vm_emt::{Bells, Woken};
//!
//! let bells = Bells::new(1);
//! let bell = bells.enroll(0).expect("vCPU 0 is free");
//! assert!(bell.clear(), "a new EMT is rung, so that it looks at every source first");
//!
//! let ringer = std::thread::spawn({
//!     let bells = bells.clone();
//!     move || bells.ring(0)
//! });
//! assert_eq!(bell.park(None), Woken::Rung); // asleep, or not even that: the ring is not lost
//! assert!(bell.clear());
//! ringer.join().expect("it only rings");
//! ```

mod bell;
mod bells;
mod emt;
mod flow;
mod futex;
mod kick;
mod sync;
#[cfg(not(any(loom, shuttle)))]
mod sys;
mod word;

pub use bell::{Bell, EnrollError, InGuest, Woken};
pub use bells::{Bells, Counts, Departure};
pub use emt::{Emt, serve_until};
pub use flow::Flow;
pub use futex::{ANYONE, Futex, FutexKey};
pub use kick::Kick;
pub use word::{Phase, Word};

/// Whether the calling thread is an EMT of any VM.
#[must_use]
pub fn on_any_emt() -> bool {
    sync::ME.with(std::cell::Cell::get).0 != 0
}

/// A mistake put in on purpose, which the models must catch.
#[cfg(any(loom, shuttle))]
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None: the real thing.
    None,
    /// A parked EMT is not woken.
    RingWithoutWake,
    /// Parking forgets a ring that came before it.
    ParkWithoutRecheck,
    /// A source rings before it publishes.
    PublishAfterRing,
    /// An EMT looks at its sources, then clears its bell.
    ClearAfterLook,
    /// Parking ends although the EMT is held.
    LeaveWhileHeld,
    /// An EMT is held by a look and a mark, between which it may leave.
    HoldWithoutCheck,
    /// An EMT that was rung while it was held is not woken when it is let go.
    LetGoWithoutWake,
}
