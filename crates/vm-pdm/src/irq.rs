// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Interrupt lines.

use std::fmt::{self, Debug};
use std::sync::Arc;

/// The inputs of an interrupt controller.
pub trait IrqChip: Send + Sync {
    /// Sets the level of an input. Any thread.
    fn set(&self, gsi: u32, level: Level);
    /// The guest acknowledged a level-triggered interrupt of this vector. Any thread. A controller
    /// without level-triggered inputs needs nothing.
    fn eoi(&self, _vector: u8) {}
}

/// Level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

/// Where an interrupt controller sends its messages: the engine.
pub trait MsiSink: Send + Sync {
    /// Delivers one message. A refusal by the host is the sink's to report.
    fn deliver(&self, addr: u64, data: u32);
    /// The inputs' current routes, after the guest changed one: (addr, data), `None` for masked.
    fn route(&self, pins: &[Option<(u64, u32)>]);
}

/// One input of an interrupt controller, as a device holds it.
#[derive(Clone)]
pub struct IrqLine {
    chip: Arc<dyn IrqChip>,
    gsi: u32,
}

impl Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqLine")
            .field("gsi", &self.gsi)
            .finish_non_exhaustive()
    }
}

impl IrqLine {
    /// Input `gsi` of `chip`.
    pub fn new(chip: Arc<dyn IrqChip>, gsi: u32) -> Self {
        Self { chip, gsi }
    }

    /// Sets the level.
    pub fn set(&self, level: Level) {
        self.chip.set(self.gsi, level);
    }

    /// An edge: high, then low.
    pub fn pulse(&self) {
        self.chip.set(self.gsi, Level::High);
        self.chip.set(self.gsi, Level::Low);
    }
}
