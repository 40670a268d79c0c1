// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an EMT's loop must do next, as a value that merges by taking the most urgent.

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
