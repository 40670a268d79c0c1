// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread `io-NAME`: from the host's input to the backlog.
//!
//! It reads only while the backlog is empty, and otherwise does not even watch the input: what the
//! guest is slow to take stays with whoever sends it.

use std::io::ErrorKind;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{BACKLOG, Port, SerialInput, Shared, Stop};

type Input = Box<dyn SerialInput>;

/// Reads until power-off; gives the input back.
pub(super) fn run<P: Port>(shared: &Arc<Shared<P>>, input: Input) -> Input {
    let reader = Reader {
        shared: Arc::clone(shared),
        input,
        watch: Watch::Off,
        carry: Vec::new(),
    };
    let mut manager = match EventManager::new() {
        Ok(manager) => manager,
        Err(error) => {
            log::warn!(target: P::LOG, "no input, for want of an epoll descriptor: {error}");
            return reader.input;
        }
    };
    let id = manager.add_subscriber(reader);
    while shared.lock().stop == Stop::Run {
        if let Err(error) = manager.run() {
            log::warn!(target: P::LOG, "no input from here on: {error}");
            break;
        }
    }
    manager
        .remove_subscriber(id)
        .expect("it was added above")
        .input
}

struct Reader<P> {
    shared: Arc<Shared<P>>,
    input: Input,
    watch: Watch,
    /// Read, but refused because the VM was suspended meanwhile.
    carry: Vec<u8>,
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
            log::warn!(target: P::LOG, "no input, it cannot be waited for: {error}");
            return;
        }
        self.advance(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        use std::os::fd::AsRawFd;
        if events.fd() == self.shared.wake.as_raw_fd() {
            // Only its having been written counts.
            let _ = self.shared.wake.read();
        } else {
            self.read(ops);
        }
        self.advance(ops);
    }
}

impl<P: Port> Reader<P> {
    /// Reads as far as the guest wants input; watches, or waits to be wanted.
    fn advance(&mut self, ops: &mut EventOps<'_>) {
        while self.is_wanted() {
            match self.watch {
                Watch::On | Watch::Ended => return,
                Watch::Off => return self.watch(ops),
                Watch::Needless => self.read(ops),
            }
        }
        if self.watch == Watch::On {
            self.unwatch(ops, Watch::Off);
        }
    }

    /// Whether the backlog is empty. If not, the next to empty it wakes this thread.
    fn is_wanted(&mut self) -> bool {
        let mut state = self.shared.lock();
        let taken = state.port.push(&self.carry);
        self.carry.drain(..taken);
        let wanted = self.carry.is_empty() && state.port.wants_input() && state.stop == Stop::Run;
        state.input_waits = !wanted;
        wanted
    }

    fn read(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; BACKLOG];
        match self.input.read(&mut buffer) {
            Ok(0) => self.unwatch(ops, Watch::Ended),
            Ok(count) => self.carry.extend(&buffer[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!(target: P::LOG, "no input from here on: {error}");
                self.unwatch(ops, Watch::Ended);
            }
        }
    }

    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let fd = self.input.as_raw_fd();
        self.watch = match ops.add(Events::new_raw(fd, EventSet::IN)) {
            Ok(()) => Watch::On,
            Err(event_manager::Error::Epoll(error)) if is_not_pollable(error.errno()) => {
                // Look again: there is something to read now.
                self.shared.wake_input();
                Watch::Needless
            }
            Err(error) => {
                log::warn!(target: P::LOG, "no input, it cannot be waited for: {error}");
                Watch::Ended
            }
        };
    }

    fn unwatch(&mut self, ops: &mut EventOps<'_>, then: Watch) {
        if self.watch == Watch::On {
            let fd = self.input.as_raw_fd();
            if let Err(error) = ops.remove(Events::new_raw(fd, EventSet::IN)) {
                log::warn!(target: P::LOG, "input is still watched: {error}");
            }
        }
        self.watch = then;
    }
}

/// `EPERM` is what epoll says of a file that is always ready (epoll_ctl(2)).
fn is_not_pollable(errno: i32) -> bool {
    std::io::Error::from_raw_os_error(errno).kind() == ErrorKind::PermissionDenied
}
