// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who owns a VM's threads: starts them, and ends them in the one teardown path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_rendezvous::How;
use vm_state::{Cause, Change, State, Subscription, Transition};

use crate::component::{ComponentError, Pipeline};
use crate::emt::Emt;
use crate::shared::Shared;
use crate::sync::{JoinHandle, Mutex, lock, thread};
use crate::{Ending, Parts, VmError, VmSpec, ops};

/// Owns the threads.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    joins: Mutex<Vec<Option<JoinHandle<()>>>>,
    /// Writes a log record for each transition, before any other observer hears of it.
    _records: Subscription,
    /// DESTROYING, kept between an attempt to destroy that was late and the next.
    ending: Mutex<Option<Transition>>,
}

/// Brings the components up, on EMT 0.
fn construct(emt: &mut Emt, mut pipeline: Pipeline) -> Result<(), ComponentError> {
    let result = pipeline.init(emt);
    emt.primary.pipeline = pipeline;
    result
}

impl Owner {
    /// Starts the EMTs and brings the components up on EMT 0; or leaves nothing.
    pub(crate) fn create(spec: VmSpec, parts: Parts) -> Result<Self, VmError> {
        spec.check()?;
        let (shared, creation) = Shared::new(spec);
        let name = shared.spec.name.clone();
        let records = shared.state.observe(move |change| {
            let Change {
                old, new, cause, ..
            } = change;
            log::info!(target: "vm.transition", "{name}: {old} -> {new} ({cause})");
        });
        let owner = Owner {
            _records: records,
            shared: Arc::clone(&shared),
            joins: Mutex::new(Vec::new()),
            ending: Mutex::new(None),
        };
        if let Some(saver) = parts.saver.clone() {
            shared.saver.get_or_init(|| saver);
        }
        let components = parts.into_components();
        let built = owner.start_emts().and_then(|()| {
            shared
                .queues
                .call(0, None, |emt| construct(emt, Pipeline::new(components)))
                .map_err(|e| VmError::from_call("create", 0, e))?
                .map_err(VmError::from)
        });
        if let Err(e) = built {
            owner.abandon_create(creation);
            return Err(e);
        }
        match creation.commit(State::Created) {
            Ok(State::Created) => Ok(owner),
            Ok(state) | Err(vm_state::IllegalTarget { ended: state, .. }) => Err(VmError::Fatal {
                op: "create",
                state,
            }),
        }
    }

    fn start_emts(&self) -> Result<(), VmError> {
        let vcpus = self.shared.spec.vcpus;
        for v in 0..vcpus {
            let name = if vcpus == 1 {
                "emt".to_owned()
            } else {
                format!("emt-{v}")
            };
            let shared = Arc::clone(&self.shared);
            let join = thread(name.clone())
                .spawn(move || emt_main(v, shared))
                .map_err(|source| VmError::Thread { name, source })?;
            lock(&self.joins).push(Some(join));
        }
        let deadline = Instant::now() + self.shared.spec.gather_limit;
        for v in 0..vcpus {
            if !self.shared.threads.wait_started(v, deadline) {
                return Err(self.late("create", v));
            }
        }
        Ok(())
    }

    /// Takes the components down, ends the EMTs and joins them, once the VM is off.
    pub(crate) fn destroy(&self, limit: Duration) -> Result<(), VmError> {
        const OP: &str = "destroy";
        ops::refuse_blocking(&self.shared, OP)?;
        let deadline = Instant::now() + limit;
        if self.shared.state.read() == State::Off {
            // Whoever cannot come is named before anything is taken down.
            self.shared
                .rendezvous
                .meet(How::together().limit(limit), |_| Ok(vm_emt::Flow::Continue))
                .map(drop)
                .map_err(|e| VmError::from_meet(OP, e))?;
        }
        // Whoever holds the transition destroys; another destroy is refused meanwhile.
        let kept = lock(&self.ending).take();
        let transition = match kept {
            Some(transition) => transition,
            None => self
                .shared
                .state
                .begin(vm_state::operations::DESTROY.moves, Cause::Destroy)
                .map_err(|refused| VmError::Refused { op: OP, refused })?,
        };
        let ended = self.take_down(deadline);
        self.conclude(transition, ended)
    }

    /// Takes the components down and ends the EMTs.
    fn take_down(&self, deadline: Instant) -> Result<(), VmError> {
        const OP: &str = "destroy";
        // An EMT 0 that was told to leave has done its part, in an earlier attempt that was late.
        if !self.shared.leaves(0) {
            let left = deadline.saturating_duration_since(Instant::now());
            self.shared
                .queues
                .call(0, Some(left), ops::take_down)
                .map_err(|e| VmError::from_call(OP, 0, e))?;
        }
        self.end_emts(deadline)
    }

    /// TERMINATED if every EMT has ended; else the transition is kept for the next attempt.
    fn conclude(&self, transition: Transition, ended: Result<(), VmError>) -> Result<(), VmError> {
        match ended {
            Ok(()) => {
                self.shared.queues.close();
                if let Err(illegal) = transition.commit(State::Terminated) {
                    log::error!(target: "vm.transition", "{illegal}");
                }
            }
            Err(_) => *lock(&self.ending) = Some(transition),
        }
        ended
    }

    /// Ends the EMTs from the highest to 0 and joins them.
    fn end_emts(&self, deadline: Instant) -> Result<(), VmError> {
        for v in (0..self.shared.spec.vcpus).rev() {
            let Some(started) = lock(&self.joins).get_mut(v as usize).map(Option::take) else {
                continue;
            };
            let Some(join) = started else { continue };
            self.shared.leave(v);
            if !self.shared.threads.wait_ended(v, deadline) {
                lock(&self.joins)[v as usize] = Some(join);
                return Err(self.late("destroy", v));
            }
            if join.join().is_err() {
                log::error!(target: "vm.emt", "emt-{v} ended by a panic");
            }
        }
        Ok(())
    }

    /// Takes the one teardown path with whatever was started.
    fn abandon_create(&self, creation: Transition) {
        let destroying = creation.then(State::Destroying);
        let ended = self.end_emts(Instant::now() + self.shared.spec.gather_limit);
        let concluded = match destroying {
            Ok(transition) => self.conclude(transition, ended).map_err(|e| e.to_string()),
            Err(illegal) => Err(illegal.to_string()),
        };
        if let Err(e) = concluded {
            log::error!(target: "vm.emt", "failed create: {e}");
        }
    }

    fn late(&self, op: &'static str, vcpu: u32) -> VmError {
        let (exit, rip) = self.shared.bells.last_exit(vcpu);
        VmError::Late {
            op,
            vcpu,
            word: self.shared.bells.word(vcpu).to_string(),
            exit: crate::recorder::exit_name(exit),
            rip,
        }
    }
}

impl Drop for Owner {
    /// The VM was not destroyed in order: power it off as far as it goes and end its threads, within
    /// the gather limit. An EMT that does not come is left to itself with what it can reach.
    fn drop(&mut self) {
        let state = self.shared.state.read();
        if state == State::Terminated {
            return;
        }
        if self.shared.bells.current().is_some() {
            // The last handle went on an EMT, which cannot wait for itself.
            self.shared.leave(0);
            return;
        }
        if !matches!(state, State::Off | State::Creating | State::Destroying)
            && let Err(e) = ops::power_off(&self.shared, ops::Caller::Off, Ending::PowerOff)
        {
            log::error!(target: "vm.transition", "dropped VM: {e}");
        }
        if let Err(e) = self.destroy(self.shared.spec.gather_limit) {
            log::error!(target: "vm.emt", "dropped VM: {e}");
            // Nobody asks again: whoever comes later ends at once, rather than waiting for ever.
            self.shared.leave(0);
        }
    }
}

fn emt_main(v: u32, shared: Arc<Shared>) {
    let ended = Ended {
        v,
        shared: Arc::clone(&shared),
    };
    match shared.bells.enroll(v) {
        Ok(bell) => {
            shared.threads.started(v, tid());
            Emt::new(bell, shared).run();
        }
        Err(e) => log::error!(target: "vm.emt", "emt-{v} not enrolled: {e}"),
    }
    drop(ended);
}

/// Says that the EMT touches nothing any more, also when it panics.
struct Ended {
    v: u32,
    shared: Arc<Shared>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.shared.threads.ended(self.v);
    }
}

/// The calling thread's id, where the host tells.
fn tid() -> Option<u32> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}
