// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Statistics: named counters, gauges and profiles that any thread reads while others count.
//!
//! | type | what it is |
//! |---|---|
//! | [`Stats`] | the registry: paths to what is counted |
//! | [`Counter`], [`Gauge`], [`Profile`] | what is counted in: relaxed adds, no lock |
//! | [`Sampled`] | what the registry reads and resets; the three above, or one's own |
//! | [`Registered`], [`Registration`] | a path that is taken, until this is dropped |
//! | [`Scope`] | the statistics of one owner, below one path |
//! | [`Pattern`] | which paths are meant: `*`, `?` and `\|` |
//! | [`Snapshot`], [`Sample`], [`Value`], [`Unit`] | what they said, as plain data, a table or OpenMetrics |
//!
//! Whoever counts touches its own cache line and nothing else. The registry's lock is taken to register,
//! to remove and to list, never while a value is read, and no code of others runs under it.
//!
//! A VM's reset leaves statistics alone: they count the life of the VM, not of its guest.
//!
//! ```
//! use vm_pdm::stats::{Stats, Unit, Value};
//!
//! let stats = Stats::new();
//! let sent = stats.counter("/net/0/sent", Unit::Bytes, "sent to the host")?;
//! sent.add(1500);
//! let snapshot = stats.snapshot(&"/net/*".parse()?);
//! assert_eq!(snapshot.get("/net/0/sent"), Some(Value::Counter(1500)));
//! drop(sent);
//! assert!(stats.snapshot(&Default::default()).samples.is_empty());
//! # Ok::<(), vm_pdm::stats::StatError>(())
//! ```

mod cells;
mod name;
mod openmetrics;
mod pattern;
mod scope;
mod snapshot;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use cells::{Counter, Gauge, Profile, Sampled};
pub use pattern::Pattern;
pub use scope::Scope;
pub use snapshot::{Sample, Snapshot, Unit, Value};

use cells::Line;

/// A path, a pattern, or a registration that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatError {
    /// The text is no path.
    #[error("no path of a statistic: {path:?}: {why}")]
    InvalidName {
        /// The text, shortened.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The path is too long.
    #[error("a path of {bytes} bytes is longer than the 239 a statistic may have: shorten it")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something else has the path, or a group covers it.
    #[error("{path} is taken by {by}: give each statistic its own path")]
    Exists {
        /// The path asked for.
        path: String,
        /// What has it.
        by: String,
    },
    /// The text is no pattern.
    #[error("no pattern of statistics: {why}")]
    Pattern {
        /// What is wrong.
        why: &'static str,
    },
}

/// One value of a group, by its name below the group's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Path below the group's, without a leading `/`.
    pub name: Cow<'static, str>,
    /// What is counted.
    pub unit: Unit,
    /// What it says.
    pub value: Value,
}

/// The statistics of a VM by path. Clones are the same registry. Any thread.
#[derive(Clone, Default)]
pub struct Stats {
    registry: Arc<Mutex<Registry>>,
}

impl Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(lock(&self.registry).entries.keys())
            .finish()
    }
}

#[derive(Default)]
struct Registry {
    entries: BTreeMap<String, Entry>,
    groups: BTreeMap<String, Fetch>,
}

type Fetch = Arc<dyn Fn() -> Vec<Reading> + Send + Sync>;

#[derive(Clone)]
struct Entry {
    unit: Unit,
    about: &'static str,
    cell: Arc<dyn Sampled>,
}

impl Stats {
    /// No statistics.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new counter on a cache line of its own.
    ///
    /// # Errors
    /// [`StatError::InvalidName`], [`StatError::TooLong`], [`StatError::Exists`].
    pub fn counter(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
    ) -> Result<Registered<Counter>, StatError> {
        self.cell(path, unit, about)
    }

    /// A new gauge on a cache line of its own.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn gauge(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
    ) -> Result<Registered<Gauge>, StatError> {
        self.cell(path, unit, about)
    }

    /// A new profile on a cache line of its own.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn profile(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
    ) -> Result<Registered<Profile>, StatError> {
        self.cell(path, unit, about)
    }

    fn cell<T: Sampled + Default + 'static>(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
    ) -> Result<Registered<T>, StatError> {
        let line = Arc::new(Line(T::default()));
        let registration = self.part(path, unit, about, &line, |line| &line.0)?;
        Ok(Registered { line, registration })
    }

    /// A part of a block that one thread counts in: give the block `#[repr(align(128))]`.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn part<B, T, F>(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
        block: &Arc<B>,
        part: F,
    ) -> Result<Registration, StatError>
    where
        B: Send + Sync + 'static,
        T: Sampled,
        F: Fn(&B) -> &T + Send + Sync + 'static,
    {
        let block = Arc::clone(block);
        self.register(path, unit, about, Arc::new(Part { block, part }))
    }

    /// Anything that can be read, such as what somebody else counts.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn register(
        &self,
        path: &str,
        unit: Unit,
        about: &'static str,
        cell: Arc<dyn Sampled>,
    ) -> Result<Registration, StatError> {
        let mut registry = lock(&self.registry);
        registry.check(path)?;
        let entry = Entry { unit, about, cell };
        registry.entries.insert(path.to_owned(), entry);
        drop(registry);
        Ok(self.registration(path))
    }

    /// Everything below `path`, fetched together once for each snapshot, such as what the host
    /// counts. What `fetch` gives under no valid name, or under one twice, is left out.
    ///
    /// # Errors
    /// As [`Stats::counter`].
    pub fn group(
        &self,
        path: &str,
        fetch: impl Fn() -> Vec<Reading> + Send + Sync + 'static,
    ) -> Result<Registration, StatError> {
        let mut registry = lock(&self.registry);
        registry.check(path)?;
        if let Some(below) = registry.entries.keys().find(|p| name::related(path, p)) {
            return Err(StatError::Exists {
                path: path.to_owned(),
                by: below.clone(),
            });
        }
        registry.groups.insert(path.to_owned(), Arc::new(fetch));
        drop(registry);
        Ok(self.registration(path))
    }

    fn registration(&self, path: &str) -> Registration {
        Registration {
            registry: Arc::downgrade(&self.registry),
            path: path.to_owned(),
        }
    }

    /// What the statistics of `which` say, by path. Each is read at its own moment.
    pub fn snapshot(&self, which: &Pattern) -> Snapshot {
        let (entries, groups) = {
            let registry = lock(&self.registry);
            let meant = registry.entries.iter().filter(|(p, _)| which.matches(p));
            let entries: Vec<_> = meant.map(|(p, e)| (p.clone(), e.clone())).collect();
            let groups: Vec<_> = registry
                .groups
                .iter()
                .map(|(p, fetch)| (p.clone(), Arc::clone(fetch)))
                .collect();
            (entries, groups)
        };
        let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
        for (path, entry) in entries {
            let sample = Sample {
                path: path.clone(),
                unit: entry.unit,
                about: Cow::Borrowed(entry.about),
                value: entry.cell.read(),
            };
            samples.insert(path, sample);
        }
        for (prefix, fetch) in groups {
            for Reading { name, unit, value } in fetch() {
                let path = format!("{prefix}/{name}");
                if name::check(&path).is_ok() && which.matches(&path) {
                    samples.entry(path.clone()).or_insert(Sample {
                        path,
                        unit,
                        about: Cow::Borrowed(""),
                        value,
                    });
                }
            }
        }
        Snapshot {
            samples: samples.into_values().collect(),
        }
    }

    /// Sets the counters and profiles of `which` back to nothing; how many statistics were meant.
    /// Gauges, and what is fetched in a group, stay as they are.
    pub fn reset(&self, which: &Pattern) -> usize {
        let cells: Vec<_> = {
            let registry = lock(&self.registry);
            let meant = registry.entries.iter().filter(|(p, _)| which.matches(p));
            meant.map(|(_, entry)| Arc::clone(&entry.cell)).collect()
        };
        for cell in &cells {
            cell.reset();
        }
        cells.len()
    }
}

impl Registry {
    fn check(&self, path: &str) -> Result<(), StatError> {
        name::check(path)?;
        let group = self.groups.keys().find(|group| name::related(group, path));
        let taken = self.entries.contains_key(path).then_some(path);
        match group.map(String::as_str).or(taken) {
            None => Ok(()),
            Some(by) => Err(StatError::Exists {
                path: path.to_owned(),
                by: by.to_owned(),
            }),
        }
    }
}

struct Part<B, F> {
    block: Arc<B>,
    part: F,
}

impl<B, T, F> Sampled for Part<B, F>
where
    B: Send + Sync,
    T: Sampled,
    F: Fn(&B) -> &T + Send + Sync,
{
    fn read(&self) -> Value {
        (self.part)(&self.block).read()
    }

    fn reset(&self) {
        (self.part)(&self.block).reset();
    }
}

/// A path that is taken. Dropped, the statistic is gone from the registry; a snapshot under way has
/// it whole or not at all.
#[must_use = "dropped, the statistic is gone"]
pub struct Registration {
    registry: Weak<Mutex<Registry>>,
    path: String,
}

impl Registration {
    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.path).finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else {
            return;
        };
        let mut registry = lock(&registry);
        let gone = (
            registry.entries.remove(&self.path),
            registry.groups.remove(&self.path),
        );
        // What the closures hold is dropped without the lock.
        drop(registry);
        drop(gone);
    }
}

/// Something to count in, registered until it is dropped.
#[must_use = "dropped, the statistic is gone"]
pub struct Registered<T> {
    line: Arc<Line<T>>,
    registration: Registration,
}

impl<T> Registered<T> {
    /// The path.
    pub fn path(&self) -> &str {
        self.registration.path()
    }
}

impl<T> Deref for Registered<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.line.0
    }
}

impl<T: Debug> Debug for Registered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered")
            .field(&self.registration.path)
            .field(&self.line.0)
            .finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
