// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Pause, kick and rendezvous tests for any vCPU loop, also one that uses nothing of ours.
//!
//! Implement [`VcpuLoop`] over the loop and give [`run`] a way to make one. Each [`Check`] gets a
//! loop of its own, on a thread of its own, and ends in an [`Outcome`]: passed, skipped, or a typed
//! [`Finding`]. Nothing here panics or waits without a limit: a loop that hangs is a finding, and
//! its threads are left behind, counted in [`Report::abandoned`].
//!
//! | type | is |
//! |---|---|
//! | [`VcpuLoop`] | what is asked of the loop under test |
//! | [`Trouble`] | why it did not do what it was asked |
//! | [`run`], [`run_only`], [`Effort`] | runs the checks; how hard to try and how long to wait |
//! | [`Check`], [`Outcome`], [`Finding`], [`Report`] | what was checked and what came of it |
//!
//! The guest of each vCPU should do nothing but count, for ever, in a way that
//! [`VcpuLoop::progress`] can read from outside: a guest that exits by itself hides lost kicks.
//!
//! `tests/kit.rs` of this crate runs the kit on three kinds of loop: one built on `vm-emt`, `vm-req`
//! and this crate; one of a mutex and a condition variable; and that one with a known bug put in,
//! which the kit must name. `docs/port-your-pause.md` runs it on KVM.

mod checks;
mod report;
mod stand;
mod threads;

use std::sync::Arc;
use std::time::Duration;

pub use report::{Check, Finding, Outcome, Report};

/// A request: runs on a vCPU's own thread, answers a value.
pub type Op = Box<dyn FnOnce() -> u64 + Send>;

/// A callback of a meeting: gets the vCPU's number, on that vCPU's own thread.
pub type MeetOp = Arc<dyn Fn(u32) + Send + Sync>;

/// Called on a vCPU's own thread just before it enters the guest.
pub type EntryHook = Arc<dyn Fn() + Send + Sync>;

/// The loop under test: a VM whose vCPUs run a guest that counts.
///
/// Methods are called from several threads at once, never from a vCPU's own thread.
pub trait VcpuLoop: Send + Sync {
    /// How many vCPUs it has, all started.
    fn vcpus(&self) -> u32;

    /// Returns when no vCPU runs guest code any more, or why that could not be had within `limit`.
    /// After an error the VM may be left as it is convenient; the kit calls [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`Trouble`]. [`Trouble::Refused`] if it is suspended already and that is an error.
    fn suspend(&self, limit: Duration) -> Result<(), Trouble>;

    /// Undoes every suspend before it: the guests run again, soon.
    ///
    /// # Errors
    /// [`Trouble`].
    fn resume(&self) -> Result<(), Trouble>;

    /// Runs `op` once on the thread of `vcpu` and returns its answer; also while suspended. If the
    /// vCPU does not take it within `limit`, an error, and `op` need not run.
    ///
    /// # Errors
    /// [`Trouble`]; [`Trouble::Ended`] once the loop is being destroyed.
    fn call(&self, vcpu: u32, limit: Duration, op: Op) -> Result<u64, Trouble>;

    /// A count of what the guest of `vcpu` has done, read from outside; differs after it ran.
    fn progress(&self, vcpu: u32) -> u64;

    /// Ends every vCPU thread, and waits for that. Whoever waits in another method is let go with
    /// [`Trouble::Ended`]. The second time it does nothing.
    fn destroy(&self);

    /// Brings every vCPU out of the guest, runs `op` once on each, and lets them go together.
    ///
    /// # Errors
    /// [`Trouble`]; [`Trouble::Unsupported`], which skips a check, unless implemented.
    fn meet(&self, limit: Duration, op: MeetOp) -> Result<(), Trouble> {
        let _ = (limit, op);
        Err(Trouble::Unsupported)
    }

    /// Has `hook` called from now on by the thread of `vcpu`, each time after its last look for work
    /// and before it enters the guest: where kicks get lost. `false`, unless implemented: then the
    /// kit can only hope to hit that place.
    fn hook_entry(&self, vcpu: u32, hook: EntryHook) -> bool {
        let _ = (vcpu, hook);
        false
    }

    /// How often `vcpu` has left the guest. `None`, unless implemented: then the kit cannot tell
    /// whether the first exit after a kick saw it.
    fn exits(&self, vcpu: u32) -> Option<u64> {
        let _ = vcpu;
        None
    }
}

/// Why the loop under test did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A limit passed, and this vCPU was the one waited for.
    #[error("vCPU {vcpu} was late")]
    Late {
        /// Who was late.
        vcpu: u32,
    },
    /// A limit passed, and the loop does not say who was late.
    #[error("some vCPU was late; the loop does not say which")]
    SomebodyLate,
    /// The loop is being destroyed.
    #[error("the loop has been destroyed")]
    Ended,
    /// It does not do that now, for a reason of its own.
    #[error("refused: {0}")]
    Refused(String),
    /// It cannot do that at all.
    #[error("the loop cannot do that")]
    Unsupported,
}

/// How hard to try, and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Repetitions inside a check. What is not deterministic is found more surely with more.
    pub rounds: u32,
    /// Threads that act at the same time.
    pub callers: u32,
    /// After this long a wait counts as endless. Only what hangs takes so long, so be generous.
    pub patience: Duration,
    /// How long to look on when something must not happen, and the limit given where a vCPU must
    /// turn out late.
    pub window: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            rounds: 200,
            callers: 4,
            patience: Duration::from_secs(10),
            window: Duration::from_millis(5),
        }
    }
}

/// Runs every check, each on a loop that `make` makes for it.
///
/// # Thread
/// Any; blocks. Threads are started for the checks; those of a loop that hangs are left behind.
pub fn run<L: VcpuLoop + 'static>(
    effort: Effort,
    make: impl Fn() -> Result<L, String> + Send + Sync + 'static,
) -> Report {
    run_only(&Check::ALL, effort, make)
}

/// [`run`] of some checks only: to look into one finding, or to leave out what is known.
///
/// # Thread
/// As for [`run`].
pub fn run_only<L: VcpuLoop + 'static>(
    checks: &[Check],
    effort: Effort,
    make: impl Fn() -> Result<L, String> + Send + Sync + 'static,
) -> Report {
    let make = Arc::new(move || make().map(|made| Box::new(made) as Box<dyn VcpuLoop>));
    let mut report = Report::default();
    for check in checks {
        report.add(*check, stand::one(*check, effort, make.clone()));
    }
    report
}
