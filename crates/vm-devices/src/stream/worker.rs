// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A thread of a stream.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{INPUT, Port, Shared};

/// A thread, or its absence; `BIT` is its bit of those that run.
#[derive(Default)]
pub(super) struct Worker<const BIT: u8>(Option<JoinHandle<()>>);

/// Says that a thread ended, however it ends.
struct Ending<P: Port>(Arc<Shared<P>>, u8);

impl<P: Port> Drop for Ending<P> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running &= !self.1;
        // It gave back what it had unless it panicked.
        if self.1 == INPUT {
            state.ends.input.recover();
        } else {
            state.ends.output.recover();
        }
        self.0.try_change(&mut state);
        drop(state);
        self.0.ended.notify_all();
    }
}

impl<const BIT: u8> Worker<BIT> {
    pub(super) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Starts the thread, which does not run.
    pub(super) fn start<P: Port>(
        &mut self,
        shared: &Arc<Shared<P>>,
        name: &str,
        run: fn(&Arc<Shared<P>>),
    ) -> io::Result<()> {
        shared.lock().running |= BIT;
        let ending = Ending(Arc::clone(shared), BIT);
        let handle = vm_pdm::thread(name).spawn(move || run(&ending.0))?;
        self.0 = Some(handle);
        Ok(())
    }

    /// Joins the thread if it has said that it ends, after which nothing can hold it up.
    pub(super) fn collect<P: Port>(&mut self, shared: &Shared<P>) {
        if shared.lock().running & BIT == 0
            && let Some(handle) = self.0.take()
        {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }
}
