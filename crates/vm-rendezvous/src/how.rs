// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a rendezvous runs its callback: order, what a failure does, how long gathering may take.

use std::time::Duration;

/// How long gathering may take unless said otherwise. Far beyond what a healthy EMT needs; it is
/// there so that a stuck one is named instead of waited for for ever.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// The order in which EMTs run the callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
    OneByOne,
    Together,
    Once,
    /// On the initiator's own thread, which is no EMT.
    Here,
}

impl Order {
    /// Whether an EMT that sleeps may be held in its sleep: its own callback may never run.
    pub(crate) fn holds_sleepers(self) -> bool {
        match self {
            Self::Once | Self::Here => true,
            Self::Ascending | Self::Descending | Self::OneByOne | Self::Together => false,
        }
    }
}

/// What the first failure does to the callbacks that have not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    GoOn,
    Stop,
}

/// How a rendezvous runs its callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    pub(crate) order: Order,
    pub(crate) on_error: OnError,
    pub(crate) limit: Duration,
}

/// A [`How`] whose callbacks run one at a time, so that a failure can stop the rest. Goes wherever a
/// `How` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered(How);

impl How {
    /// One at a time, vCPU 0 first.
    #[must_use]
    pub fn ascending() -> Ordered {
        Ordered(Self::new(Order::Ascending))
    }

    /// One at a time, vCPU 0 last.
    #[must_use]
    pub fn descending() -> Ordered {
        Ordered(Self::new(Order::Descending))
    }

    /// One at a time, in any order.
    #[must_use]
    pub fn one_by_one() -> Ordered {
        Ordered(Self::new(Order::OneByOne))
    }

    /// All at the same time.
    #[must_use]
    pub fn together() -> Self {
        Self::new(Order::Together)
    }

    /// On one EMT only, while all are held. One that is parked is held in its sleep and not woken,
    /// unless all are and the initiator is no EMT: then one is woken to run it.
    #[must_use]
    pub fn once() -> Self {
        Self::new(Order::Once)
    }

    /// On the initiator's thread, while all are held.
    pub(crate) fn here() -> Self {
        Self::new(Order::Here)
    }

    /// How long gathering (and the wait for earlier rendezvous) may take; 30 seconds if not said.
    /// Callbacks that have begun are always waited for.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn new(order: Order) -> Self {
        Self {
            order,
            on_error: OnError::GoOn,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Ordered {
    /// After the first failure, callbacks that have not begun are skipped.
    #[must_use]
    pub fn stop_on_error(self) -> Self {
        Self(How {
            on_error: OnError::Stop,
            ..self.0
        })
    }

    /// As [`How::limit`].
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self(self.0.limit(limit))
    }
}

impl From<Ordered> for How {
    fn from(ordered: Ordered) -> Self {
        ordered.0
    }
}
