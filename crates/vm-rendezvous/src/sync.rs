// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where this crate's atomics and locks come from: std, or the models of them under
//! `cfg(loom)` and `cfg(shuttle)`.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64},
};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64},
};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::thread::{ThreadId, current};

#[cfg(loom)]
pub(crate) use loom::thread::{ThreadId, current};

#[cfg(shuttle)]
pub(crate) use shuttle::thread::{ThreadId, current};

pub(crate) fn thread_id() -> ThreadId {
    current().id()
}
