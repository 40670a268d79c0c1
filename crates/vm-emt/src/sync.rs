// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where this crate's atomics come from: std, or loom's models of them under `cfg(loom)`.
//!
//! What is not part of the doorbell protocol (counters, the kick slot, the list of watchers, the
//! number that tells VMs apart) stays std's even under loom: it orders nothing, and modelling it
//! would only multiply the interleavings.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU32;

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, atomic::AtomicU32};

#[cfg(not(loom))]
std::thread_local! {
    /// Which EMT of which VM the calling thread is: (VM number, vCPU); VM number 0 is "none".
    pub(crate) static ME: std::cell::Cell<(u64, u32)> = const { std::cell::Cell::new((0, 0)) };
}

#[cfg(loom)]
loom::thread_local! {
    /// Which EMT of which VM the calling thread is: (VM number, vCPU); VM number 0 is "none".
    pub(crate) static ME: std::cell::Cell<(u64, u32)> = std::cell::Cell::new((0, 0));
}
