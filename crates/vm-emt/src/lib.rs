// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One doorbell word per emulation thread: ring, park, enter the guest, kick.

/// Makes one vCPU leave the guest soon, or not enter it. Implemented by a CPU backend.
pub trait Kick: Send + Sync + std::fmt::Debug {
    /// Kicks. Any thread; must not block.
    fn kick(&self);
}

/// What an EMT's loop must do after it attended to something, the most urgent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Flow {
    /// Nothing changed: go on.
    #[default]
    Continue,
    /// Look at the VM's state again before entering the guest.
    Look,
    /// Leave the loop: the thread ends.
    Stop,
}
