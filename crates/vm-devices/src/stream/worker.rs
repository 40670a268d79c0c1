// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A thread of a stream, and the end of the host that it works on.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Port, Shared};

/// A thread, or what it works on while it does not run.
pub(super) enum Worker<T, const BIT: u8> {
    /// Nothing to work on.
    None,
    Parked(T),
    Running(JoinHandle<Option<T>>),
}

/// Says that a thread ended, however it ends.
struct Ending<P>(Arc<Shared<P>>, u8);

impl<P> Drop for Ending<P> {
    fn drop(&mut self) {
        self.0.lock().running &= !self.1;
        self.0.ended.notify_all();
    }
}

impl<T: Send + 'static, const BIT: u8> Worker<T, BIT> {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Starts the thread if there is something to work on; it gives that back when it ends.
    pub(super) fn start<P: Port>(
        &mut self,
        shared: &Arc<Shared<P>>,
        name: &str,
        run: fn(&Arc<Shared<P>>, T) -> T,
    ) -> io::Result<()> {
        let work = match std::mem::replace(self, Self::None) {
            Self::Parked(work) => work,
            other @ (Self::None | Self::Running(_)) => {
                *self = other;
                return Ok(());
            }
        };
        // The work is handed over through a cell, so that it is not lost if there is no thread.
        let cell = Arc::new(Mutex::new(Some(work)));
        shared.lock().running |= BIT;
        let ending = Ending(Arc::clone(shared), BIT);
        let theirs = Arc::clone(&cell);
        let spawned = vm_pdm::thread(name).spawn(move || {
            let work = theirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()?;
            Some(run(&ending.0, work))
        });
        match spawned {
            Ok(handle) => {
                *self = Self::Running(handle);
                Ok(())
            }
            Err(error) => {
                let work = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
                *self = work.map_or(Self::None, Self::Parked);
                Err(error)
            }
        }
    }

    /// Joins the thread if it has said that it ends, after which nothing can hold it up.
    pub(super) fn collect<P>(&mut self, shared: &Shared<P>) {
        let ended = shared.lock().running & BIT == 0;
        match std::mem::replace(self, Self::None) {
            Self::Running(handle) if ended => {
                *self = handle
                    .join()
                    .ok()
                    .flatten()
                    .map_or(Self::None, Self::Parked);
            }
            other @ (Self::None | Self::Parked(_) | Self::Running(_)) => *self = other,
        }
    }
}
