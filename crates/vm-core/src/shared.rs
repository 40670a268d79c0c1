// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What all threads of one VM share. No field is reachable after the VM is destroyed that a guest
//! or a device could still use: what is built per machine lives on the EMTs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use vm_emt::Bells;
use vm_pdm::{ResetKind, RuntimeError, Timers};
use vm_rendezvous::Rendezvous;
use vm_req::Queues;
use vm_state::{StateCell, Transition};

use crate::cap::Cap;
use crate::emt::Emt;
use crate::errors::Ledger;
use crate::fault::Fault;
use crate::observe::Observed;
use crate::parts::OpenSaver;
use crate::processors::Plugged;
use crate::save::Cancel;
use crate::sync::{AtomicU32, AtomicU64, Condvar, Mutex, lock, wait};
use crate::{Ending, GuruReport, VmSpec};

/// Shared by the handles and the EMTs of one VM.
pub(crate) struct Shared {
    pub(crate) spec: VmSpec,
    pub(crate) state: Arc<StateCell>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) queues: Arc<Queues<Emt>>,
    pub(crate) rendezvous: Arc<Rendezvous<Emt>>,
    pub(crate) resets: Resets,
    pub(crate) errors: Arc<Ledger>,
    /// The virtual clock, which runs while the VM does, and what is due on it.
    pub(crate) timers: Arc<Timers>,
    pub(crate) observed: Observed,
    pub(crate) threads: Threads,
    pub(crate) plugged: Plugged,
    pub(crate) cap: Cap,
    /// EMTs with this number and above leave their loops. Only ever lowered.
    leave_from: AtomicU32,
    /// What a device's save goes through.
    pub(crate) saver: OnceLock<OpenSaver>,
    /// The save under way.
    pub(crate) saving: Mutex<Option<Cancel>>,
    teleports: AtomicU64,
    teleported: AtomicU64,
    ending: Mutex<Option<Ending>>,
    guru: Mutex<Option<GuruReport>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A VM in CREATING, and the transition that makes it CREATED.
    pub(crate) fn new(spec: VmSpec) -> (Arc<Self>, Transition) {
        let (state, creation) = StateCell::create();
        #[cfg(not(shuttle))]
        let bells = Bells::new(spec.vcpus);
        #[cfg(shuttle)]
        let bells = match spec.fault {
            Fault::Below(fault) => Bells::broken(spec.vcpus, fault),
            Fault::None | Fault::UndoWithoutRing | Fault::ClearAfterLook => Bells::new(spec.vcpus),
        };
        let timers = Arc::new(Timers::new());
        let shared = Arc::new(Self {
            state,
            observed: Observed::new(&spec, &bells, &timers),
            queues: Queues::new(Arc::clone(&bells)),
            rendezvous: Rendezvous::new(Arc::clone(&bells)),
            resets: Resets::default(),
            errors: Arc::default(),
            timers,
            threads: Threads::new(spec.vcpus),
            plugged: Plugged::first(spec.plugged.unwrap_or(spec.vcpus)),
            cap: Cap::new(Arc::clone(&bells), spec.cap_percent),
            leave_from: AtomicU32::new(u32::MAX),
            saver: OnceLock::new(),
            saving: Mutex::new(None),
            teleports: AtomicU64::new(0),
            teleported: AtomicU64::new(0),
            ending: Mutex::new(None),
            guru: Mutex::new(None),
            bells,
            spec,
        });
        (shared, creation)
    }

    /// Never, but in a model that puts the mistake in.
    #[cfg_attr(
        not(shuttle),
        expect(clippy::unused_self, reason = "a model's VM has it")
    )]
    pub(crate) fn is_broken(&self, _fault: Fault) -> bool {
        #[cfg(shuttle)]
        return self.spec.fault == _fault;
        #[cfg(not(shuttle))]
        false
    }

    /// Makes EMTs `from` and above leave their loops.
    pub(crate) fn leave(&self, from: u32) {
        self.leave_from.fetch_min(from, Ordering::SeqCst);
        for v in from..self.spec.vcpus {
            self.bells.ring(v);
        }
    }

    /// Whether EMT `v` is to leave its loop.
    pub(crate) fn leaves(&self, v: u32) -> bool {
        v >= self.leave_from.load(Ordering::SeqCst)
    }

    /// Notes a runtime error, and has EMT 0 see to it. Never blocks.
    pub(crate) fn raise(&self, error: RuntimeError) {
        self.errors.raise(error);
        self.bells.ring(0);
    }

    /// Has the virtual clock run, or be held, as the VM is.
    pub(crate) fn follow_state(&self) {
        if self.state.read().is_running() {
            self.timers.run();
        } else {
            self.timers.hold();
        }
    }

    /// Cancels the save under way, if there is one.
    pub(crate) fn cancel_save(&self) -> Option<bool> {
        lock(&self.saving).as_ref().map(Cancel::cancel)
    }

    /// From here the VM counts as teleported. The mark tells this teleport from a later one.
    pub(crate) fn begin_teleport(&self) -> u64 {
        let mark = self.teleports.fetch_add(1, Ordering::SeqCst) + 1;
        self.teleported.store(mark, Ordering::SeqCst);
        mark
    }

    /// The teleport under way or just done, 0 for none.
    pub(crate) fn teleport_mark(&self) -> u64 {
        self.teleported.load(Ordering::SeqCst)
    }

    /// It goes on here, or that teleport failed.
    pub(crate) fn end_teleport(&self, mark: u64) {
        // Failing means that a later teleport has begun.
        let _ = self
            .teleported
            .compare_exchange(mark, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(crate) fn teleported(&self) -> bool {
        self.teleport_mark() != 0
    }

    /// Remembers how the VM ended; the first word counts.
    pub(crate) fn end(&self, ending: Ending) {
        lock(&self.ending).get_or_insert(ending);
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        *lock(&self.ending)
    }

    /// Keeps the first guru report.
    pub(crate) fn keep_guru(&self, report: GuruReport) {
        lock(&self.guru).get_or_insert(report);
    }

    pub(crate) fn guru(&self) -> Option<GuruReport> {
        lock(&self.guru).clone()
    }
}

/// Counts of resets.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    hard: AtomicU64,
    soft: AtomicU64,
}

impl Resets {
    pub(crate) fn count(&self, kind: ResetKind) {
        match kind {
            ResetKind::Hard => &self.hard,
            ResetKind::Soft => &self.soft,
        }
        .fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn total(&self) -> u64 {
        self.hard() + self.soft()
    }

    pub(crate) fn hard(&self) -> u64 {
        self.hard.load(Ordering::SeqCst)
    }

    pub(crate) fn soft(&self) -> u64 {
        self.soft.load(Ordering::SeqCst)
    }
}

/// Which EMTs run, and their thread ids.
#[derive(Debug)]
pub(crate) struct Threads {
    seats: Mutex<Vec<Seat>>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seat {
    phase: Phase,
    tid: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Absent,
    Running,
    Ended,
}

impl Threads {
    fn new(count: u32) -> Self {
        Self {
            seats: Mutex::new(vec![Seat::default(); count as usize]),
            changed: Condvar::new(),
        }
    }

    /// EMT `v` runs, as host thread `tid`.
    pub(crate) fn started(&self, v: u32, tid: Option<u32>) {
        lock(&self.seats)[v as usize] = Seat {
            phase: Phase::Running,
            tid,
        };
        self.changed.notify_all();
    }

    /// EMT `v` touches nothing of the VM any more.
    pub(crate) fn ended(&self, v: u32) {
        lock(&self.seats)[v as usize].phase = Phase::Ended;
        self.changed.notify_all();
    }

    /// Host thread ids in order of vCPU; `None` where the host does not tell.
    pub(crate) fn tids(&self) -> Vec<Option<u32>> {
        lock(&self.seats).iter().map(|s| s.tid).collect()
    }

    /// Waits until EMT `v` runs or has ended.
    pub(crate) fn wait_started(&self, v: u32, deadline: Instant) -> bool {
        self.wait(v, deadline, |phase| phase != Phase::Absent)
    }

    /// Waits until EMT `v` has ended.
    pub(crate) fn wait_ended(&self, v: u32, deadline: Instant) -> bool {
        self.wait(v, deadline, |phase| phase == Phase::Ended)
    }

    fn wait(&self, v: u32, deadline: Instant, done: impl Fn(Phase) -> bool) -> bool {
        let mut seats = lock(&self.seats);
        loop {
            if done(seats[v as usize].phase) {
                return true;
            }
            let Some(woken) = wait(&self.changed, seats, deadline) else {
                return false;
            };
            seats = woken;
        }
    }
}
