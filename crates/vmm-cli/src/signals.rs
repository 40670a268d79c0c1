// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SIGTERM, SIGINT and SIGHUP end the VM in order.

use std::io;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::run::Event;

/// Takes signals until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Tells `events` of each signal that ends the program.
    ///
    /// # Errors
    /// The host has no thread or pipe left.
    pub(crate) fn start(events: Sender<Event>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let thread = vm_pdm::thread("vmm-signals").spawn(move || {
            for signal in signals.forever() {
                let name = match signal {
                    SIGTERM => "SIGTERM",
                    SIGINT => "SIGINT",
                    _ => "SIGHUP",
                };
                if events.send(Event::Quit(name)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It panics no more than its loop does.
            let _ = thread.join();
        }
    }
}
