// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The statistics of one owner: names below its path, guards kept together.

use std::sync::Arc;

use super::{Registration, Sampled, StatError, Stats, Unit};

/// Where an owner, such as a device, registers what it counts: all below one path.
#[derive(Debug)]
pub struct Scope {
    stats: Stats,
    path: String,
    kept: Vec<Registration>,
}

impl Scope {
    /// Everything below `path`.
    pub fn new(stats: &Stats, path: &str) -> Self {
        Self {
            stats: stats.clone(),
            path: path.to_owned(),
            kept: Vec::new(),
        }
    }

    /// A part of what the owner counts in, under `name`: `sent`, `queue/0/kicks`. A block that an EMT
    /// counts in is best `#[repr(align(128))]`.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn part<B, T, F>(
        &mut self,
        name: &str,
        unit: Unit,
        about: &'static str,
        block: &Arc<B>,
        part: F,
    ) -> Result<&mut Self, StatError>
    where
        B: Send + Sync + 'static,
        T: Sampled,
        F: Fn(&B) -> &T + Send + Sync + 'static,
    {
        let path = format!("{}/{name}", self.path);
        let guard = self.stats.part(&path, unit, about, block, part)?;
        self.kept.push(guard);
        Ok(self)
    }

    /// Anything that can be read, such as a closure that gives a [`Value`](super::Value).
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn read(
        &mut self,
        name: &str,
        unit: Unit,
        about: &'static str,
        cell: impl Sampled + 'static,
    ) -> Result<&mut Self, StatError> {
        let path = format!("{}/{name}", self.path);
        let guard = self.stats.register(&path, unit, about, Arc::new(cell))?;
        self.kept.push(guard);
        Ok(self)
    }

    /// The guards: dropped, the owner's statistics are gone.
    pub fn into_guards(self) -> Vec<Registration> {
        self.kept
    }
}
