// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The one thing this crate asks of a CPU backend: make a vCPU leave the guest.

/// Makes one vCPU leave the guest soon, or not enter it. Implemented by a CPU backend.
///
/// A kick is a level, not an edge: one that lands between [`Bell::enter`](crate::Bell::enter) and
/// the instruction that enters the guest must still make that entry end at once, because the bell
/// kicks once per ring that found the EMT in the guest and then relies on it.
pub trait Kick: Send + Sync + std::fmt::Debug {
    /// Kicks. Any thread; must not block.
    fn kick(&self);
}
