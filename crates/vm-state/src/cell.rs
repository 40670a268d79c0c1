// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state of one VM, shared by everybody who reads or changes it.
//!
//! Invariant: the state is transient exactly while one [`Transition`] exists, so whoever holds one
//! knows that nobody else moves the state. Changes are made under the lock and numbered there;
//! reading takes no lock.

use crate::{
    Cause, Change, Refused, ResumeReason, State, Subscription, SuspendReason, Transition,
    WaitError,
    observer::{Delivery, Gate, Observers},
    sync, table,
};
use std::{sync::Arc, time::Duration, time::Instant};

/// The state of one VM, its history in short, and those who watch it.
///
/// # Thread
///
/// Any. An observer may read, subscribe and [`raise_fatal`](Self::raise_fatal), but neither begin
/// nor wait: see [`in_observer`](crate::in_observer).
pub struct StateCell {
    /// The number of the state; written under the lock only.
    number: sync::AtomicU8,
    inner: sync::Mutex<Inner>,
    changed: sync::Condvar,
    gate: Gate,
    broken: Option<Broken>,
}

/// What the lock guards.
pub(crate) struct Inner {
    previous: State,
    sequence: u64,
    cause: Cause,
    fatal: Option<Cause>,
    last_suspend: Option<SuspendReason>,
    last_resume: Option<ResumeReason>,
    waiters: u32,
    pub(crate) delivery: Delivery,
}

/// What can be said of a VM's state at one moment; plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// The one before; the same at the very beginning.
    pub previous: State,
    /// How many changes there have been; the number of the last one.
    pub sequence: u64,
    /// Why the last change was made.
    pub cause: Cause,
    /// The first fatal cause raised, if any; it stays.
    pub fatal: Option<Cause>,
    /// Why the VM was last suspended by request.
    pub last_suspend: Option<SuspendReason>,
    /// Why the VM was last resumed.
    pub last_resume: Option<ResumeReason>,
    /// How many calls of observers panicked; such an observer is not called again.
    pub observer_panics: u64,
    /// How many changes were not told to observers, because one of them does not return.
    pub untold: u64,
}

/// What became of a fatal cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raised {
    /// The VM was running and is in this state now.
    Entered(State),
    /// The VM is in this state; the cause takes effect when the current or next transition ends.
    Remembered(State),
}

/// Defects put in on purpose, to show that the models find them.
#[doc(hidden)]
#[cfg_attr(
    not(loom),
    expect(unreachable_pub, reason = "exported to the models only")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Waits without looking again once it holds the lock.
    WaitUnchecked,
    /// Tells observers without regard to who else is telling them.
    TellAtOnce,
    /// Stops telling although something is in the queue.
    LeaveUnchecked,
    /// Looks for a fatal cause before it takes the lock under which it ends a transition.
    FatalUnlocked,
}

impl StateCell {
    /// A cell in CREATING, and the transition that makes it CREATED.
    ///
    /// # States
    ///
    /// CREATING. Committed with [`State::Created`]; a failed create goes
    /// [`then`](Transition::then) to DESTROYING; dropped, it ends in TERMINATED.
    pub fn create() -> (Arc<Self>, Transition) {
        Self::with(None)
    }

    #[cfg(loom)]
    #[doc(hidden)]
    pub fn create_broken(broken: Broken) -> (Arc<Self>, Transition) {
        Self::with(Some(broken))
    }

    fn with(broken: Option<Broken>) -> (Arc<Self>, Transition) {
        let inner = Inner {
            previous: State::Creating,
            sequence: 0,
            cause: Cause::User,
            fatal: None,
            last_suspend: None,
            last_resume: None,
            waiters: 0,
            delivery: Delivery::default(),
        };
        let cell = Arc::new(Self {
            number: sync::AtomicU8::new(State::Creating.number()),
            inner: sync::Mutex::new(inner),
            changed: sync::Condvar::new(),
            gate: Gate::default(),
            broken,
        });
        let creation = Transition::new(
            Arc::clone(&cell),
            State::Creating,
            State::Creating,
            Cause::User,
        );
        (cell, creation)
    }

    /// The state now: one load.
    pub fn read(&self) -> State {
        // Acquire pairs with the Release in `apply`: who sees a state sees what was done before it.
        let number = self.number.load(sync::Ordering::Acquire);
        State::from_number(number).expect("only numbers of states are stored")
    }

    /// Everything that can be said at one moment.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            state: self.read(),
            previous: inner.previous,
            sequence: inner.sequence,
            cause: inner.cause,
            fatal: inner.fatal,
            last_suspend: inner.last_suspend,
            last_resume: inner.last_resume,
            observer_panics: inner.delivery.panics,
            untold: inner.delivery.untold,
        }
    }

    /// The first fatal cause raised, if any.
    pub fn fatal(&self) -> Option<Cause> {
        self.lock().fatal
    }

    /// Begins a transition by the first pair `(from, via)` whose `from` is the state now.
    ///
    /// # Errors
    ///
    /// [`Refused`]: no pair matches, the table has no such move or `via` is not transient, or the
    /// caller is an observer.
    ///
    /// # States
    ///
    /// `from` to `via`; the transition returned leads on.
    pub fn begin(
        self: &Arc<Self>,
        moves: &[(State, State)],
        why: Cause,
    ) -> Result<Transition, Refused> {
        let (from, via) = self.enter(moves, why, Entering::Transient)?;
        Ok(Transition::new(Arc::clone(self), from, via, why))
    }

    /// Moves at once by the first pair `(from, to)` whose `from` is the state now; neither is
    /// transient. Gives the state entered.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    ///
    /// # States
    ///
    /// `from` to `to`.
    pub fn shift(&self, moves: &[(State, State)], why: Cause) -> Result<State, Refused> {
        self.enter(moves, why, Entering::Stable).map(|(_, to)| to)
    }

    /// Records that the VM cannot go on. The first cause stays; later ones only repeat it.
    ///
    /// # States
    ///
    /// RUNNING to GURU_MEDITATION and RUNNING_LS to GURU_MEDITATION_LS at once. In a transient
    /// state the transition will end there, unless the VM is on its way out. In any other state
    /// the next transition to end will, unless that is a power off.
    pub fn raise_fatal(&self, cause: Cause) -> Raised {
        let mut inner = self.lock();
        inner.fatal.get_or_insert(cause);
        let state = self.read();
        let guru = if state.is_running() {
            table::when_fatal(state)
        } else {
            None
        };
        let Some(guru) = guru else {
            return Raised::Remembered(state);
        };
        self.apply(inner, guru, cause);
        Raised::Entered(guru)
    }

    /// Waits until `wanted` holds of the state, at most for `limit` (`None`: for ever), and gives
    /// that state. `wanted` is called without a lock, once for each state this thread sees: a state
    /// that is left again quickly may be missed, so an observer is the way to see every one.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: the limit has passed, or the caller is an observer.
    pub fn wait_until(
        &self,
        wanted: impl Fn(State) -> bool,
        limit: Option<Duration>,
    ) -> Result<State, WaitError> {
        if sync::inside_observer() {
            return Err(WaitError::InObserver {
                actual: self.read(),
            });
        }
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let seen = self.lock().sequence_and_state(self);
            if wanted(seen.1) {
                return Ok(seen.1);
            }
            self.wait_past(seen.0, deadline)?;
        }
    }

    /// Waits until there has been a change after number `sequence`.
    fn wait_past(&self, sequence: u64, deadline: Option<Instant>) -> Result<(), WaitError> {
        let mut inner = self.lock();
        let mut blind = self.is_broken(Broken::WaitUnchecked);
        while inner.sequence == sequence || blind {
            blind = false;
            inner.waiters += 1;
            let Some(woken) = sync::wait(&self.changed, inner, deadline) else {
                self.lock().waiters -= 1;
                return Err(WaitError::Timeout {
                    actual: self.read(),
                });
            };
            inner = woken;
            inner.waiters -= 1;
        }
        Ok(())
    }

    /// Calls `observer` for every change from now on, in their order, one at a time, on whichever
    /// thread comes to tell it, without a lock. Dropping the subscription ends it.
    ///
    /// An observer that registers another is allowed: the new one is told of changes made after it
    /// was registered. One that panics is not called again and is counted in the [`Snapshot`].
    pub fn observe(
        self: &Arc<Self>,
        observer: impl Fn(&Change) + Send + Sync + 'static,
    ) -> Subscription {
        let mut inner = self.lock();
        let since = inner.sequence;
        Subscription::new(self, inner.delivery.add(since, Box::new(observer)))
    }

    /// Never, but in a model that puts the defect in.
    fn is_broken(&self, defect: Broken) -> bool {
        cfg!(loom) && self.broken == Some(defect)
    }

    pub(crate) fn lock(&self) -> sync::MutexGuard<'_, Inner> {
        sync::lock(&self.inner)
    }

    fn enter(
        &self,
        moves: &[(State, State)],
        why: Cause,
        entering: Entering,
    ) -> Result<(State, State), Refused> {
        let inner = self.lock();
        let actual = self.read();
        if sync::inside_observer() {
            return Err(Refused::InObserver { actual });
        }
        let Some(&(from, to)) = moves.iter().find(|(from, _)| *from == actual) else {
            let wanted = moves.iter().map(|(from, _)| *from).collect();
            return Err(Refused::Source { wanted, actual });
        };
        let sort = from.is_transient() || (entering == Entering::Transient) != to.is_transient();
        if sort || !table::is_legal(from, to) {
            return Err(Refused::NotInTable { from, to });
        }
        self.apply(inner, to, why);
        Ok((from, to))
    }

    /// Goes on from `via` to another transient state.
    pub(crate) fn step(&self, to: State, why: Cause) {
        let inner = self.lock();
        self.apply(inner, to, why);
    }

    /// Ends a transition in `to`, or where a fatal cause raised meanwhile leads.
    pub(crate) fn end(&self, via: State, to: State, why: Cause) -> State {
        let mut inner = self.lock();
        let fatal = inner.fatal;
        if self.is_broken(Broken::FatalUnlocked) {
            drop(inner);
            inner = self.lock();
        }
        let (to, why) = fatal
            .and_then(|cause| table::when_fatal(via).map(|guru| (guru, cause)))
            .unwrap_or((to, why));
        self.apply(inner, to, why);
        to
    }

    /// Ends a transition as if nothing had come of it.
    pub(crate) fn abandon(&self, via: State) -> State {
        let mut state = via;
        while let Some(to) = table::when_dropped(state) {
            if to.is_transient() {
                self.step(to, Cause::Abandoned);
                state = to;
            } else {
                return self.end(state, to, Cause::Abandoned);
            }
        }
        state
    }

    /// The only place where the state changes; then tells the observers, without the lock.
    fn apply(&self, mut inner: sync::MutexGuard<'_, Inner>, to: State, why: Cause) {
        let old = self.read();
        inner.previous = old;
        inner.sequence += 1;
        inner.cause = why;
        // Kept when it has succeeded.
        if let (Cause::Suspend(reason), false) = (why, to.is_transient()) {
            inner.last_suspend = Some(reason);
        }
        if let (Cause::Resume(reason), false) = (why, to.is_transient()) {
            inner.last_resume = Some(reason);
        }
        // Release pairs with the Acquire in `read`.
        self.number.store(to.number(), sync::Ordering::Release);
        if inner.waiters > 0 {
            self.changed.notify_all();
        }
        let change = Change {
            sequence: inner.sequence,
            old,
            new: to,
            cause: why,
        };
        let Some(observers) = inner.delivery.observers() else {
            return;
        };
        if self.gate.enter() || self.is_broken(Broken::TellAtOnce) {
            drop(inner);
            self.tell(change, observers);
        } else if inner.delivery.push(change) && self.gate.hand_over() {
            // What was queued is this change, and nothing else: the gate was idle.
            inner.delivery.take();
            self.gate.took(0);
            drop(inner);
            self.tell(change, observers);
        }
    }

    /// Tells of `change` and then of what is queued meanwhile, having entered the gate.
    fn tell(&self, mut change: Change, mut observers: Observers) {
        loop {
            let panics = observers.tell(&change);
            drop(observers);
            if panics > 0 {
                self.lock().delivery.panics += panics;
            }
            if self.gate.leave() || self.is_broken(Broken::LeaveUnchecked) {
                return;
            }
            let mut inner = self.lock();
            let (next, left) = inner
                .delivery
                .take()
                .expect("the gate is left open for a change");
            self.gate.took(left);
            change = next;
            observers = inner.delivery.observers().unwrap_or_default();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entering {
    Transient,
    Stable,
}

impl Inner {
    fn sequence_and_state(&self, cell: &StateCell) -> (u64, State) {
        (self.sequence, cell.read())
    }
}

impl std::fmt::Debug for StateCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StateCell").field(&self.read()).finish()
    }
}
