// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread `io-NAME-out`: from the outbox to the sink.
//!
//! It alone writes to the sink and may block in it. Bytes leave the outbox before they are written,
//! so a write that is stuck changes nothing the guest can see. A started line is waited for a moment,
//! so that a guest that sends byte by byte does not cost a system call for each. Without a sink bytes
//! are dropped. A sink that fails is tried again with the next bytes; one that panics is no more.

use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// What is to be done with the bytes that were taken.
enum Next {
    Write(Sink),
    Discard,
    /// There are none: it is time to end.
    End,
}

/// Writes until power-off.
pub(super) fn run<P: Port>(shared: &Arc<Shared<P>>) {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut sink = None;
    loop {
        chunk.clear();
        sink = match next(shared, &mut chunk, sink) {
            Next::Write(sink) => Some(write(shared, sink, &chunk)),
            Next::Discard => {
                shared.counts.discarded.add(chunk.len() as u64);
                None
            }
            Next::End => return,
        };
    }
}

/// Gives `sink` back; waits for output, moves it into `chunk` and borrows the sink for it.
fn next<P: Port>(shared: &Shared<P>, chunk: &mut Vec<u8>, sink: Option<Sink>) -> Next {
    let mut state = shared.lock();
    if let Some(sink) = sink {
        state.ends.output.give_back(sink);
    }
    let mut line_ends = None;
    loop {
        shared.try_change(&mut state);
        let idle = state.port.queued() == 0;
        let ahead = state.ahead().copied();
        match state.stop {
            Stop::Abandon => return Next::End,
            Stop::Drain if idle => return Next::End,
            // What waits is for ends that are not there yet: whoever changes them says so.
            Stop::Run | Stop::Drain if ahead == Some(0) => {
                state = wait(shared, state);
            }
            Stop::Drain => break,
            Stop::Run if idle || state.port.is_held() => {
                line_ends = None;
                state.output_waits = Waits::Any;
                state = wait(shared, state);
            }
            Stop::Run if ahead.is_some() || state.port.is_ripe() => break,
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
    let limit = state.ahead().map_or(CHUNK, |ahead| CHUNK.min(*ahead));
    state.port.take(chunk, limit);
    if let Some(ahead) = state.ahead() {
        *ahead -= chunk.len();
    }
    let sink = state.ends.output.lend();
    shared.after(state);
    sink.map_or(Next::Discard, Next::Write)
}

fn wait<'a, P>(
    shared: &'a Shared<P>,
    state: std::sync::MutexGuard<'a, State<P>>,
) -> std::sync::MutexGuard<'a, State<P>> {
    shared
        .output
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Writes all of `bytes`, or says what was lost.
fn write<P: Port>(shared: &Shared<P>, mut sink: Sink, bytes: &[u8]) -> Sink {
    let mut rest = bytes;
    let done = catch_unwind(AssertUnwindSafe(|| put(shared, sink.as_mut(), &mut rest)));
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.output_lost(rest.len(), &error.to_string()),
        Err(_) => {
            shared.output_lost(rest.len(), "what it was written to panicked");
            sink = Box::new(Gone);
        }
    }
    sink
}

/// Writes all of `bytes`, however long the sink takes, unless power-off abandons it. What is left of
/// them was not written.
fn put(shared: &Shared<impl Port>, sink: &mut dyn Write, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *bytes = bytes.get(count..).unwrap_or_default(),
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

/// In place of a sink that panicked.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
