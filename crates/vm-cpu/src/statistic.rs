// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an engine counts of its machines, as plain data.

use serde::{Deserialize, Serialize};

/// What a statistic counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StatisticUnit {
    /// Things, times, or nothing that has a unit.
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Ns,
}

/// How a statistic behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StatisticKind {
    /// It only grows.
    Grows,
    /// It says what is now, or what was the most so far.
    Now,
}

/// One thing that an engine, or the host below it, counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistic {
    /// The vCPU, or `None` for the machine as a whole.
    pub vcpu: Option<u32>,
    /// Name, as the engine or the host calls it.
    pub name: String,
    /// What is counted.
    pub unit: StatisticUnit,
    /// How it behaves.
    pub kind: StatisticKind,
    /// What it says.
    pub value: u64,
}
