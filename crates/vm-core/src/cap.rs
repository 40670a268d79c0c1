// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The execution cap: how much of a host CPU each vCPU may use.
//!
//! Time is cut into slices of [`SLICE`] of wall time, each vCPU its own. In a slice its EMT may use
//! `percent` of it in CPU time (user and system, which is what guest code and its exits cost); what
//! is left of the slice it waits, as it waits in a halt: requests, rendezvous and state changes are
//! served, and the guest's clock goes on.
//!
//! Guest code that never exits is brought out by the limiter's thread, `cap`, which rings the EMT when
//! its time can be up. It can be up no earlier than the CPU time that is left, taken as wall time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_emt::Bells;

use crate::sync::{AtomicU32, Condvar, JoinHandle, Mutex, lock, thread, wait};

/// Wall time of a slice.
pub(crate) const SLICE: Duration = Duration::from_millis(100);
/// No cap.
pub(crate) const FULL: u32 = 100;

/// What a capped EMT does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Enter the guest. Its time may be up at this instant; look again then.
    Run(Instant),
    /// Wait for the next slice, which begins then.
    Wait(Instant),
}

/// The slice that an EMT is in.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Its beginning, and the thread's CPU time then.
    begun: Option<(Instant, Duration)>,
    /// Until then, and for that cap, the last look holds.
    holds: Option<(u32, Instant)>,
}

impl Slice {
    /// Whether what was decided last still holds at `now`, without looking at any CPU time.
    pub(crate) fn holds(&self, percent: u32, now: Instant) -> bool {
        self.holds
            .is_some_and(|(for_cap, until)| percent == for_cap && now < until)
    }

    /// Decides anew, at `now`, with `used` CPU time of this thread.
    pub(crate) fn decide(&mut self, percent: u32, now: Instant, used: Duration) -> Turn {
        let (begun, before) = match self.begun {
            Some((begun, before)) if now.saturating_duration_since(begun) < SLICE => {
                (begun, before)
            }
            Some(_) | None => (now, used),
        };
        self.begun = Some((begun, before));
        let end = begun + SLICE;
        let allowed = SLICE * percent.min(FULL) / FULL;
        match allowed.checked_sub(used.saturating_sub(before)) {
            Some(left) if !left.is_zero() => {
                let until = (now + left).min(end);
                self.holds = Some((percent, until));
                Turn::Run(until)
            }
            Some(_) | None => {
                self.holds = None;
                Turn::Wait(end)
            }
        }
    }
}

/// The cap of a VM and the thread that brings EMTs out of the guest.
pub(crate) struct Cap {
    percent: AtomicU32,
    alarms: Arc<Alarms>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Cap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cap").field(&self.percent()).finish()
    }
}

/// When to ring whom.
struct Alarms {
    bells: Arc<Bells>,
    due: Mutex<Due>,
    changed: Condvar,
}

struct Due {
    /// By vCPU.
    at: Vec<Option<Instant>>,
    ends: bool,
}

impl Cap {
    /// For the EMTs of `bells`; `percent` is within 1 to [`FULL`].
    pub(crate) fn new(bells: Arc<Bells>, percent: u32) -> Self {
        let due = Due {
            at: vec![None; bells.count() as usize],
            ends: false,
        };
        Self {
            percent: AtomicU32::new(percent),
            alarms: Arc::new(Alarms {
                bells,
                due: Mutex::new(due),
                changed: Condvar::new(),
            }),
            thread: Mutex::new(None),
        }
    }

    /// The cap, 1 to [`FULL`].
    pub(crate) fn percent(&self) -> u32 {
        self.percent.load(Ordering::SeqCst)
    }

    /// Sets the cap; every EMT looks at it before it enters the guest again, which it does soon.
    pub(crate) fn set(&self, percent: u32) {
        self.percent.store(percent, Ordering::SeqCst);
        self.alarms.bells.ring_all();
    }

    /// EMT `v` is to be rung at `at`.
    ///
    /// # Errors
    /// The thread cannot be started: the host has no more.
    pub(crate) fn alarm(&self, v: u32, at: Instant) -> std::io::Result<()> {
        self.start()?;
        if let Some(slot) = lock(&self.alarms.due).at.get_mut(v as usize) {
            *slot = Some(at);
        }
        self.alarms.changed.notify_one();
        Ok(())
    }

    fn start(&self) -> std::io::Result<()> {
        let mut started = lock(&self.thread);
        if started.is_none() {
            let alarms = Arc::clone(&self.alarms);
            *started = Some(thread("cap").spawn(move || alarms.run())?);
        }
        Ok(())
    }
}

impl Drop for Cap {
    /// Ends the thread, which never waits for anybody.
    fn drop(&mut self) {
        lock(&self.alarms.due).ends = true;
        self.alarms.changed.notify_one();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!(target: "vm.cap", "the thread of the execution cap ended by a panic");
        }
    }
}

impl Alarms {
    fn run(&self) {
        let idle = Duration::from_secs(3600);
        let mut due = lock(&self.due);
        while !due.ends {
            let now = Instant::now();
            let rung: Vec<u32> = (0..)
                .zip(&mut due.at)
                .filter_map(|(v, at)| at.take_if(|at| *at <= now).map(|_| v))
                .collect();
            if !rung.is_empty() {
                drop(due);
                rung.into_iter().for_each(|v| self.bells.ring(v));
                due = lock(&self.due);
                continue;
            }
            let next = due.at.iter().flatten().min().copied();
            due = match wait(&self.changed, due, next.unwrap_or(now + idle)) {
                Some(due) => due,
                None => lock(&self.due),
            };
        }
    }
}

/// CPU time of the calling thread so far.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_slice_gives_its_share_and_the_rest_is_waited_for() {
        let mut slice = Slice::default();
        let start = Instant::now();
        assert_eq!(slice.decide(25, start, 7 * MS), Turn::Run(start + 25 * MS));
        let later = start + 40 * MS;
        assert_eq!(slice.decide(25, later, 27 * MS), Turn::Run(later + 5 * MS));
        let used_up = start + 60 * MS;
        assert_eq!(
            slice.decide(25, used_up, 32 * MS),
            Turn::Wait(start + SLICE)
        );
        let next = start + SLICE;
        assert_eq!(slice.decide(25, next, 32 * MS), Turn::Run(next + 25 * MS));
    }

    #[test]
    fn a_decision_to_run_holds_until_the_time_can_be_up_and_one_to_wait_does_not() {
        let mut slice = Slice::default();
        let start = Instant::now();
        slice.decide(10, start, Duration::ZERO);
        assert!(slice.holds(10, start + 9 * MS) && !slice.holds(10, start + 10 * MS));
        assert!(!slice.holds(20, start + 9 * MS), "another cap");
        slice.decide(10, start + 10 * MS, 10 * MS);
        assert!(!slice.holds(10, start + 11 * MS));
    }

    #[test]
    fn over_many_slices_a_busy_vcpu_gets_its_share() {
        // A guest that never gives its CPU up, on a host that gives it all it wants.
        for percent in [1, 25, 50, 99] {
            let mut slice = Slice::default();
            let (start, mut now, mut used) = (Instant::now(), Instant::now(), Duration::ZERO);
            while now < start + 50 * SLICE {
                match slice.decide(percent, now, used) {
                    Turn::Run(until) => {
                        used += until - now;
                        now = until;
                    }
                    Turn::Wait(until) => now = until,
                }
            }
            let share = used.as_millis() * 100 / (50 * SLICE).as_millis();
            assert!(share.abs_diff(percent.into()) <= 1, "{percent}: {share}");
        }
    }

    #[test]
    fn a_slice_that_was_slept_through_gives_nothing_to_the_next() {
        let mut slice = Slice::default();
        let start = Instant::now();
        slice.decide(50, start, Duration::ZERO);
        let late = start + 10 * SLICE;
        assert_eq!(
            slice.decide(50, late, Duration::ZERO),
            Turn::Run(late + 50 * MS)
        );
    }

    #[test]
    fn an_alarm_rings_its_emt_and_only_that() {
        let bells = Bells::new(2);
        let cap = Cap::new(Arc::clone(&bells), 10);
        let bell = bells.enroll(1).unwrap();
        bell.clear();
        let untouched = bells.word(0);
        cap.alarm(1, Instant::now()).unwrap();
        bell.park(None);
        assert!(bell.clear(), "rung");
        assert_eq!(bells.word(0), untouched);
    }
}
