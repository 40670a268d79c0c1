// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The poster's half of a request that nobody waited for at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::CallError;
use crate::node;
use crate::shared::Shared;

/// The result of a [post](crate::Queues::post), to be waited for any number of times until it is
/// there. Dropping it detaches: the request runs all the same.
#[must_use = "dropping a ticket detaches it; say so with drop"]
pub struct Ticket<T> {
    shared: Arc<Shared>,
    to: u32,
    job: node::Shared<T>,
}

impl<T> Ticket<T> {
    pub(crate) fn new(shared: Arc<Shared>, to: u32, job: node::Shared<T>) -> Self {
        Self { shared, to, job }
    }

    /// Whether a result is there (or was, and has been taken).
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.job.answer().done()
    }

    /// Waits for the result, for `limit` at most (`None`: as long as it takes; zero: only looks).
    ///
    /// # Errors
    /// [`CallError::Timeout`]: not done yet, wait again. [`CallError::OnEmt`]: an EMT of this VM may
    /// only look, since it would sleep without serving its bell. Otherwise why there is no result.
    ///
    /// # Thread
    /// Any; blocks unless `limit` is zero.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<T, CallError> {
        let answer = self.job.answer();
        if !answer.done() && limit != Some(Duration::ZERO) {
            if self.shared.bells.current().is_some() {
                return Err(CallError::OnEmt);
            }
            let deadline = limit.and_then(|time| Instant::now().checked_add(time));
            self.shared
                .sleep(answer, self.to, self.shared.bells.word(self.to), deadline);
        }
        if !answer.done() {
            return Err(self.shared.late(self.to));
        }
        answer.take().unwrap_or(Err(CallError::Taken))
    }
}

impl<T> std::fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("to", &self.to)
            .field("done", &self.is_done())
            .finish()
    }
}
