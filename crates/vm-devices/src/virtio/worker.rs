// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The thread of a device, and its backend while there is none.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::request::{Backend, Request};
use super::shared::{Shared, Thread};

/// The thread, or what it works with while it does not run.
pub(super) enum Worker {
    Parked(Box<dyn Backend>),
    Running(JoinHandle<Option<Box<dyn Backend>>>),
    /// It panicked.
    Gone,
}

/// The thread: serves until power-off, gives the backend back.
fn run(shared: &Shared, mut backend: Box<dyn Backend>) -> Box<dyn Backend> {
    while let Some(taken) = shared.next() {
        let served = backend.serve(&Request::new(shared, &taken));
        shared.finish(taken, &served);
    }
    backend
}

/// Says that the thread ended, however it ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.thread = Thread::None;
        state.reset_waits = false;
        state.change_image();
        let link = state.link.clone();
        drop(state);
        self.0.ended.notify_all();
        self.0.changed.notify_all();
        if let Some(link) = link {
            link.waker.wake();
        }
    }
}

impl Worker {
    /// Starts the thread, unless it runs.
    pub(super) fn start(&mut self, shared: &Arc<Shared>) -> std::io::Result<()> {
        let backend = match std::mem::replace(self, Self::Gone) {
            Self::Parked(backend) => backend,
            other @ (Self::Running(_) | Self::Gone) => {
                *self = other;
                return Ok(());
            }
        };
        // Handed over through a cell, so that the backend is not lost if there is no thread.
        let cell = Arc::new(Mutex::new(Some(backend)));
        let theirs = Arc::clone(&cell);
        shared.lock().thread = Thread::Idle;
        let ending = Ending(Arc::clone(shared));
        let spawned = vm_pdm::thread(format!("io-{}", shared.name)).spawn(move || {
            let backend = theirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()?;
            Some(run(&ending.0, backend))
        });
        match spawned {
            Ok(handle) => {
                *self = Self::Running(handle);
                Ok(())
            }
            Err(error) => {
                let backend = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
                *self = backend.map_or(Self::Gone, Self::Parked);
                Err(error)
            }
        }
    }

    /// Joins the thread if it has said that it ends, after which nothing can hold it up.
    pub(super) fn collect(&mut self, shared: &Shared) {
        let ended = shared.lock().thread == Thread::None;
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Running(handle) if ended => handle
                .join()
                .ok()
                .flatten()
                .map_or(Self::Gone, Self::Parked),
            other @ (Self::Running(_) | Self::Parked(_) | Self::Gone) => other,
        };
    }
}
