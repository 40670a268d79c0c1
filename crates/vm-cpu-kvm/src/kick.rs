// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kick's protocol on the kernel's ground: the run page, a signal, a futex.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32};

use vm_emt::Kick;

use crate::protocol::{self, Ground};
use crate::run_page::Mapping;
use crate::signal::{self, Signal};

/// What a kick reaches of one vCPU.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) page: Arc<Mapping>,
    pub(crate) signal: Signal,
}

/// The kickable side of one vCPU.
pub(crate) type Target = protocol::Target<Kernel>;

impl Ground for Kernel {
    fn immediate_exit(&self) -> &AtomicU8 {
        self.page.immediate_exit()
    }

    fn signal(&self, tid: u32) {
        self.signal.send(tid);
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        signal::wait(word, value);
    }

    fn wake(&self, word: &AtomicU32) {
        signal::wake(word);
    }
}

impl Kick for Target {
    fn kick(&self) {
        Self::kick(self);
    }
}

/// The kick without its first half, to show that the tests catch it.
#[doc(hidden)]
#[derive(Debug)]
pub struct SignalOnly(pub(crate) Arc<Target>);

impl Kick for SignalOnly {
    fn kick(&self) {
        self.0.signal();
    }
}
