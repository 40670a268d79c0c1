// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the statistics said at one time, as plain data and as text for a person.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Things.
    Count,
    /// Times that something happened.
    Occurrences,
    /// Times that something was asked for.
    Calls,
    /// Bytes.
    Bytes,
    /// Pages of 4096 bytes.
    Pages,
    /// Nanoseconds.
    Ns,
    /// Per second.
    Hz,
    /// Hundredths.
    Percent,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 8] = [
        Self::Count,
        Self::Occurrences,
        Self::Calls,
        Self::Bytes,
        Self::Pages,
        Self::Ns,
        Self::Hz,
        Self::Percent,
    ];

    /// For a person, behind a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Occurrences => "times",
            Self::Calls => "calls",
            Self::Bytes => "bytes",
            Self::Pages => "pages",
            Self::Ns => "ns",
            Self::Hz => "Hz",
            Self::Percent => "%",
        }
    }
}

/// What a statistic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// It only grows, except by a reset.
    Counter(u64),
    /// What is now.
    Gauge(u64),
    /// Several amounts.
    Profile {
        /// How many.
        count: u64,
        /// Their sum.
        total: u64,
        /// The smallest, if there is one.
        min: Option<u64>,
        /// The greatest, if there is one.
        max: Option<u64>,
    },
}

impl Value {
    /// A profile in which nothing is recorded.
    pub const NO_PROFILE: Self = Self::Profile {
        count: 0,
        total: 0,
        min: None,
        max: None,
    };

    /// Whether it says nothing: zero, or no amounts.
    pub fn is_zero(self) -> bool {
        match self {
            Self::Counter(n) | Self::Gauge(n) | Self::Profile { count: n, .. } => n == 0,
        }
    }
}

/// One statistic at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its path, unique in a snapshot.
    pub path: String,
    /// What is counted.
    pub unit: Unit,
    /// Description, for a person.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub about: Cow<'static, str>,
    /// What it says.
    #[serde(flatten)]
    pub value: Value,
}

/// What the statistics said at one time, by path. `Display` is a table, a line for each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot {
    /// Sorted by path.
    pub samples: Vec<Sample>,
}

impl Snapshot {
    /// What the statistic of that path says.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.samples
            .iter()
            .find(|sample| sample.path == path)
            .map(|sample| sample.value)
    }

    /// Without those that say nothing.
    #[must_use]
    pub fn used(mut self) -> Self {
        self.samples.retain(|sample| !sample.value.is_zero());
        self
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.samples.iter().map(|s| s.path.chars().count());
        let wide = paths.max().unwrap_or(0);
        for sample in &self.samples {
            write!(f, "{:wide$}  ", sample.path)?;
            let unit = sample.unit.name();
            match sample.value {
                Value::Counter(n) | Value::Gauge(n) => write!(f, "{n:>14} {unit}")?,
                Value::Profile {
                    count,
                    total,
                    min: Some(min),
                    max: Some(max),
                } => {
                    let mean = total.checked_div(count).unwrap_or(0);
                    write!(
                        f,
                        "{total:>14} {unit} in {count}, mean {mean}, from {min} to {max}"
                    )?;
                }
                Value::Profile { .. } => write!(f, "{:>14}", "none")?,
            }
            if !sample.about.is_empty() {
                write!(f, "  ({})", sample.about)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
