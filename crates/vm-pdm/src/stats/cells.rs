// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The cells that are counted in, and how each is read and reset.
//!
//! Adding is one relaxed atomic operation (four for a profile) on the cell's own cache line, or on
//! that of the block it is a part of. Nothing here orders anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Value;

/// A value with a cache line of its own; two lines, since some processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);

/// How often something happened. It only grows, except by [`Stats::reset`](super::Stats::reset).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more; wraps at 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed: a statistic that orders nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        // Relaxed: a statistic that orders nothing.
        self.0.load(Ordering::Relaxed)
    }
}

/// How much there is of something now. A reset leaves it alone.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// There is `value` of it now.
    #[inline]
    pub fn set(&self, value: u64) {
        // Relaxed: a statistic that orders nothing.
        self.0.store(value, Ordering::Relaxed);
    }

    /// `n` more; wraps at 2^64.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed: a statistic that orders nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// `n` less; wraps below 0.
    #[inline]
    pub fn sub(&self, n: u64) {
        // Relaxed: a statistic that orders nothing.
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        // Relaxed: a statistic that orders nothing.
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something takes, or how big it is: count, total, smallest and greatest.
#[derive(Debug)]
pub struct Profile {
    count: AtomicU64,
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

impl Profile {
    /// Nothing recorded.
    pub const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            total: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        }
    }

    /// One more, of `amount`; the total wraps at 2^64.
    #[inline]
    pub fn record(&self, amount: u64) {
        // Relaxed: published by the count.
        self.total.fetch_add(amount, Ordering::Relaxed);
        self.min.fetch_min(amount, Ordering::Relaxed);
        self.max.fetch_max(amount, Ordering::Relaxed);
        // Release: pairs with the Acquire in `read`, so that what is counted is in the others too.
        self.count.fetch_add(1, Ordering::Release);
    }

    /// One more, in nanoseconds.
    #[inline]
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A statistic as its registry sees it.
pub trait Sampled: Send + Sync {
    /// What it says now. While others add, a profile's total may include records that its count does
    /// not yet; never the other way round, unless it is reset at the same time.
    fn read(&self) -> Value;

    /// Back to nothing; what cannot be reset stays as it is.
    fn reset(&self) {}
}

impl Sampled for Counter {
    fn read(&self) -> Value {
        Value::Counter(self.get())
    }

    fn reset(&self) {
        // Relaxed: a statistic that orders nothing.
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Sampled for Gauge {
    fn read(&self) -> Value {
        Value::Gauge(self.get())
    }
}

impl Sampled for Profile {
    fn read(&self) -> Value {
        // Acquire: pairs with the Release in `record`.
        let count = self.count.load(Ordering::Acquire);
        // Relaxed: ordered by the count.
        let (total, min, max) = (
            self.total.load(Ordering::Relaxed),
            self.min.load(Ordering::Relaxed),
            self.max.load(Ordering::Relaxed),
        );
        if count == 0 {
            return Value::NO_PROFILE;
        }
        Value::Profile {
            count,
            total,
            min: Some(min),
            max: Some(max),
        }
    }

    fn reset(&self) {
        // Relaxed: a statistic that orders nothing.
        self.count.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        self.min.store(u64::MAX, Ordering::Relaxed);
        self.max.store(0, Ordering::Relaxed);
    }
}

/// What somebody else counts.
impl<F: Fn() -> Value + Send + Sync> Sampled for F {
    fn read(&self) -> Value {
        self()
    }
}
