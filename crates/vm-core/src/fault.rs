// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Mistakes put in on purpose, which the models must catch. Without `cfg(shuttle)` there is no way
//! to put one in.

/// One mistake.
#[cfg_attr(
    not(shuttle),
    expect(unreachable_pub, reason = "only a model names one")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None: the real thing.
    #[cfg(shuttle)]
    None,
    /// One of the doorbells', the queues' or the rendezvous'.
    #[cfg(shuttle)]
    Below(vm_emt::Fault),
    /// An operation that is undone leaves the EMTs parked that saw its interim state.
    UndoWithoutRing,
    /// An EMT looks at its sources, then clears its bell.
    ClearAfterLook,
}
