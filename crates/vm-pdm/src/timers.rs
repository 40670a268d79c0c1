// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Timers: callbacks at deadlines on the virtual clock, made by one thread.
//!
//! # Firing
//! A timer fires once for each time it is armed, at its deadline or soon after, never before, in the
//! order of deadlines and then of arming. While the clock is held nothing fires; since it does not
//! move meanwhile, nothing is due when it runs on that was not due before.
//!
//! # Cancelling
//! No callback begins after [`Timer::cancel`] or [`Timer::arm`] returned, other than for the new
//! deadline. One that has begun may run on beside its canceller: it takes its device's lock, and then
//! asks [`Firing::is_current`]. So whoever cancels under that lock never sees it act afterwards, and
//! nobody waits for anybody.
//!
//! # Locks
//! `queue` before the clock's. Callbacks run without either.

mod queue;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::VirtualClock;
use crate::info::Page;
use crate::stats::{Counter, Profile, Scope, StatError, Unit, Value};

use queue::{Due, Queue};

type Action = dyn Fn(&Firing<'_>) + Send + Sync;

/// What cannot be done with timers.
#[derive(Debug, thiserror::Error)]
pub enum TimerError {
    /// The host gives no thread.
    #[error("no thread for timers")]
    Thread(#[source] std::io::Error),
    /// A callback did not end in time.
    #[error("timer {timer:?} has not ended its callback within {limit:?}")]
    Late {
        /// Whose callback.
        timer: String,
        /// How long it had.
        limit: Duration,
    },
    /// The clock runs.
    #[error("the virtual clock runs: suspend the VM first")]
    Running,
}

/// One timer as [`Timers::list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerState {
    /// Its name.
    pub name: String,
    /// When it is to fire, on the virtual clock; `None` if it is not armed.
    pub deadline_ns: Option<u64>,
}

/// The virtual clock of a VM and the timers on it.
///
/// # Thread
/// Any, but callbacks must not wait for another timer. The callbacks' thread is named `timers`; it is
/// started with the first timer, and joined when this is dropped.
pub struct Timers {
    inner: Arc<Inner>,
    /// `None` until there is a timer; never started if the embedder drives.
    thread: Mutex<Option<JoinHandle<()>>>,
    driver: Driver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Thread,
    Embedder,
}

struct Inner {
    clock: Arc<VirtualClock>,
    queue: Mutex<Queue>,
    /// The queue or the clock changed: the thread looks again.
    changed: Condvar,
    /// A callback ended.
    ended: Condvar,
    counts: Arc<Counts>,
}

#[derive(Default)]
#[repr(align(128))]
struct Counts {
    fired: Counter,
    late: Profile,
    panicked: Counter,
}

impl Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("clock", &self.inner.clock)
            .field("timers", &self.list())
            .finish_non_exhaustive()
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// No timers yet; the clock is held at 0, and will follow the host's monotonic clock.
    pub fn new() -> Self {
        Self::with(VirtualClock::of_host(), Driver::Thread)
    }

    /// As [`Timers::new`], but the clock follows `source`, in nanoseconds, which never goes back, and
    /// there is no thread: [`Timers::fire_due`] calls back. For a clock that counts instructions, and
    /// for tests.
    pub fn driven(source: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::with(VirtualClock::of(Box::new(source)), Driver::Embedder)
    }

    fn with(clock: VirtualClock, driver: Driver) -> Self {
        let inner = Arc::new(Inner {
            clock: Arc::new(clock),
            queue: Mutex::default(),
            changed: Condvar::new(),
            ended: Condvar::new(),
            counts: Arc::default(),
        });
        Self {
            inner,
            thread: Mutex::new(None),
            driver,
        }
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<VirtualClock> {
        &self.inner.clock
    }

    /// A new timer, not armed. `action` runs on the thread `timers`; all timers wait for it, so it is
    /// to be short and must not block. It is kept until the timer is dropped: let it hold a `Weak` of
    /// whoever keeps the timer.
    ///
    /// # Errors
    /// [`TimerError::Thread`] if this is the first timer and its thread cannot be had.
    pub fn timer(
        &self,
        name: &str,
        action: impl Fn(&Firing<'_>) + Send + Sync + 'static,
    ) -> Result<Timer, TimerError> {
        let mut thread = lock(&self.thread);
        if thread.is_none() && self.driver == Driver::Thread {
            let inner = Arc::clone(&self.inner);
            let started = crate::thread("timers").spawn(move || inner.serve());
            *thread = Some(started.map_err(TimerError::Thread)?);
        }
        drop(thread);
        let id = self.inner.queue().add(name, Arc::new(action));
        Ok(Timer {
            inner: Arc::clone(&self.inner),
            id,
        })
    }

    /// Has the clock run on.
    pub fn run(&self) {
        self.inner.clock.run();
        self.inner.look();
    }

    /// Holds the clock at once. A callback that has begun may still run.
    pub fn hold(&self) {
        self.inner.clock.hold();
        self.inner.look();
    }

    /// Holds the clock and waits until no callback runs; on a callback it does not wait for itself.
    ///
    /// # Errors
    /// [`TimerError::Late`] naming the timer whose callback did not end; the clock is held all the
    /// same.
    pub fn quiesce(&self, limit: Duration) -> Result<(), TimerError> {
        self.hold();
        if self.on_own_thread() {
            return Ok(());
        }
        let started = Instant::now();
        let mut queue = self.inner.queue();
        while let Some(id) = queue.firing {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                let timer = queue.name(id).to_owned();
                return Err(TimerError::Late { timer, limit });
            }
            queue = self
                .inner
                .ended
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Has the held clock say `ns`, as after a load. Armed timers keep their deadlines.
    ///
    /// # Errors
    /// [`TimerError::Running`]; nothing changed.
    pub fn set_ns(&self, ns: u64) -> Result<(), TimerError> {
        if self.inner.clock.set(ns) {
            Ok(())
        } else {
            Err(TimerError::Running)
        }
    }

    /// Calls back for whatever is due, on this thread, which must be the only one that does; how many
    /// there were. What a callback arms for a time that is past is due in the same call.
    pub fn fire_due(&self) -> usize {
        let mut fired = 0;
        while let Some(due) = self.inner.take_due() {
            self.inner.fire(&due);
            fired += 1;
        }
        fired
    }

    /// All timers in order of creation.
    pub fn list(&self) -> Vec<TimerState> {
        self.inner.queue().list()
    }

    /// Has `scope` show how many timers fired, and how late.
    ///
    /// # Errors
    /// [`StatError::Exists`] if something has these names.
    pub fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        const LATE: &str = "from a deadline to its callback";
        const PANICKED: &str = "callbacks that panicked";
        let counts = &self.inner.counts;
        let times = Unit::Occurrences;
        let clock = Arc::clone(&self.inner.clock);
        scope
            .part("fired", times, "callbacks", counts, |c| &c.fired)?
            .part("late", Unit::Ns, LATE, counts, |c| &c.late)?
            .part("panicked", times, PANICKED, counts, |c| &c.panicked)?
            .read("clock", Unit::Ns, "the virtual clock", move || {
                Value::Gauge(clock.now_ns())
            })?;
        Ok(())
    }

    /// Writes what the clock says, and each timer with its deadline.
    ///
    /// # Errors
    /// Those of writing.
    pub fn info(&self, page: &mut Page) -> fmt::Result {
        let now_ns = self.inner.clock.now_ns();
        let runs = if self.inner.clock.is_running() {
            "runs"
        } else {
            "is held"
        };
        writeln!(page, "the virtual clock {runs} at {now_ns} ns")?;
        for TimerState { name, deadline_ns } in self.list() {
            match deadline_ns {
                None => writeln!(page, "{name}: not armed")?,
                Some(at) if at <= now_ns => writeln!(page, "{name}: due since {} ns", now_ns - at)?,
                Some(at) => writeln!(page, "{name}: in {} ns, at {at}", at - now_ns)?,
            }
        }
        Ok(())
    }

    fn on_own_thread(&self) -> bool {
        let current = std::thread::current().id();
        lock(&self.thread)
            .as_ref()
            .is_some_and(|thread| thread.thread().id() == current)
    }
}

impl Drop for Timers {
    /// Nothing fires any more, and the thread is joined, unless this is it.
    fn drop(&mut self) {
        self.inner.queue().ended = true;
        self.inner.changed.notify_all();
        let own = self.on_own_thread();
        if let Some(thread) = lock(&self.thread).take()
            && !own
            && thread.join().is_err()
        {
            log::error!(target: "vm.timers", "the timers' thread ended by a panic");
        }
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Has the thread look again. The lock is taken so that it is not between its look and its wait.
    fn look(&self) {
        drop(self.queue());
        self.changed.notify_all();
    }

    /// The thread: fires what is due, and waits for the next deadline while the clock runs.
    fn serve(&self) {
        let mut queue = self.queue();
        while !queue.ended {
            let now = self.clock.running_ns();
            let due = now.and_then(|now| self.begin(&mut queue, now));
            if let Some(due) = due {
                drop(queue);
                self.fire(&due);
                queue = self.queue();
                continue;
            }
            let left = now
                .zip(queue.next_deadline())
                .map(|(now, at)| Duration::from_nanos(at.saturating_sub(now)));
            queue = match left {
                Some(left) => {
                    let woken = self.changed.wait_timeout(queue, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let woken = self.changed.wait(queue);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Takes what is due at `now_ns`; from here on its callback runs.
    fn begin(&self, queue: &mut Queue, now_ns: u64) -> Option<Due> {
        let due = queue.take_due(now_ns)?;
        queue.firing = Some(due.id);
        self.counts
            .late
            .record(now_ns.saturating_sub(due.deadline_ns));
        Some(due)
    }

    /// Takes what is due now, if the clock runs.
    fn take_due(&self) -> Option<Due> {
        let mut queue = self.queue();
        let now = self.clock.running_ns().filter(|_| !queue.ended)?;
        self.begin(&mut queue, now)
    }

    /// Runs one callback; a panic in it ends there.
    fn fire(&self, due: &Due) {
        let firing = Firing { inner: self, due };
        self.counts.fired.inc();
        let done = catch_unwind(AssertUnwindSafe(|| (due.action)(&firing)));
        let mut queue = self.queue();
        queue.firing = None;
        if done.is_err() {
            self.counts.panicked.inc();
            let name = queue.name(due.id).to_owned();
            log::error!(target: "vm.timers", "the callback of timer {name:?} panicked");
        }
        drop(queue);
        self.ended.notify_all();
    }
}

/// One timer. Dropped, it does not fire any more; a callback that has begun may still run.
#[must_use = "dropped, the timer is gone"]
pub struct Timer {
    inner: Arc<Inner>,
    id: u64,
}

impl Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.inner.queue();
        f.debug_struct("Timer")
            .field("name", &queue.name(self.id))
            .field("deadline_ns", &queue.deadline(self.id))
            .finish()
    }
}

impl Timer {
    /// Has it fire once at `deadline_ns` on the virtual clock, at once if that is past, and not at any
    /// deadline it had; whether it had one.
    pub fn arm(&self, deadline_ns: u64) -> bool {
        self.change(Some(deadline_ns))
    }

    /// [`Timer::arm`], `delay` from now.
    pub fn arm_in(&self, delay: Duration) -> bool {
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.arm(self.inner.clock.now_ns().saturating_add(delay))
    }

    /// Has it not fire; whether it would have.
    pub fn cancel(&self) -> bool {
        self.change(None)
    }

    /// When it is to fire; what a saved state keeps.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.inner.queue().deadline(self.id)
    }

    fn change(&self, deadline_ns: Option<u64>) -> bool {
        let was = self.inner.queue().change(self.id, deadline_ns);
        self.inner.changed.notify_all();
        was
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let action = self.inner.queue().remove(self.id);
        // What the callback holds is dropped without the lock.
        drop(action);
    }
}

/// A timer that fires, as its callback sees it.
pub struct Firing<'a> {
    inner: &'a Inner,
    due: &'a Due,
}

impl Debug for Firing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firing")
            .field("deadline_ns", &self.due.deadline_ns)
            .finish_non_exhaustive()
    }
}

impl Firing<'_> {
    /// When it was to fire.
    pub fn deadline_ns(&self) -> u64 {
        self.due.deadline_ns
    }

    /// Whether nobody armed or cancelled the timer since it became due. Asked under the lock under
    /// which the device arms and cancels, the answer holds until that lock is released.
    pub fn is_current(&self) -> bool {
        self.inner.queue().is_current(self.due.id, self.due.change)
    }

    /// Arms it again if [`Firing::is_current`]; whether it was. A period is counted from
    /// [`Firing::deadline_ns`], so that lateness does not add up.
    pub fn arm(&self, deadline_ns: u64) -> bool {
        let mut queue = self.inner.queue();
        let current = queue.is_current(self.due.id, self.due.change);
        if current {
            queue.change(self.due.id, Some(deadline_ns));
        }
        drop(queue);
        self.inner.changed.notify_all();
        current
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
