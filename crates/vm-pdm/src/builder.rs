// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Collects who owns which ports and addresses, and refuses what cannot be.
//!
//! Invariant: the ranges of one space never overlap, so every byte has one owner or none.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::mmio::MmioBus;
use crate::pio::PioBus;
use crate::{Buses, IoHandler};

/// Ranges that one space can hold: what an index of the port table can name.
pub(crate) const MAX_RANGES: usize = 65_535;

/// A range that cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Another device has a part of the range.
    #[error(
        "{owner} wants {space} {first:#x}..={last:#x}, of which {other} has {other_first:#x}..={other_last:#x}: move one of them"
    )]
    Overlap {
        /// `port` or `address`.
        space: &'static str,
        /// Who asks.
        owner: String,
        /// First of the range asked for.
        first: u64,
        /// Last of the range asked for.
        last: u64,
        /// Who has it.
        other: String,
        /// First of the range that exists.
        other_first: u64,
        /// Last of the range that exists.
        other_last: u64,
    },
    /// The range ends before it begins: it is empty, or its end wrapped around.
    #[error("{owner} wants {space} {first:#x}..={last:#x}, which is empty: give first <= last")]
    Empty {
        /// `port` or `address`.
        space: &'static str,
        /// Who asks.
        owner: String,
        /// First of the range asked for.
        first: u64,
        /// Last of the range asked for.
        last: u64,
    },
    /// No further range fits in the table.
    #[error("{owner} wants one more {space} range than the {MAX_RANGES} a bus holds: merge ranges")]
    Full {
        /// `port` or `address`.
        space: &'static str,
        /// Who asks.
        owner: String,
    },
}

/// Collects ranges, then makes [`Buses`] of them.
#[derive(Debug, Default)]
pub struct BusBuilder {
    pio: Space,
    mmio: Space,
}

impl BusBuilder {
    /// No ranges yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `owner` the ports of `ports`.
    ///
    /// # Errors
    /// [`BusError`]; the builder is as it was.
    pub fn pio(
        &mut self,
        owner: &str,
        ports: RangeInclusive<u16>,
        handler: Arc<dyn IoHandler>,
    ) -> Result<&mut Self, BusError> {
        let range = u64::from(*ports.start())..=u64::from(*ports.end());
        self.pio.claim("port", owner, &range, handler)?;
        Ok(self)
    }

    /// Gives `owner` the guest-physical addresses of `addresses`.
    ///
    /// # Errors
    /// [`BusError`]; the builder is as it was.
    pub fn mmio(
        &mut self,
        owner: &str,
        addresses: RangeInclusive<u64>,
        handler: Arc<dyn IoHandler>,
    ) -> Result<&mut Self, BusError> {
        self.mmio.claim("address", owner, &addresses, handler)?;
        Ok(self)
    }

    /// The buses: from here on they do not change.
    pub fn build(self) -> Buses {
        Buses {
            pio: PioBus::new(self.pio.claims.into_values()),
            mmio: MmioBus::new(self.mmio.claims.into_values().collect()),
        }
    }
}

/// One range with its owner.
pub(crate) struct Claim {
    pub(crate) owner: String,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) handler: Arc<dyn IoHandler>,
}

impl Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#x}..={:#x}", self.owner, self.first, self.last)
    }
}

/// The ranges of one space by their first port or address.
#[derive(Debug, Default)]
struct Space {
    claims: BTreeMap<u64, Claim>,
}

impl Space {
    fn claim(
        &mut self,
        space: &'static str,
        owner: &str,
        range: &RangeInclusive<u64>,
        handler: Arc<dyn IoHandler>,
    ) -> Result<(), BusError> {
        let (first, last) = (*range.start(), *range.end());
        let owner = owner.to_owned();
        if first > last {
            return Err(BusError::Empty {
                space,
                owner,
                first,
                last,
            });
        }
        // Ranges are disjoint, so only the last one that begins at or before `last` can overlap.
        if let Some((_, other)) = self.claims.range(..=last).next_back()
            && other.last >= first
        {
            return Err(BusError::Overlap {
                space,
                owner,
                first,
                last,
                other: other.owner.clone(),
                other_first: other.first,
                other_last: other.last,
            });
        }
        if self.claims.len() >= MAX_RANGES {
            return Err(BusError::Full { space, owner });
        }
        self.claims.insert(
            first,
            Claim {
                owner,
                first,
                last,
                handler,
            },
        );
        Ok(())
    }
}
