// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's ends of a stream, which come and go while the guest runs.
//!
//! # Change
//! Each end lies in the stream's state, or is lent to the one thread that works with it: input while
//! it is read or waited for, output during one write. A change asks for both back and happens under
//! the lock as soon as both lie there and what the guest had sent before it has been written, done by
//! whoever comes to that. Given up before, it leaves nothing behind but a look at the input.
//!
//! # Output
//! What waits in the outbox when a change is begun still goes to the ends that go, all later bytes to
//! those that come; in between the thread takes none. While the VM is suspended, and where no thread
//! runs, the outbox stands still: a change does not wait for it, and what it holds goes to whatever is
//! attached when it moves again. With nothing attached output is taken, counted and dropped, so the
//! guest never waits for a reader that is not there.
//!
//! # Input
//! While a change waits nothing is read. What was read before it is the guest's, what was not stays
//! with whoever sent it.

use std::fmt::{self, Display, Write as _};
use std::io::Write;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use vm_pdm::info::Page;
use vm_pdm::stats::{Counter, Scope, StatError, Unit};
use vm_pdm::{Begun, Change, Place, PlaceError};

use super::{Input, OUTPUT, Port, SerialInput, Shared, Sink, State, Stream};

/// The host's ends of a serial port or console: where input comes from, where output goes, and what a
/// person knows them as, which is how they are shown.
///
/// Reads and writes are made on the device's own threads, and may block.
///
/// They come and go while the VM is there, and its guest sees nothing of that. Without any, output is
/// discarded and counted and no input comes. Output that the guest sent before a change was begun goes
/// to the ends that go, later output to those that come, in order and once; while the VM is suspended
/// output is in the device, and goes to what is attached at the resume. Ends that are stuck in a read
/// or write stay after the limit.
pub struct Ends {
    name: String,
    input: Option<Input>,
    /// It is gone if it panicked.
    output: Option<Sink>,
}

impl Ends {
    /// `name` is what logs, pages and errors call them: a path, an address. Without `input` none comes.
    pub fn new(
        name: &str,
        input: Option<Box<dyn SerialInput>>,
        output: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            input,
            output: Some(output),
        }
    }
}

impl Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One end.
pub(super) enum Slot<T> {
    Here(Option<T>),
    /// A thread has it.
    Lent,
}

impl<T> Slot<T> {
    /// Lends it, if there is one and nobody has it.
    pub(super) fn lend(&mut self) -> Option<T> {
        match std::mem::replace(self, Self::Lent) {
            Self::Here(Some(end)) => Some(end),
            Self::Here(None) => {
                *self = Self::Here(None);
                None
            }
            Self::Lent => None,
        }
    }

    pub(super) fn give_back(&mut self, end: T) {
        *self = Self::Here(Some(end));
    }

    /// The thread that could have it is no more.
    pub(super) fn recover(&mut self) {
        if matches!(self, Self::Lent) {
            *self = Self::Here(None);
        }
    }

    fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    fn into_end(self) -> Option<T> {
        match self {
            Self::Here(end) => end,
            Self::Lent => None,
        }
    }
}

/// What is attached, under the stream's lock.
pub(super) struct Attached {
    name: Option<String>,
    pub(super) input: Slot<Input>,
    pub(super) output: Slot<Sink>,
    /// Why no more input comes.
    ended: Option<String>,
    /// Why output was lost.
    lost: Option<String>,
}

impl Attached {
    pub(super) fn new(ends: Option<Ends>) -> Self {
        let (name, input, output) = match ends {
            Some(ends) => (Some(ends.name), ends.input, ends.output),
            None => (None, None, None),
        };
        Self {
            name,
            input: Slot::Here(input),
            output: Slot::Here(output),
            ended: None,
            lost: None,
        }
    }

    fn into_ends(self) -> Option<Ends> {
        Some(Ends {
            name: self.name?,
            input: self.input.into_end(),
            output: self.output.into_end(),
        })
    }

    fn describe(&self, page: &mut Page) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("nothing");
        writeln!(page, "attached: {name}")?;
        if let Some(why) = &self.ended {
            writeln!(page, "no more input comes: {why}")?;
        }
        if let Some(why) = &self.lost {
            writeln!(page, "output was lost: {why}")?;
        }
        Ok(())
    }
}

/// A change that was begun and not yet settled.
pub(super) enum Underway {
    Waits {
        next: Option<Ends>,
        /// Bytes of the outbox that still go to the ends that are there.
        ahead: usize,
    },
    Done {
        /// What was there before, until whoever changed it closes it.
        left: Option<Ends>,
    },
}

/// What is counted of the ends.
#[derive(Default)]
pub(super) struct Counts {
    /// Bytes that nobody took.
    pub(super) discarded: Counter,
    changes: Counter,
}

impl<P: Port> State<P> {
    /// Bytes that still go to the ends that are there, if a change waits.
    pub(super) fn ahead(&mut self) -> Option<&mut usize> {
        match &mut self.change {
            Some(Underway::Waits { ahead, .. }) => Some(ahead),
            Some(Underway::Done { .. }) | None => None,
        }
    }

    /// Whether a change waits that can happen now.
    fn is_free(&self) -> bool {
        let Some(Underway::Waits { ahead, .. }) = &self.change else {
            return false;
        };
        let moves = self.running & OUTPUT != 0 && !self.port.is_held();
        let is_written = !moves || (*ahead).min(self.port.queued()) == 0;
        is_written && self.ends.input.is_here() && self.ends.output.is_here()
    }
}

impl<P: Port> Shared<P> {
    /// Does the change that waits, if it can be. After everything that may make it so.
    pub(super) fn try_change(&self, state: &mut State<P>) {
        if !state.is_free() {
            return;
        }
        if let Some(Underway::Waits { next, .. }) = state.change.take() {
            let left = std::mem::replace(&mut state.ends, Attached::new(next)).into_ends();
            state.change = Some(Underway::Done { left });
            self.counts.changes.inc();
            self.settled.notify_all();
            self.look();
        }
    }

    /// Has both threads look at what there is to do.
    fn look(&self) {
        self.output.notify_one();
        self.wake_input();
    }

    /// No more input comes from what is attached.
    pub(super) fn input_ended(&self, why: &str) {
        self.lock().ends.ended = Some(why.to_owned());
    }

    /// `bytes` of output were lost; tells the user of the first of what is attached.
    pub(super) fn output_lost(&self, bytes: usize, why: &str) {
        self.counts.discarded.add(bytes as u64);
        let mut state = self.lock();
        let is_first = state.ends.lost.replace(why.to_owned()).is_none();
        let name = state.ends.name.clone().unwrap_or_default();
        drop(state);
        if is_first {
            let device = &self.device;
            log::warn!(target: P::LOG, "{device}: output to {name} is lost from here on: {why}");
        }
    }
}

impl<P: Port> Place<Ends> for Stream<P> {
    fn device(&self) -> &str {
        &self.shared.device
    }

    fn attached(&self) -> Option<String> {
        self.shared.lock().ends.name.clone()
    }

    fn begin(&self, change: Change<Ends>) -> Result<Begun, PlaceError> {
        let mut state = self.shared.lock();
        let device = || self.device().to_owned();
        if state.change.is_some() {
            return Err(PlaceError::Underway { device: device() });
        }
        match (&change, &state.ends.name) {
            (Change::Attach(_), Some(there)) => {
                let what = there.clone();
                return Err(PlaceError::Attached {
                    device: device(),
                    what,
                });
            }
            (Change::Detach, None) => return Err(PlaceError::Empty { device: device() }),
            (Change::Attach(_) | Change::Replace(_) | Change::Detach, _) => {}
        }
        state.begun += 1;
        let begun = Begun(state.begun);
        let ahead = state.port.queued();
        let next = change.into_backend();
        state.change = Some(Underway::Waits { next, ahead });
        self.shared.try_change(&mut state);
        drop(state);
        self.shared.look();
        Ok(begun)
    }

    fn settle(&self, begun: Begun, limit: Duration) -> Result<(), PlaceError> {
        let waits = |state: &mut State<P>| state.begun == begun.0 && state.ahead().is_some();
        let (mut state, _) = self
            .shared
            .settled
            .wait_timeout_while(self.shared.lock(), limit, waits)
            .unwrap_or_else(PoisonError::into_inner);
        if state.begun != begun.0 {
            return Ok(());
        }
        let change = state.change.take();
        drop(state);
        // What it has is closed here, out of the lock.
        match change {
            Some(Underway::Waits { next, .. }) => {
                self.shared.look();
                drop(next);
                let device = self.device().to_owned();
                Err(PlaceError::Late { device, limit })
            }
            Some(Underway::Done { left }) => {
                drop(left);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl<P: Port> Stream<P> {
    /// Writes what is attached and how it fares.
    pub(crate) fn describe(&self, page: &mut Page) -> fmt::Result {
        self.shared.lock().ends.describe(page)
    }

    pub(crate) fn register(&self, scope: &mut Scope) -> Result<(), StatError> {
        let counts: &Arc<Counts> = &self.shared.counts;
        scope
            .part("discarded", Unit::Bytes, "that nobody took", counts, |c| {
                &c.discarded
            })?
            .part(
                "changes",
                Unit::Occurrences,
                "of what is attached",
                counts,
                |c| &c.changes,
            )?;
        Ok(())
    }
}
