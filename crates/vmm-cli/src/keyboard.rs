// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A terminal as the guest's keyboard, with Ctrl-A taken out on the way.
//!
//! The serial port reads its input only as fast as the guest takes it, and a guest that hangs takes
//! nothing; but Ctrl-A x must work then above all. So at a terminal a thread of its own,
//! `vmm-input`, always reads, and hands on through a pipe. What the guest is slow to take waits
//! here, up to a limit far beyond what anybody types; past it, the terminal itself waits. Once the
//! terminal is detached from the guest, what is typed is dropped, and Ctrl-A still is the user's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::escape::{Escape, Typed};
use crate::run::Event;
use crate::say;

/// What Ctrl-A h answers.
const HELP: &str = "\r\nvmm: Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends Ctrl-A\r\n";

/// Bytes that wait here for the guest.
const HELD: usize = 1 << 20;

/// The thread that reads the terminal; dropping it ends and joins it.
#[derive(Debug)]
pub(crate) struct Keyboard {
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    /// Starts reading standard input; what is for the guest comes out of the returned end of a
    /// pipe, and `events` is told when the user ends the program.
    ///
    /// # Errors
    /// The host has no descriptor or thread left.
    pub(crate) fn start(events: Sender<Event>) -> io::Result<(Self, std::fs::File)> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (out, into) = pipe_with(flags)?;
        let (stopped, stop) = pipe_with(flags)?;
        let reader = Reader {
            events,
            escape: Escape::default(),
            held: Vec::new(),
            into: Some(into),
            stopped,
        };
        let thread = vm_pdm::thread("vmm-input").spawn(move || reader.run())?;
        Ok((
            Self {
                stop: Some(stop),
                thread: Some(thread),
            },
            out.into(),
        ))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!(target: "vmm", "vmm-input ended by a panic");
        }
    }
}

struct Reader {
    events: Sender<Event>,
    escape: Escape,
    held: Vec<u8>,
    /// Gone when nobody takes what is typed any more.
    into: Option<OwnedFd>,
    stopped: OwnedFd,
}

impl Reader {
    fn run(mut self) {
        // Input that ends or fails is the end of input for the guest, not of the VM.
        if let Err(e) = self.pass_on() {
            log::warn!(target: "vmm", "no input from here on: {e}");
        }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let stdin = io::stdin();
        loop {
            let wanted = |yes, flags| if yes { flags } else { PollFlags::empty() };
            // With nobody to take it, the first is in its place: it is looked at anyway.
            let into = self.into.as_ref().unwrap_or(&self.stopped);
            let mut fds = [
                PollFd::new(&self.stopped, PollFlags::IN),
                PollFd::new(&stdin, wanted(self.held.len() < HELD, PollFlags::IN)),
                PollFd::new(into, wanted(!self.held.is_empty(), PollFlags::OUT)),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let [stop, input, output] = fds.map(|fd| fd.revents());
            if !stop.is_empty() {
                return Ok(());
            }
            if output.contains(PollFlags::ERR) {
                self.into = None;
            } else if output.contains(PollFlags::OUT)
                && let Some(into) = &self.into
            {
                match rustix::io::write(into, &self.held) {
                    Ok(written) => drop(self.held.drain(..written)),
                    Err(Errno::PIPE) => self.into = None,
                    Err(e) => return Err(e.into()),
                }
            }
            if !input.is_empty() && !self.take(&stdin)? {
                return Ok(());
            }
            if self.into.is_none() {
                self.held.clear();
            }
        }
    }

    /// Reads once; `false` at the end of input.
    fn take(&mut self, stdin: &io::Stdin) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        // Past std's buffer: what it holds would not make the descriptor readable again.
        let got = rustix::io::read(stdin, &mut buffer)?;
        for &byte in &buffer[..got] {
            match self.escape.take(byte) {
                Typed::Held => {}
                Typed::Byte(byte) => self.held.push(byte),
                // The receiver is gone only when the run is over.
                Typed::Quit => {
                    let _ = self.events.send(Event::Quit("Ctrl-A x"));
                }
                Typed::Help => say::terminal(HELP),
            }
        }
        Ok(got > 0)
    }
}
