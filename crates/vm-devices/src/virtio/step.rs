// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the thread of a device does, a step at a time and on the caller's thread: for `fuzz/`, where
//! the same input has to do the same whenever it is tried.

use super::Virtio;
use super::request::Request;
use super::shared::Thread;
use super::worker::Worker;

impl Virtio {
    /// Serves the next request, if there is one and the device is not powered on; whether there was.
    pub fn step(&self) -> bool {
        let Worker::Parked(backend) = &mut *self.worker() else {
            return false;
        };
        let Some(taken) = self.shared.next_now() else {
            return false;
        };
        let served = backend.serve(&Request::new(&self.shared, &taken));
        self.shared.finish(taken, &served);
        // There is no thread that could be waited for.
        self.shared.lock().thread = Thread::None;
        true
    }
}
