// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread `io-NAME`: from the host's input to the backlog.
//!
//! It reads only while the backlog is empty, and otherwise does not even watch the input: what the
//! guest is slow to take stays with whoever sends it. It has the input until a change of the ends asks
//! for it: only where it is watched can that be ended.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{BACKLOG, Input, Port, Shared, Stop};

/// Reads until power-off.
pub(super) fn run<P: Port>(shared: &Arc<Shared<P>>) {
    let mut manager = match EventManager::new() {
        Ok(manager) => manager,
        Err(error) => {
            let device = &shared.device;
            log::warn!(target: P::LOG, "{device}: no input, for want of an epoll descriptor: {error}");
            return;
        }
    };
    let id = manager.add_subscriber(Reader {
        shared: Arc::clone(shared),
        input: None,
        watch: Watch::Off,
        carry: Vec::new(),
    });
    while shared.lock().stop == Stop::Run {
        if let Err(error) = manager.run() {
            let device = &shared.device;
            log::warn!(target: P::LOG, "{device}: no input from here on: {error}");
            break;
        }
    }
    // Which ends its being watched.
    let reader = manager.remove_subscriber(id);
    reader.expect("it was added above").give_back();
}

struct Reader<P: Port> {
    shared: Arc<Shared<P>>,
    input: Option<Input>,
    watch: Watch,
    /// Read, but refused because the VM was suspended meanwhile.
    carry: Vec<u8>,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Input is wanted.
    Read,
    /// Nothing, until a wake.
    Wait,
    /// A change of the ends waits for the input.
    GiveBack,
}

/// How the input is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Not now.
    Off,
    /// By epoll.
    On,
    /// It cannot be waited for (a plain file, `/dev/null`): a read never waits.
    Needless,
    /// It ended.
    Ended,
}

impl<P: Port> MutEventSubscriber for Reader<P> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.shared.wake, EventSet::IN)) {
            self.ended(&error);
            return;
        }
        self.advance(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.shared.wake.as_raw_fd() {
            // Only its having been written counts.
            let _ = self.shared.wake.read();
        } else if self.is_watched(events.fd()) {
            self.read(ops);
        }
        self.advance(ops);
    }
}

impl<P: Port> Reader<P> {
    /// What became readable may have been given back since.
    fn is_watched(&self, fd: RawFd) -> bool {
        let input = self.input.as_ref();
        self.watch == Watch::On && input.is_some_and(|input| input.as_raw_fd() == fd)
    }

    /// Reads as far as the guest wants input; watches, or waits to be wanted.
    fn advance(&mut self, ops: &mut EventOps<'_>) {
        loop {
            match (self.next(), self.watch) {
                (Next::Read, Watch::On | Watch::Ended) => return,
                (Next::Read, Watch::Off) => return self.watch(ops),
                (Next::Read, Watch::Needless) => self.read(ops),
                (Next::Wait, Watch::On) => return self.unwatch(ops, Watch::Off),
                (Next::Wait, Watch::Off | Watch::Needless | Watch::Ended) => return,
                (Next::GiveBack, _) => {
                    self.unwatch(ops, Watch::Off);
                    self.give_back();
                }
            }
        }
    }

    /// Takes the input if there is one to take. It is wanted if the backlog is empty; if not, the next
    /// to empty it wakes this thread.
    fn next(&mut self) -> Next {
        let mut state = self.shared.lock();
        let taken = state.port.push(&self.carry);
        self.carry.drain(..taken);
        let next = if state.ahead().is_some() {
            match self.input {
                Some(_) => Next::GiveBack,
                None => Next::Wait,
            }
        } else {
            if self.input.is_none() {
                self.input = state.ends.input.lend();
            }
            let is_empty = self.carry.is_empty() && state.port.wants_input();
            if is_empty && self.input.is_some() && state.stop == Stop::Run {
                Next::Read
            } else {
                Next::Wait
            }
        };
        // Without input there is nothing to be woken for but a change, which says so itself.
        let has_any = self.input.is_some() || !self.carry.is_empty();
        state.input_waits = has_any && next != Next::Read;
        next
    }

    fn give_back(&mut self) {
        let Some(input) = self.input.take() else {
            return;
        };
        let mut state = self.shared.lock();
        state.ends.input.give_back(input);
        self.shared.try_change(&mut state);
    }

    fn read(&mut self, ops: &mut EventOps<'_>) {
        let Some(input) = &mut self.input else {
            return;
        };
        let mut buffer = [0; BACKLOG];
        let result = catch_unwind(AssertUnwindSafe(|| input.read(&mut buffer)))
            .unwrap_or_else(|_| Err(io::Error::other("what it was read from panicked")));
        match result {
            Ok(0) => {
                self.shared.input_ended("it has ended");
                self.unwatch(ops, Watch::Ended);
            }
            Ok(count) => self.carry.extend(buffer.iter().take(count)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                self.ended(&error);
                self.unwatch(ops, Watch::Ended);
            }
        }
    }

    fn ended(&self, why: &dyn std::fmt::Display) {
        self.shared.input_ended(&why.to_string());
        let device = &self.shared.device;
        log::warn!(target: P::LOG, "{device}: no input from here on: {why}");
    }

    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let Some(fd) = self.input.as_ref().map(|input| input.as_raw_fd()) else {
            return;
        };
        self.watch = match ops.add(Events::new_raw(fd, EventSet::IN)) {
            Ok(()) => Watch::On,
            Err(event_manager::Error::Epoll(error)) if is_not_pollable(error.errno()) => {
                // Look again: there is something to read now.
                self.shared.wake_input();
                Watch::Needless
            }
            Err(error) => {
                self.ended(&error);
                Watch::Ended
            }
        };
    }

    fn unwatch(&mut self, ops: &mut EventOps<'_>, then: Watch) {
        if self.watch == Watch::On
            && let Some(input) = &self.input
        {
            let events = Events::new_raw(input.as_raw_fd(), EventSet::IN);
            if let Err(error) = ops.remove(events) {
                let device = &self.shared.device;
                log::warn!(target: P::LOG, "{device}: input is still watched: {error}");
            }
        }
        self.watch = then;
    }
}

/// `EPERM` is what epoll says of a file that is always ready (epoll_ctl(2)).
fn is_not_pollable(errno: i32) -> bool {
    io::Error::from_raw_os_error(errno).kind() == ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Stream;
    use super::*;

    /// A guest that takes everything at once.
    struct Idle;

    impl Port for Idle {
        const LOG: &'static str = "test";

        fn push(&mut self, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn wants_input(&self) -> bool {
            true
        }
        fn take(&mut self, _: &mut Vec<u8>, _: usize) {}
        fn queued(&self) -> usize {
            0
        }
        fn is_ripe(&self) -> bool {
            false
        }
        fn hold(&mut self) {}
        fn release(&mut self) {}
        fn is_held(&self) -> bool {
            false
        }
    }

    #[test]
    fn without_input_no_access_of_a_guest_wakes_the_thread() {
        let stream = Stream::new("com1", "serial", Duration::ZERO, Idle, None).expect("a wake");
        let mut reader = Reader {
            shared: Arc::clone(&stream.shared),
            input: None,
            watch: Watch::Off,
            carry: Vec::new(),
        };
        assert_eq!(reader.next(), Next::Wait);
        stream.with(|_| ());
        let woken = stream.shared.wake.read();
        assert!(woken.is_err(), "{woken:?}");
    }
}
