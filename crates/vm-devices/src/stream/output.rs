// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread `io-NAME-out`: from the outbox to the sink.
//!
//! It alone writes to the sink and may block in it. Bytes leave the outbox before they are written,
//! so a write that is stuck changes nothing the guest can see. A started line is waited for a moment,
//! so that a guest that sends byte by byte does not cost a system call for each.

use std::io::{ErrorKind, Write};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Port, Shared, Sink, State, Stop};

/// Bytes of one write at most.
const CHUNK: usize = 4096;
/// How long a started line waits for its end.
const LINE: Duration = Duration::from_millis(2);
/// How long to wait before a sink that would block is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// What the thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing: it is at work and will look.
    No,
    /// Any byte.
    Any,
    /// A complete line, or many bytes.
    Ripe,
}

/// Whether the thread waits for what is there now.
pub(super) fn is_due(state: &State<impl Port>) -> bool {
    let due = match state.output_waits {
        Waits::No => false,
        Waits::Any => state.port.queued() > 0,
        Waits::Ripe => state.port.is_ripe(),
    };
    due && !state.port.is_held()
}

/// Writes until power-off; gives the sink back.
pub(super) fn run<P: Port>(shared: &Arc<Shared<P>>, mut sink: Sink) -> Sink {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut failed = false;
    while next(shared, &mut chunk) {
        if let Err(error) = put(shared, sink.as_mut(), &chunk)
            && !failed
        {
            failed = true;
            log::warn!(target: P::LOG, "output is lost from here on: {error}");
        }
        chunk.clear();
    }
    sink
}

/// Waits for output and moves it into `chunk`; `false`: it is time to end.
fn next(shared: &Shared<impl Port>, chunk: &mut Vec<u8>) -> bool {
    let mut state = shared.lock();
    let mut line_ends = None;
    loop {
        let idle = state.port.queued() == 0;
        match state.stop {
            Stop::Abandon => return false,
            Stop::Drain if idle => return false,
            Stop::Drain => break,
            Stop::Run if idle || state.port.is_held() => {
                line_ends = None;
                state.output_waits = Waits::Any;
                state = shared
                    .output
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            Stop::Run if state.port.is_ripe() => break,
            Stop::Run => {
                let now = Instant::now();
                let until = *line_ends.get_or_insert(now + LINE);
                if now >= until {
                    break;
                }
                state.output_waits = Waits::Ripe;
                state = shared
                    .output
                    .wait_timeout(state, until - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }
    state.output_waits = Waits::No;
    state.port.take(chunk, CHUNK);
    shared.after(state);
    true
}

/// Writes all of `bytes`, however long the sink takes, unless power-off abandons it.
fn put(shared: &Shared<impl Port>, sink: &mut dyn Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && retry(shared) => {}
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

/// Waits a little; `false`: power-off has abandoned what is left.
fn retry<P: Port>(shared: &Shared<P>) -> bool {
    let state = shared.lock();
    let abandoned = |state: &mut State<P>| state.stop != Stop::Abandon;
    let (state, _) = shared
        .output
        .wait_timeout_while(state, RETRY, abandoned)
        .unwrap_or_else(PoisonError::into_inner);
    state.stop != Stop::Abandon
}
