// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a device speaks to its VM when no guest access is under way: it is done, or its host failed.

use std::fmt;
use std::sync::Arc;

/// Tells the VM that a device which was pending is done. Clones tell the same VM. Any thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`, which must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Has the VM look at [`Device::is_pending`](crate::Device::is_pending) again.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What becomes of a VM whose device, or whose host, failed at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The VM goes on; whoever listens is told.
    Inform,
    /// The VM is suspended, so that somebody can mend what failed and resume it.
    Suspend,
    /// The VM cannot be trusted any more: only power-off is left.
    Fatal,
}

/// Something that failed while the VM was there, other than an operation on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeError {
    /// What kind of failure, in CamelCase, at most [`RuntimeError::ID_MAX`] bytes; never changes, so
    /// that a program may act on it: `DiskFull`.
    pub id: &'static str,
    /// Instance name of the device, or whatever else failed.
    pub source: String,
    /// What failed and what to do, for a person.
    pub message: String,
    /// What becomes of the VM.
    pub action: Action,
}

impl RuntimeError {
    /// Bytes of an id, at most.
    pub const ID_MAX: usize = 127;
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            source,
            message,
            ..
        } = self;
        write!(f, "{source}: {message} ({id})")
    }
}

/// Reports an error at run time. Clones report to the same VM. Any thread, also one that holds a lock
/// an EMT wants: it never blocks, and what becomes of the VM happens later.
///
/// A handler that serves a guest's access raises [`Effect::Error`](crate::Effect::Error) instead, so
/// that its vCPU does not re-enter the guest first.
#[derive(Clone)]
pub struct Raiser(Arc<dyn Fn(RuntimeError) + Send + Sync>);

impl Raiser {
    /// A raiser that calls `raise`, which must not block.
    pub fn new(raise: impl Fn(RuntimeError) + Send + Sync + 'static) -> Self {
        Self(Arc::new(raise))
    }

    /// Reports `error`.
    pub fn raise(&self, error: RuntimeError) {
        (self.0)(error);
    }
}

impl fmt::Debug for Raiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raiser")
    }
}

/// What a device gets from its VM, once, when the VM is built.
#[derive(Debug, Clone)]
pub struct Link {
    /// For a device that can be pending.
    pub waker: Waker,
    /// For a device whose host end can fail.
    pub raiser: Raiser,
}
