// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What went wrong with a VM: counted, kept, and told to those who listen, in order.
//!
//! Invariant: an error has its number when it is reported, and is told when what becomes of the VM
//! has happened; errors are told in the order of their numbers, one at a time, by one thread, which
//! holds no lock. Memory is bounded: beyond [`QUEUE_LIMIT`] an error is counted and not told.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;
use vm_pdm::{Action, RuntimeError};

use crate::VmError;
use crate::emt::describe;
use crate::sync::{AtomicBool, Mutex, lock};

/// Errors that may wait to be told.
const QUEUE_LIMIT: usize = 1024;

/// Bytes of a message that are kept.
const TEXT_LIMIT: usize = 512;

/// One error, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorEvent {
    /// Its number, counted from 1 for each VM over both kinds; a gap means errors that were not told.
    pub sequence: u64,
    /// What went wrong.
    pub what: Reported,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// An operation on the VM failed or was refused.
    Operation {
        /// The operation.
        op: &'static str,
        /// The error and its causes.
        text: String,
    },
    /// A device, or the host, failed at run time.
    Runtime(RuntimeError),
}

impl fmt::Display for ErrorEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Reported::Operation { text, .. } => f.write_str(text),
            Reported::Runtime(error) => error.fmt(f),
        }
    }
}

/// What went wrong with a VM so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errors {
    /// Operations that failed or were refused.
    pub vm_errors: u64,
    /// Runtime errors.
    pub runtime_errors: u64,
    /// The last operation that failed.
    pub last: Option<ErrorEvent>,
    /// The last runtime error.
    pub last_runtime: Option<ErrorEvent>,
    /// Errors that nobody was told of, because there were too many at once or the VM was gone.
    pub untold: u64,
}

/// [`Errors`] in a few words, for a [`Status`](crate::Status).
#[derive(Debug, Clone, Default, Serialize)]
pub struct ErrorSummary {
    /// Operations that failed or were refused.
    pub vm: u64,
    /// Runtime errors.
    pub runtime: u64,
    /// The last operation that failed, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The last runtime error, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_runtime: Option<String>,
}

impl From<Errors> for ErrorSummary {
    fn from(errors: Errors) -> Self {
        let text = |event: Option<ErrorEvent>| event.map(|e| e.to_string());
        Self {
            vm: errors.vm_errors,
            runtime: errors.runtime_errors,
            last: text(errors.last),
            last_runtime: text(errors.last_runtime),
        }
    }
}

/// The registration of who listens to errors; ends when dropped, which is fine inside the listener.
///
/// After the drop no call begins; one that another thread has begun may still be running.
#[must_use = "a listener whose subscription is dropped is not called"]
pub struct ErrorSubscription {
    ledger: Arc<Ledger>,
    listener: Arc<Listener>,
}

impl Drop for ErrorSubscription {
    fn drop(&mut self) {
        self.listener.gone.store(true, Ordering::SeqCst);
        let listeners = &mut lock(&self.ledger.inner).listeners;
        Arc::make_mut(listeners).retain(|other| !Arc::ptr_eq(other, &self.listener));
    }
}

impl fmt::Debug for ErrorSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorSubscription")
            .field("since", &self.listener.since)
            .finish_non_exhaustive()
    }
}

struct Listener {
    /// The number of the last error before it.
    since: u64,
    gone: AtomicBool,
    call: Box<dyn Fn(&ErrorEvent) + Send + Sync>,
}

/// An error that waits to be told.
struct Entry {
    event: Arc<ErrorEvent>,
    /// What becomes of the VM; `None` when it has happened.
    due: Option<Action>,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    vm_errors: u64,
    runtime_errors: u64,
    last: Option<Arc<ErrorEvent>>,
    last_runtime: Option<Arc<ErrorEvent>>,
    untold: u64,
    queue: VecDeque<Entry>,
    listeners: Arc<Vec<Arc<Listener>>>,
    telling: bool,
    /// What is due besides what the queue says: a suspend that was asked for while the VM was on its
    /// way and is due when it runs again, or what an error asked for that found no room.
    owed: Option<Action>,
}

/// What an EMT finds to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The most severe of what was asked for.
    pub(crate) action: Action,
    /// It settles the errors up to this number.
    pub(crate) upto: u64,
}

/// All errors of one VM.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Whether [`Ledger::due`] may find something; written under the lock.
    attention: AtomicBool,
    inner: Mutex<Inner>,
}

impl Ledger {
    /// Notes a runtime error. The caller then rings an EMT, which looks at [`Ledger::due`].
    pub(crate) fn raise(&self, mut error: RuntimeError) {
        error.message = bounded(error.message);
        error.source = bounded(error.source);
        log::error!(target: "vm.error", "{error}");
        let action = error.action;
        let mut inner = lock(&self.inner);
        inner.runtime_errors += 1;
        let event = inner.number(Reported::Runtime(error));
        inner.last_runtime = Some(Arc::clone(&event));
        if !inner.queue(event, Some(action)) {
            inner.owe(action);
        }
        self.attention.store(inner.attention(), Ordering::SeqCst);
    }

    /// Notes that an operation failed, and tells it. Its caller has it as well, so the log has it only
    /// if nobody listens, and not as an error if nothing came of it.
    pub(crate) fn failed(&self, op: &'static str, error: &VmError) {
        let text = bounded(describe(error));
        let mut inner = lock(&self.inner);
        inner.vm_errors += 1;
        let refused = matches!(
            error,
            VmError::Refused { .. } | VmError::WouldBlock { .. } | VmError::Spec { .. }
        );
        let level = if refused || !inner.listeners.is_empty() {
            log::Level::Debug
        } else {
            log::Level::Error
        };
        let event = inner.number(Reported::Operation { op, text });
        inner.last = Some(Arc::clone(&event));
        let logged = Arc::clone(&event);
        inner.queue(event, None);
        drop(inner);
        log::log!(target: "vm.error", level, "{logged}");
        self.tell();
    }

    /// Whether an EMT has to look. One load.
    pub(crate) fn attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// What is to be done, if anything.
    pub(crate) fn due(&self) -> Option<Due> {
        let inner = lock(&self.inner);
        let asked = inner.queue.iter().filter_map(|entry| entry.due);
        Some(Due {
            action: asked.chain(inner.owed).reduce(severer)?,
            upto: inner.sequence,
        })
    }

    /// What was due has happened, or nothing has to.
    pub(crate) fn settle(&self, due: Due) {
        let mut inner = lock(&self.inner);
        for entry in &mut inner.queue {
            if entry.event.sequence <= due.upto {
                entry.due = None;
            }
        }
        if due.action == Action::Fatal {
            inner.owed = None;
        }
        self.attention.store(inner.attention(), Ordering::SeqCst);
    }

    /// A suspend that was asked for cannot be done now, but when the VM runs again.
    pub(crate) fn owe_suspend(&self) {
        let mut inner = lock(&self.inner);
        inner.owe(Action::Suspend);
        self.attention.store(inner.attention(), Ordering::SeqCst);
    }

    /// No suspend is owed any more.
    pub(crate) fn quit_suspend(&self) {
        let mut inner = lock(&self.inner);
        inner.owed = inner.owed.filter(|owed| *owed == Action::Fatal);
        self.attention.store(inner.attention(), Ordering::SeqCst);
    }

    /// Tells what is settled, unless another thread is telling, which then tells this too.
    pub(crate) fn tell(&self) {
        let mut inner = lock(&self.inner);
        if std::mem::replace(&mut inner.telling, true) {
            return;
        }
        while let Some(entry) = inner.queue.pop_front_if(|entry| entry.due.is_none()) {
            let listeners = Arc::clone(&inner.listeners);
            drop(inner);
            for listener in &*listeners {
                listener.tell(&entry.event);
            }
            inner = lock(&self.inner);
        }
        inner.telling = false;
    }

    /// Calls `call` for every error from now on.
    pub(crate) fn observe(
        self: &Arc<Self>,
        call: impl Fn(&ErrorEvent) + Send + Sync + 'static,
    ) -> ErrorSubscription {
        let mut inner = lock(&self.inner);
        let listener = Arc::new(Listener {
            since: inner.sequence,
            gone: AtomicBool::new(false),
            call: Box::new(call),
        });
        // Whoever is telling keeps the old list.
        Arc::make_mut(&mut inner.listeners).push(Arc::clone(&listener));
        ErrorSubscription {
            ledger: Arc::clone(self),
            listener,
        }
    }

    pub(crate) fn read(&self) -> Errors {
        let inner = lock(&self.inner);
        let of = |event: &Option<Arc<ErrorEvent>>| event.as_deref().cloned();
        Errors {
            vm_errors: inner.vm_errors,
            runtime_errors: inner.runtime_errors,
            last: of(&inner.last),
            last_runtime: of(&inner.last_runtime),
            untold: inner.untold,
        }
    }
}

impl Inner {
    fn number(&mut self, what: Reported) -> Arc<ErrorEvent> {
        self.sequence += 1;
        Arc::new(ErrorEvent {
            sequence: self.sequence,
            what,
        })
    }

    /// False if there is no room: the error stays untold.
    fn queue(&mut self, event: Arc<ErrorEvent>, due: Option<Action>) -> bool {
        let room = self.queue.len() < QUEUE_LIMIT;
        if room {
            self.queue.push_back(Entry { event, due });
        } else {
            self.untold += 1;
        }
        room
    }

    fn owe(&mut self, action: Action) {
        if action != Action::Inform {
            self.owed = Some(self.owed.map_or(action, |owed| severer(owed, action)));
        }
    }

    fn attention(&self) -> bool {
        self.owed.is_some() || self.queue.iter().any(|entry| entry.due.is_some())
    }
}

impl Listener {
    fn tell(&self, event: &ErrorEvent) {
        if self.since >= event.sequence || self.gone.load(Ordering::SeqCst) {
            return;
        }
        if !vm_state::as_observer(|| (self.call)(event)) {
            log::error!(target: "vm.error", "a listener to errors panicked; it is not called again");
            self.gone.store(true, Ordering::SeqCst);
        }
    }
}

fn severer(a: Action, b: Action) -> Action {
    match (a, b) {
        (Action::Fatal, _) | (_, Action::Fatal) => Action::Fatal,
        (Action::Suspend, _) | (_, Action::Suspend) => Action::Suspend,
        (Action::Inform, Action::Inform) => Action::Inform,
    }
}

fn bounded(mut text: String) -> String {
    let mut end = TEXT_LIMIT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(action: Action) -> RuntimeError {
        RuntimeError {
            id: "DiskFull",
            source: "blk0".into(),
            message: "é".repeat(1000),
            action,
        }
    }

    fn due(action: Action, upto: u64) -> Option<Due> {
        Some(Due { action, upto })
    }

    #[test]
    fn the_severest_of_what_is_asked_for_is_due() {
        let ledger = Ledger::default();
        assert_eq!((ledger.due(), ledger.attention()), (None, false));
        ledger.raise(error(Action::Suspend));
        ledger.raise(error(Action::Inform));
        assert_eq!(ledger.due(), due(Action::Suspend, 2));
        ledger.raise(error(Action::Fatal));
        assert_eq!(ledger.due(), due(Action::Fatal, 3));
        ledger.settle(ledger.due().expect("there is one"));
        assert_eq!((ledger.due(), ledger.attention()), (None, false));
    }

    #[test]
    fn a_suspend_that_is_owed_stays_due_when_its_error_is_settled() {
        let ledger = Ledger::default();
        ledger.raise(error(Action::Suspend));
        ledger.owe_suspend();
        ledger.settle(ledger.due().expect("there is one"));
        assert_eq!(ledger.due(), due(Action::Suspend, 1));
        ledger.quit_suspend();
        assert_eq!((ledger.due(), ledger.attention()), (None, false));
    }

    #[test]
    fn errors_beyond_the_bound_are_counted_and_what_they_ask_for_is_due_all_the_same() {
        let ledger = Ledger::default();
        for _ in 0..=QUEUE_LIMIT {
            ledger.raise(error(Action::Inform));
        }
        ledger.raise(error(Action::Fatal));
        let read = ledger.read();
        assert_eq!((read.runtime_errors, read.untold), (1026, 2));
        let due = ledger.due().expect("there is one");
        assert_eq!(due.action, Action::Fatal);
        ledger.settle(due);
        assert!(!ledger.attention());
    }

    #[test]
    fn a_message_is_cut_where_a_character_ends() {
        let ledger = Ledger::default();
        ledger.raise(error(Action::Inform));
        let last = ledger.read().last_runtime.expect("there is one");
        let Reported::Runtime(error) = last.what else {
            panic!("{last:?}")
        };
        assert_eq!(error.message, "é".repeat(TEXT_LIMIT / 2));
    }
}
