// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Standard input as the guest's keyboard, with Ctrl-A taken out.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::Sender;

use crate::escape::{Escape, Typed};
use crate::run::Event;

/// What Ctrl-A h answers.
const HELP: &str = "\r\nvmm: Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends Ctrl-A\r\n";

/// Whether Ctrl-A is the user's: at a terminal it is, in a pipe every byte is the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// Ctrl-A is taken out.
    Taken,
    /// Every byte goes to the guest.
    Passed,
}

/// Bytes for the guest, from standard input.
#[derive(Debug)]
pub(crate) struct Keyboard {
    stdin: io::Stdin,
    escape: Option<Escape>,
    events: Sender<Event>,
}

impl Keyboard {
    /// Tells `events` when the user ends the program.
    pub(crate) fn new(events: Sender<Event>, escapes: Escapes) -> Self {
        let escape = (escapes == Escapes::Taken).then(Escape::default);
        Self {
            stdin: io::stdin(),
            escape,
            events,
        }
    }
}

impl AsRawFd for Keyboard {
    fn as_raw_fd(&self) -> RawFd {
        self.stdin.as_raw_fd()
    }
}

impl Read for Keyboard {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Past std's buffer: what it holds would not make the descriptor readable again.
        let got = rustix::io::read(&self.stdin, &mut *out)?;
        let Some(escape) = &mut self.escape else {
            return Ok(got);
        };
        if got == 0 {
            return Ok(0);
        }
        let mut kept = 0;
        for at in 0..got {
            match escape.take(out[at]) {
                Typed::Held => {}
                Typed::Byte(byte) => {
                    out[kept] = byte;
                    kept += 1;
                }
                // The receiver is gone only when the run is over.
                Typed::Quit => {
                    let _ = self.events.send(Event::Quit("Ctrl-A x"));
                }
                Typed::Help => crate::say::terminal(HELP),
            }
        }
        if kept == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(kept)
        }
    }
}
