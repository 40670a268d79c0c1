// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One client, on its own thread: its input, its output, what it waits for.
//!
//! Invariant: memory is bounded. Requests are only read while their replies have somewhere to go, so
//! a client that does not read is not served; changes and errors wait in the [`Mailbox`], which is
//! bounded, and a client that lets it run over, or takes nothing for ten seconds, is dropped.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use serde_json::{Value, json};
use vm_core::{ErrorEvent, ErrorSubscription};
use vm_state::{State, Subscription};

use super::lines::Lines;
use super::mailbox::{Mailbox, Told};
use super::ops;
use super::protocol::{self, Failed, Id, Kind, Op, Rejected, Request};
use super::server::Shared;
use crate::events;
use crate::reach::{Changed, Listening};
use crate::run::Event;

/// Output that may wait before requests and changes wait in turn, in bytes.
const OUTPUT_LIMIT: usize = 64 << 10;

/// How long a client may take nothing of the output that waits for it.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// How long what is due at the end may take.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// `wait` and `destroy` requests of one client at once.
const WAITS: usize = 16;

/// How long `destroy` is waited for: past every limit that the program's end has.
const DESTROY_LIMIT: Duration = Duration::from_secs(60);

/// How a client is left.
#[derive(Debug)]
enum Left {
    /// It went.
    Gone,
    /// The program ends.
    Finished,
    /// It is dropped, for this reason, which it is told.
    Dropped(Failed),
}

impl From<io::Error> for Left {
    /// Whatever a stream fails with, nobody is there any more.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

struct Wait {
    id: Id,
    until: Vec<State>,
    limit: Duration,
    deadline: Instant,
}

/// One client.
pub(super) struct Session {
    stream: UnixStream,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    input: Lines,
    output: Vec<u8>,
    waits: Vec<Wait>,
    /// Fills the mailbox, from the first request on that needs it.
    subscription: Option<Subscription>,
    /// Fills the mailbox as well, for a client that streams events.
    listening: Option<ErrorSubscription>,
    /// And with images that come and go.
    hearing: Option<Listening>,
    /// Whether what is told is sent, or only looked at for `waits`.
    stream_events: Streaming,
    /// Whether the client will send no more.
    input_ended: Ended,
    /// When the client last took something, or had nothing to take.
    took: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streaming {
    Off,
    On,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    /// It may still read.
    Input,
    /// It does neither.
    Both,
}

impl Session {
    pub(super) fn new(stream: UnixStream, shared: Arc<Shared>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            stream,
            shared,
            mailbox,
            input: Lines::default(),
            output: Vec::new(),
            waits: Vec::new(),
            subscription: None,
            listening: None,
            hearing: None,
            stream_events: Streaming::Off,
            input_ended: Ended::No,
            took: Instant::now(),
        }
    }

    /// Serves the client until it goes, is dropped, or the program ends. `place` is freed before the
    /// connection closes, so that whoever sees it closed finds the place free.
    pub(super) fn run(mut self, number: u64, place: Arc<()>) {
        let left = loop {
            if let Err(left) = self.turn() {
                break left;
            }
        };
        match left {
            Left::Gone => log::debug!(target: "vmm.control", "client {number} went"),
            Left::Finished => self.finish(),
            Left::Dropped(failed) => {
                log::warn!(target: "vmm.control", "client {number} was dropped: {}", failed.message);
                self.answer(&Id::None, &Err(failed));
                // It gets what it has room for now.
                let _ = self.flush();
            }
        }
        drop(place);
    }

    fn turn(&mut self) -> Result<(), Left> {
        self.tell_all()?;
        self.serve_requests()?;
        self.end_waits();
        self.flush()?;
        if self.shared.ending() {
            return Err(Left::Finished);
        }
        let nothing_due = self.output.is_empty() && !self.input.has_line();
        let listens = self.stream_events == Streaming::On || !self.waits.is_empty();
        match self.input_ended {
            Ended::Both => return Err(Left::Gone),
            Ended::Input if nothing_due && !listens => return Err(Left::Gone),
            Ended::Input | Ended::No => {}
        }
        if self.output.len() < OUTPUT_LIMIT && self.input.has_line() {
            return Ok(());
        }
        self.sleep()
    }

    /// Takes from the mailbox as long as there is room for it.
    fn tell_all(&mut self) -> Result<(), Left> {
        while self.output.len() < OUTPUT_LIMIT {
            let Some(told) = self.mailbox.pop() else {
                break;
            };
            self.tell(&told);
        }
        let lost = self.mailbox.take_lost();
        if lost > 0 && self.stream_events == Streaming::Off {
            // What a wait is for may have come and gone; where the VM is now is known.
            self.met(self.shared.vm.state());
        } else if lost > 0 {
            return Err(Left::Dropped(Failed::new(
                Kind::Busy,
                "events came faster than they were read; connect again and read on",
            )));
        }
        Ok(())
    }

    fn tell(&mut self, told: &Told) {
        if self.stream_events == Streaming::On {
            let line = match told {
                Told::Change(change) => events::change_line(change),
                Told::Error(error) => events::error_line(error),
                Told::Backend(changed) => events::backend_line(changed),
            };
            self.output.extend_from_slice(line.as_bytes());
        }
        if let Told::Change(change) = told {
            self.met(change.new);
        }
    }

    /// Answers the waits that this state ends.
    fn met(&mut self, state: State) {
        let met = |wait: &mut Wait| wait.until.contains(&state);
        let met: Vec<_> = self.waits.extract_if(.., met).collect();
        for wait in met {
            self.answer(&wait.id, &Ok(json!({ "state": state.name() })));
        }
    }

    /// Answers the waits whose time is up.
    fn end_waits(&mut self) {
        let now = Instant::now();
        let up = |wait: &mut Wait| wait.deadline <= now;
        let up: Vec<_> = self.waits.extract_if(.., up).collect();
        for wait in up {
            let state = self.shared.vm.state();
            let message = format!(
                "the VM was still {state} when the limit of {:?} was up",
                wait.limit
            );
            self.answer(&wait.id, &Err(Failed::new(Kind::Timeout, message)));
        }
        if self.waits.is_empty() && self.stream_events == Streaming::Off {
            // Nobody looks at changes any more.
            self.subscription = None;
        }
    }

    /// Serves whole requests as long as their replies have somewhere to go.
    fn serve_requests(&mut self) -> Result<(), Left> {
        while self.output.len() < OUTPUT_LIMIT {
            match self.input.request() {
                Ok(Some(request)) => self.serve(request)?,
                Ok(None) => break,
                Err(Rejected::Usage { id, message }) => {
                    self.answer(&id, &Err(Failed::new(Kind::Usage, message)));
                }
                Err(Rejected::Malformed(message)) => {
                    return Err(Left::Dropped(Failed::new(Kind::Malformed, message)));
                }
            }
        }
        Ok(())
    }

    fn serve(&mut self, Request { id, op }: Request) -> Result<(), Left> {
        match op {
            Op::Events => {
                self.stream();
                let state = self.shared.vm.state().name();
                self.answer(&id, &Ok(json!({ "state": state })));
            }
            Op::Wait { until, limit } => self.wait(id, until, limit),
            Op::Destroy => {
                // The receiver is gone only when the run is over.
                let _ = self.shared.events.send(Event::Quit("a control client"));
                self.wait(id, vec![State::Terminated], DESTROY_LIMIT);
            }
            Op::Suspend
            | Op::Resume
            | Op::Reset
            | Op::PowerOff(_)
            | Op::Plug { .. }
            | Op::Unplug { .. }
            | Op::Cap { .. }
            | Op::Attach(_)
            | Op::Detach { .. }
            | Op::Status
            | Op::Info(_)
            | Op::Bundle { .. }
            | Op::Stats(_)
            | Op::Version => {
                let result = ops::run(&self.shared, &op);
                // What the operation made happen is told before its reply.
                self.tell_all()?;
                self.answer(&id, &result);
            }
        }
        Ok(())
    }

    fn subscribe(&mut self) {
        if self.subscription.is_none() {
            let mailbox = Arc::clone(&self.mailbox);
            let vm = &self.shared.vm;
            self.subscription = Some(vm.observe(move |change| mailbox.push(Told::Change(*change))));
        }
    }

    /// Tells changes and errors from here on; who asks again goes on as before.
    fn stream(&mut self) {
        if self.stream_events == Streaming::On {
            return;
        }
        self.subscribe();
        // Changes that only a wait wanted are not part of the stream.
        while let Some(told) = self.mailbox.pop() {
            self.tell(&told);
        }
        let mailbox = Arc::clone(&self.mailbox);
        let listen = move |error: &ErrorEvent| mailbox.push(Told::Error(error.clone()));
        self.listening = Some(self.shared.vm.observe_errors(listen));
        let mailbox = Arc::clone(&self.mailbox);
        let hear = move |changed: &Changed| mailbox.push(Told::Backend(changed.clone()));
        self.hearing = Some(self.shared.reach.listen(hear));
        self.stream_events = Streaming::On;
    }

    fn wait(&mut self, id: Id, until: Vec<State>, limit: Duration) {
        if self.waits.len() >= WAITS {
            let message = format!("{WAITS} requests of this client wait already");
            return self.answer(&id, &Err(Failed::new(Kind::Busy, message)));
        }
        self.subscribe();
        self.waits.push(Wait {
            id,
            until,
            limit,
            deadline: Instant::now() + limit,
        });
        // From here on it is a change that ends it: the state is new before its change is told, and
        // the change comes first for who reads both.
        self.met(self.shared.vm.state());
    }

    fn answer(&mut self, id: &Id, result: &Result<Value, Failed>) {
        self.output.extend(protocol::reply(id, result));
    }

    /// Writes what the client has room for.
    fn flush(&mut self) -> Result<(), Left> {
        if self.output.is_empty() {
            self.took = Instant::now();
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Left::Gone),
                Ok(written) => {
                    self.output.drain(..written);
                    self.took = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.took.elapsed() >= STALL_LIMIT {
                        return Err(Left::Dropped(Failed::new(
                            Kind::Late,
                            "nothing was read for ten seconds; connect again and read on",
                        )));
                    }
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do, and reads what there is.
    fn sleep(&mut self) -> Result<(), Left> {
        let mut wanted = PollFlags::empty();
        if !self.output.is_empty() {
            wanted |= PollFlags::OUT;
        }
        if self.input_ended == Ended::No && self.output.len() < OUTPUT_LIMIT {
            wanted |= PollFlags::IN;
        }
        let stalls = (!self.output.is_empty()).then(|| self.took + STALL_LIMIT);
        let deadline = self.waits.iter().map(|wait| wait.deadline).chain(stalls);
        let limit = deadline.min().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            // Every limit here is at most a day.
            Timespec::try_from(left).unwrap_or_default()
        });
        let wake = self.mailbox.wake();
        let mut fds = [
            PollFd::new(&wake, PollFlags::IN),
            PollFd::new(&self.stream, wanted),
        ];
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Left::from(io::Error::from(e))),
        }
        let [roused, socket] = fds.map(|fd| fd.revents());
        if !roused.is_empty() {
            self.mailbox.slept();
        }
        if socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read()?;
        }
        if socket.intersects(PollFlags::HUP | PollFlags::ERR) && self.input_ended != Ended::No {
            self.input_ended = Ended::Both;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Left> {
        let mut buffer = [0; 4096];
        // At most one line more than the limit, besides whole ones that wait for their turn.
        while !self.input.is_full() {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.input_ended = Ended::Input;
                    break;
                }
                Ok(got) => self.input.push(&buffer[..got]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The program ends: whatever is due to the client, within a limit.
    fn finish(&mut self) {
        let deadline = Instant::now() + FINISH_LIMIT;
        while let Some(told) = self.mailbox.pop() {
            self.tell(&told);
        }
        self.met(self.shared.vm.state());
        for wait in std::mem::take(&mut self.waits) {
            let state = self.shared.vm.state();
            let message = format!("the program ends; the VM is {state}");
            self.answer(&wait.id, &Err(Failed::new(Kind::Gone, message)));
        }
        if self.stream_events == Streaming::On
            && let Some(last) = self.shared.last_event.get()
        {
            self.output.extend_from_slice(last.as_bytes());
        }
        loop {
            // Not reading any more is the client's own loss.
            if self.flush().is_err() || self.output.is_empty() {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let limit = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
            if poll(&mut fds, Some(&limit)).is_err() {
                return;
            }
        }
    }
}
