// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an embedder's EMT context offers, and the one way an EMT waits for something.

use std::time::Instant;

use crate::bell::{Bell, Woken};
use crate::flow::Flow;

/// The embedder's EMT context: what requests and rendezvous callbacks run on.
pub trait Emt {
    /// This EMT's half of its doorbell.
    fn bell(&self) -> &Bell;

    /// Attends to what cannot wait while this EMT waits for something else: rendezvous, and priority
    /// requests. The bell was cleared just before.
    fn serve(&mut self) -> Flow;

    /// What the request that just ran asked the loop to do, and forgets it.
    fn take_flow(&mut self) -> Flow {
        Flow::Continue
    }
}

/// Waits on an EMT until `done`, serving meanwhile what cannot wait. `false` if `deadline` passed
/// and it is still not done. Whoever makes `done` true rings this EMT afterwards.
///
/// What the served work asked the loop to do is kept in the bell ([`Bell::keep`]), and the bell is
/// rung once more at the end, since [`Emt::serve`] left ordinary work where it was.
///
/// # Thread
/// The EMT's own; sleeps on its bell.
pub fn serve_until<C: Emt>(
    me: &mut C,
    deadline: Option<Instant>,
    mut done: impl FnMut(&mut C) -> bool,
) -> bool {
    let mut flow = Flow::Continue;
    let reached = loop {
        if done(me) {
            break true;
        }
        if me.bell().clear() {
            flow = flow.max(me.serve());
            if deadline.is_some_and(|at| Instant::now() >= at) {
                break done(me);
            }
        } else if me.bell().park(deadline) == Woken::Deadline {
            break done(me);
        }
    };
    let bell = me.bell();
    bell.keep(flow);
    bell.bells().ring(bell.id());
    reached
}
