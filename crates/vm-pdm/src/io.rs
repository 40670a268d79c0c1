// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest access reaches.

use crate::{ResetKind, RuntimeError};

/// Something a device asks of the VM. The EMT collects effects, finishes the exit, and only then
/// acts, so a vCPU never re-enters the guest before what its access asked for has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Reset the VM.
    Reset(ResetKind),
    /// Suspend the VM; somebody resumes it.
    Suspend,
    /// Power the VM off.
    PowerOff,
    /// Suspend the VM, have its embedder save it, and power it off. If it cannot be saved it stays
    /// suspended.
    SaveAndPowerOff,
    /// The guest wrote to the debug-exit port: end the VM with this value.
    DebugExit(u32),
    /// The guest gave this vCPU up: it executes nothing until it is plugged again.
    Unplug(u32),
    /// Something failed while the access was served.
    Error(RuntimeError),
}

/// What a handler may ask of the VM while it serves an access.
#[derive(Debug, Default)]
pub struct IoCtx {
    effects: Vec<Effect>,
}

impl IoCtx {
    /// Nothing asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for `effect` after this access.
    pub fn raise(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Takes what was asked, in order.
    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

/// A device's handler of one range of ports or addresses.
///
/// # Thread
/// Any EMT, several at once: the handler synchronises itself. The bus holds no lock.
///
/// # What the bus sees to
/// `size` is 1, 2, 4 or (memory only) 8, and `offset + size` lies within the range; the bus splits or
/// refuses everything else. A handler that others call too may not rely on it for its own safety.
pub trait IoHandler: Send + Sync {
    /// Reads `size` bytes at `offset` in the range; the result is zero-extended.
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64;
    /// Writes the low `size` bytes of `value` at `offset` in the range.
    fn write(&self, cx: &mut IoCtx, offset: u64, size: u8, value: u64);
}
