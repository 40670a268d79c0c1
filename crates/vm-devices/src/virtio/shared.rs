// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What EMTs and the thread of a device share, under one lock.

use std::fmt::{self, Debug};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vm_pdm::{Action, Link, RuntimeError};

use super::GuestRam;
use super::drive::Drive;
use super::registers::{Registers, Taken};
use super::request::{Refusal, Stop};

/// What EMTs and the thread share.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) ram: GuestRam,
    pub(super) state: Mutex<State>,
    /// For the thread: there is work, a release, or the end.
    pub(super) work: Condvar,
    /// The thread ended.
    pub(super) ended: Condvar,
    /// A change of image that waited has happened.
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) registers: Registers,
    /// What the thread may do.
    pub(super) allowed: Allowed,
    /// What the thread does.
    pub(super) thread: Thread,
    /// A reset waits for the request under way.
    pub(super) reset_waits: bool,
    /// The request that the host could not serve.
    pub(super) refused: Option<Refused>,
    /// A disk has one.
    pub(super) drive: Option<Drive>,
    pub(super) link: Option<Link>,
}

/// A request that is to be served anew.
pub(super) struct Refused {
    taken: Taken,
    /// There was a resume since, or its image is gone.
    pub(super) again: bool,
}

/// What the thread does next.
enum Next {
    Serve(Taken),
    /// There may be more.
    Look,
    Wait,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    Run,
    /// Suspended: take no request.
    Hold,
    /// End.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    None,
    Idle,
    /// In a request.
    Busy,
}

impl Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread may do becomes `to` if it is `from`: a thread that was told to end ends.
    pub(super) fn change(&self, from: Allowed, to: Allowed) {
        let mut state = self.lock();
        if state.allowed == from {
            state.allowed = to;
        }
        drop(state);
        self.work.notify_one();
    }

    /// Waits for a request; `None`: it is time to end.
    pub(super) fn next(&self) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            match state.next(&self.ram) {
                Next::End => return None,
                Next::Serve(taken) => {
                    state.thread = Thread::Busy;
                    return Some(taken);
                }
                Next::Look => {
                    // A guest that rings without end does not keep others from the lock.
                    drop(state);
                    std::thread::yield_now();
                    state = self.lock();
                }
                Next::Wait => {
                    state = self
                        .work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// A request, if there is one now.
    #[cfg(fuzzing)]
    pub(super) fn next_now(&self) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            match state.next(&self.ram) {
                Next::Serve(taken) => return Some(taken),
                Next::Look => {}
                Next::Wait | Next::End => return None,
            }
        }
    }

    /// Gives a request back, unless the device was reset since.
    pub(super) fn finish(&self, taken: Taken, served: &Result<u32, Stop>) {
        if let Err(Stop::Refused(refusal)) = served {
            self.report(&taken, refusal);
        }
        let mut state = self.lock();
        if state.registers.epoch() == taken.epoch {
            match served {
                Ok(bytes) => {
                    let head = taken.chain.head;
                    state
                        .registers
                        .complete(&self.ram, taken.queue, head, *bytes);
                }
                Err(Stop::Fault) => state.registers.break_down(),
                Err(Stop::Refused(_)) => {
                    state.registers.counts().refused.inc();
                    state.refused = Some(Refused {
                        taken,
                        again: false,
                    });
                }
                // Not in this epoch.
                Err(Stop::Reset) => {}
            }
        }
        state.thread = Thread::Idle;
        state.change_image();
        let is_awaited = std::mem::take(&mut state.reset_waits) || state.allowed != Allowed::Run;
        let link = state.link.clone().filter(|_| is_awaited);
        drop(state);
        self.changed.notify_all();
        if let Some(link) = link {
            link.waker.wake();
        }
    }

    /// Raises that the host refuses `taken`, if anybody still waits for it.
    fn report(&self, taken: &Taken, refusal: &Refusal) {
        let state = self.lock();
        let is_awaited = state.registers.epoch() == taken.epoch && state.allowed != Allowed::End;
        let link = state.link.clone().filter(|_| is_awaited);
        drop(state);
        if let Some(link) = link {
            link.raiser.raise(RuntimeError {
                id: refusal.id,
                source: self.name.clone(),
                message: refusal.message.clone(),
                action: Action::Suspend,
            });
        }
    }
}

impl State {
    fn next(&mut self, ram: &GuestRam) -> Next {
        let epoch = self.registers.epoch();
        self.refused.take_if(|refused| refused.taken.epoch != epoch);
        match self.allowed {
            Allowed::End => {
                self.refused = None;
                return Next::End;
            }
            Allowed::Hold => return Next::Wait,
            Allowed::Run => {}
        }
        if let Some(refused) = self.refused.take_if(|refused| refused.again) {
            return Next::Serve(refused.taken);
        }
        // Nothing overtakes what was refused.
        if self.refused.is_some() || !self.registers.is_rung() {
            return Next::Wait;
        }
        self.registers.take(ram).map_or(Next::Look, Next::Serve)
    }
}
