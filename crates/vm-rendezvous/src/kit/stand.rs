// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where one check meets one loop: the check's thread, the watchdog, and the acts that checks share.
//!
//! Invariant: whoever waits here has a limit. A check's thread may hang inside the loop under test;
//! the watchdog sees that it begins nothing new and leaves it behind.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use super::report::{Check, Finding, Outcome};
use super::{Effort, Op, Trouble, VcpuLoop, checks};

pub(super) type Verdict = Result<(), Outcome>;
type Make = dyn Fn() -> Result<Box<dyn VcpuLoop>, String> + Send + Sync;

/// What a check has begun so far, for the watchdog.
#[derive(Debug, Default)]
struct Trail {
    steps: AtomicU64,
    last: Mutex<&'static str>,
}

impl Trail {
    fn step(&self, what: &'static str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.steps.fetch_add(1, SeqCst);
    }

    fn last(&self) -> &'static str {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A loop under test, with the acts that checks share.
pub(super) struct Stand<'a> {
    pub(super) vm: &'a dyn VcpuLoop,
    pub(super) effort: Effort,
    trail: &'a Trail,
}

/// Runs one check on a new loop; its outcome, and how many loops (0 or 1) were left behind.
pub(super) fn one(check: Check, effort: Effort, make: Arc<Make>) -> (Outcome, u32) {
    let trail = Arc::new(Trail::default());
    let (tell, told) = mpsc::channel();
    let body = {
        let trail = trail.clone();
        move || on_thread(check, effort, &trail, &*make, &tell)
    };
    let thread = thread::Builder::new().name("kit".into()).spawn(body);
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => {
            let why = format!("no thread for the check: {error}");
            return (Finding::NotMade { why }.into(), 0);
        }
    };
    let (outcome, left) = match watch(&told, &trail, effort.patience) {
        // Told once for the outcome, and once more when the loop is gone.
        Ok(outcome) => match watch(&told, &trail, effort.patience) {
            Ok(_) => (outcome, 0),
            Err(finding) if outcome == Outcome::Passed => (finding.into(), 1),
            Err(_) => (outcome, 1),
        },
        Err(finding) => (finding.into(), 1),
    };
    if thread.is_finished() || left == 0 {
        let _panicked = thread.join(); // the watchdog has seen a panic already
        return (outcome, 0);
    }
    (outcome, left)
}

/// The check's thread.
fn on_thread(check: Check, effort: Effort, trail: &Trail, make: &Make, tell: &Sender<Outcome>) {
    trail.step("making the loop");
    let made = match make() {
        Ok(made) => made,
        Err(why) => {
            for _ in 0..2 {
                let _gone = tell.send(Finding::NotMade { why: why.clone() }.into());
            }
            return;
        }
    };
    let stand = Stand {
        vm: &*made,
        effort,
        trail,
    };
    let outcome = checks::run(check, &stand).err().unwrap_or(Outcome::Passed);
    let _gone = tell.send(outcome); // before the loop ends, which may hang
    stand.step("destroy at the end");
    stand.vm.destroy();
    stand.step("dropping the loop");
    drop(made);
    let _gone = tell.send(Outcome::Passed);
}

/// Waits for the next message of a check's thread, as long as it goes on beginning things.
fn watch(told: &Receiver<Outcome>, trail: &Trail, patience: Duration) -> Result<Outcome, Finding> {
    let (mut steps, mut since) = (trail.steps.load(SeqCst), Instant::now());
    loop {
        match told.recv_timeout(patience / 8) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Finding::Panicked { step: trail.last() });
            }
        }
        let now = trail.steps.load(SeqCst);
        if now != steps {
            (steps, since) = (now, Instant::now());
        } else if since.elapsed() > patience.saturating_mul(2) {
            // Every act has a limit of `patience`; one that does not keep it got as much again.
            return Err(Finding::Stuck { step: trail.last() });
        }
    }
}

/// A vCPU's thread held inside a request, until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    _release: Sender<()>,
}

impl<'a> Stand<'a> {
    pub(super) fn step(&self, what: &'static str) {
        self.trail.step(what);
    }

    pub(super) fn vcpus(&self) -> std::ops::Range<u32> {
        0..self.vm.vcpus()
    }

    pub(super) fn suspend(&self) -> Verdict {
        self.step("suspend");
        must("suspend", self.vm.suspend(self.effort.patience))
    }

    pub(super) fn resume(&self) -> Verdict {
        self.step("resume");
        must("resume", self.vm.resume())
    }

    /// A request that must be answered, with its own answer.
    pub(super) fn call(
        &self,
        vcpu: u32,
        answer: u64,
        op: impl FnOnce() + Send + 'static,
    ) -> Verdict {
        self.step("a request");
        let op: Op = Box::new(move || {
            op();
            answer
        });
        match self.vm.call(vcpu, self.effort.patience, op) {
            Ok(got) if got == answer => Ok(()),
            Ok(got) => Err(Finding::WrongReply {
                vcpu,
                want: answer,
                got,
            }
            .into()),
            Err(trouble) => must("a request", Err(trouble)),
        }
    }

    /// Every guest runs, or will within the patience.
    pub(super) fn runs(&self) -> Verdict {
        self.step("waiting for the guests to run");
        let before: Vec<_> = self.vcpus().map(|v| self.vm.progress(v)).collect();
        let deadline = Instant::now() + self.effort.patience;
        for (v, before) in self.vcpus().zip(before) {
            while self.vm.progress(v) == before {
                if Instant::now() >= deadline {
                    return Err(Finding::NoProgress { vcpu: v }.into());
                }
                // A guest that counts tells nobody, so it has to be looked at.
                thread::park_timeout(Duration::from_micros(100));
            }
        }
        Ok(())
    }

    /// No guest runs, as far as one can see within `window`.
    pub(super) fn still(&self, window: Duration) -> Verdict {
        self.step("looking on while suspended");
        match self.moved(window) {
            Some(vcpu) => Err(Finding::RanWhileSuspended { vcpu }.into()),
            None => Ok(()),
        }
    }

    /// The first vCPU whose guest ran in the `window` from now.
    pub(super) fn moved(&self, window: Duration) -> Option<u32> {
        let before: Vec<_> = self.vcpus().map(|v| self.vm.progress(v)).collect();
        look_on(window);
        let mut all = self.vcpus().zip(before);
        all.find_map(|(v, before)| (self.vm.progress(v) != before).then_some(v))
    }

    /// Holds `vcpu` inside a request, on a thread of `scope`; it is inside when this returns.
    pub(super) fn hold<'s>(&'s self, scope: &'s Scope<'s, '_>, vcpu: u32) -> Result<Held, Outcome> {
        self.step("a request that holds its vCPU");
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let patience = self.effort.patience;
        // Longer than the watchdog waits: whoever waits for this vCPU without a limit is to be seen.
        let longest = patience.saturating_mul(3);
        scope.spawn(move || {
            let op: Op = Box::new(move || {
                let _gone = begin.send(());
                let _released = released.recv_timeout(longest);
                0
            });
            // What it answers is not looked at: it may well be late.
            let _answer = self.vm.call(vcpu, patience, op);
        });
        match begun.recv_timeout(patience) {
            Ok(()) => Ok(Held { _release: release }),
            Err(_) => Err(Finding::LostKick { vcpu, before: 0 }.into()),
        }
    }

    /// What an operation answered that could not be done because `vcpu` is held.
    pub(super) fn must_name(
        &self,
        step: &'static str,
        vcpu: u32,
        answer: Result<(), Trouble>,
    ) -> Verdict {
        let finding = match answer {
            Err(Trouble::Late { vcpu: named }) if named == vcpu => return Ok(()),
            Err(Trouble::Late { vcpu: named }) => Finding::WronglyNamed { step, vcpu, named },
            Err(Trouble::SomebodyLate) => Finding::NotNamed { step, vcpu },
            Err(trouble) => Finding::Failed { step, trouble },
            Ok(()) => Finding::DoneWithout { step, vcpu },
        };
        Err(finding.into())
    }
}

/// An operation that has no excuse.
pub(super) fn must(step: &'static str, answer: Result<(), Trouble>) -> Verdict {
    answer.map_err(|trouble| Finding::Failed { step, trouble }.into())
}

/// Lets `window` pass: there is no event for something that must not happen.
pub(super) fn look_on(window: Duration) {
    let end = Instant::now() + window;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
        if left.is_zero() {
            break;
        }
    }
}
