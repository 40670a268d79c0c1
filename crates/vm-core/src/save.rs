// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a save is driven through: the saver, its votes, and cancelling.
//!
//! The lifecycle of a save is here and in `ops::save`; what is written is the saver's own business.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sync::AtomicBool;
use crate::{BoxError, Emt};

/// What a saver says after a live pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    /// Another pass, while the VM runs.
    Again,
    /// The rest is small enough for the final pass.
    Done,
}

/// What comes after the save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// The VM goes on here, or is destroyed here.
    Snapshot,
    /// The VM goes on elsewhere.
    Teleport,
}

/// How a saver is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// All was written: keep it.
    Keep,
    /// Something failed or was cancelled: drop what was written.
    Drop,
}

/// Writes a VM's state.
pub trait Saver: Send {
    /// Opens what is written to, before anything of the VM changes.
    ///
    /// # Thread
    /// The caller's.
    ///
    /// # Errors
    /// Whatever it failed with; the VM is as before.
    fn open(&mut self) -> Result<(), BoxError>;

    /// One pass while the VM runs, numbered from 0. Not called if the VM was suspended already.
    ///
    /// # Thread
    /// The caller's.
    ///
    /// # Errors
    /// Whatever it failed with; the save ends and the VM runs on.
    fn pass(&mut self, pass: u32, cancel: &Cancel) -> Result<Vote, BoxError>;

    /// The final pass, with the VM suspended.
    ///
    /// # Thread
    /// EMT 0.
    ///
    /// # Errors
    /// Whatever it failed with; the save ends and the VM stays suspended.
    fn finish(&mut self, emt: &mut Emt, cancel: &Cancel) -> Result<(), BoxError>;

    /// The end, called exactly once after a successful `open`.
    ///
    /// # Thread
    /// The caller's.
    ///
    /// # Errors
    /// Whatever it failed with; a failed `Keep` is a failed save.
    fn close(&mut self, closing: Closing) -> Result<(), BoxError>;
}

/// Whether a save was cancelled. Clones speak of the same save.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Cancels; `false` if it was cancelled before.
    pub(crate) fn cancel(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
}

/// A finished save. The VM is SUSPENDED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Live passes.
    pub passes: u32,
    /// Who suspended the VM.
    pub suspended_by: SuspendedBy,
}

/// Who suspended a VM that was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspendedBy {
    /// The save itself: whoever saved may want to resume.
    Save,
    /// Somebody else, before or during the save.
    Other,
}

/// Why a save has no result.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A save is under way already.
    #[error("another save is under way: wait for it or cancel it")]
    Busy,
    /// It was cancelled.
    #[error("the save was cancelled")]
    Cancelled,
    /// The VM was powered off meanwhile.
    #[error("the VM was powered off during the save")]
    PoweredOff,
    /// The VM went into guru meditation or a fatal error meanwhile.
    #[error("the VM died during the save")]
    Died,
    /// A device asked for a save, and there is nothing to save through.
    #[error("a device asked for a save, and the machine has no saver: give `Parts` one")]
    NoSaver,
    /// The guest's memory changed faster than it could be written.
    #[error("the save did not converge in {passes} passes")]
    TooManyPasses {
        /// How many there were.
        passes: u32,
    },
    /// The saver failed.
    #[error("the saver failed")]
    Saver(#[source] BoxError),
}

/// A cancel that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// No save is under way.
    #[error("no save is under way")]
    NothingPending,
    /// The save was cancelled before.
    #[error("the save was cancelled already")]
    AlreadyCancelled,
}
