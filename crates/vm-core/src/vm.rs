// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The handle of a VM: create, operate, destroy.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use vm_emt::Bells;
use vm_pdm::info::Infos;
use vm_pdm::stats::Stats;
use vm_pdm::{Raiser, ResetKind, RuntimeError, Timers};
use vm_rendezvous::How;
use vm_req::{CallError, EachOrder, Queues};
use vm_state::{Change, ResumeReason, State, StateCell, Subscription, SuspendReason, WaitError};

use crate::emt::Emt;
use crate::errors::{ErrorEvent, ErrorSubscription, Errors};
use crate::owner::Owner;
use crate::save::{CancelError, Intent, Saved, Saver};
use crate::shared::Shared;
use crate::{EmtReport, Ending, GuruReport, Parts, Report, Status, VmError, VmSpec, ops};

/// A virtual machine. Clones are handles of the same VM.
///
/// The EMTs are ended by [`Vm::destroy`]; if the last handle goes without it, they are told to leave
/// and waited for.
#[derive(Clone)]
pub struct Vm {
    owner: Arc<Owner>,
}

impl Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("name", &self.owner.shared.spec.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// Creates a VM: starts its EMTs and brings up its components on EMT 0. Ends in CREATED.
    ///
    /// # Thread
    /// None of this VM's EMTs.
    ///
    /// # Errors
    /// [`VmError::Spec`], [`VmError::Thread`], or what a component failed with. Nothing of the VM is
    /// left: what was brought up is taken down in reverse, and every thread is joined.
    pub fn create(spec: VmSpec, parts: Parts) -> Result<Self, VmError> {
        let owner = Owner::create(spec, parts)?;
        Ok(Self {
            owner: Arc::new(owner),
        })
    }

    /// Keeps and tells what `op` failed with.
    pub(crate) fn noted<T>(
        &self,
        op: &'static str,
        result: Result<T, VmError>,
    ) -> Result<T, VmError> {
        if let Err(error) = &result {
            self.owner.shared.errors.failed(op, error);
        }
        result
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// The state now. A plain load.
    pub fn state(&self) -> State {
        self.owner.shared.state.read()
    }

    /// Powers on. CREATED -> POWERING_ON -> RUNNING, or back to CREATED.
    ///
    /// # Errors
    /// [`VmError::Refused`] in any other state, [`VmError::Device`] if a device cannot,
    /// [`VmError::Late`], [`VmError::WouldBlock`] on an EMT or in an observer.
    pub fn power_on(&self) -> Result<(), VmError> {
        self.noted(
            "power on",
            ops::power_on(&self.owner.shared, ops::Caller::Off),
        )
    }

    /// Suspends. RUNNING -> SUSPENDING -> SUSPENDED, or back to RUNNING.
    ///
    /// # Errors
    /// As [`Vm::power_on`].
    pub fn suspend(&self, reason: SuspendReason) -> Result<(), VmError> {
        let result = ops::suspend(&self.owner.shared, ops::Caller::Off, reason);
        self.noted("suspend", result)
    }

    /// Resumes. SUSPENDED -> RESUMING -> RUNNING, or back to SUSPENDED.
    ///
    /// # Errors
    /// As [`Vm::power_on`].
    pub fn resume(&self, reason: ResumeReason) -> Result<(), VmError> {
        let result = ops::resume(&self.owner.shared, ops::Caller::Off, reason);
        self.noted("resume", result)
    }

    /// Resets hard. RUNNING or SUSPENDED -> RESETTING -> the same again. Guest memory keeps what
    /// the firmware does not load anew.
    ///
    /// # Errors
    /// As [`Vm::power_on`]; [`VmError::Component`] if a component cannot be reset, and then the VM is
    /// in guru meditation.
    pub fn reset(&self) -> Result<(), VmError> {
        let result = ops::reset(&self.owner.shared, ops::Caller::Off, ResetKind::Hard);
        self.noted("hard reset", result)
    }

    /// Resets the vCPUs and tells the devices of a warm start; nothing is loaded anew. The states are
    /// those of [`Vm::reset`], and during a live save the VM goes on running.
    ///
    /// # Errors
    /// As [`Vm::reset`].
    pub fn soft_reset(&self) -> Result<(), VmError> {
        let result = ops::reset(&self.owner.shared, ops::Caller::Off, ResetKind::Soft);
        self.noted("soft reset", result)
    }

    /// Powers off. Any settled state -> POWERING_OFF -> OFF.
    ///
    /// # Errors
    /// [`VmError::Refused`] if it is off already or in between, [`VmError::Late`],
    /// [`VmError::WouldBlock`].
    pub fn power_off(&self) -> Result<(), VmError> {
        let shared = &self.owner.shared;
        let result = match ops::power_off(shared, ops::Caller::Off, Ending::PowerOff) {
            // Only the saver leaves these states: it is cancelled, and waited for.
            Err(VmError::Refused { refused, .. }) if ops::is_savers(refused.actual()) => {
                shared.cancel_save();
                let _ = shared
                    .state
                    .wait_until(|s| !ops::is_savers(s), Some(shared.spec.gather_limit));
                ops::power_off(shared, ops::Caller::Off, Ending::PowerOff)
            }
            result => result,
        };
        self.noted("power off", result)
    }

    /// Saves through `saver`: at once if SUSPENDED, live if RUNNING. Ends SUSPENDED. Others may
    /// suspend, reset or power off the VM meanwhile; a power-off or a fatal cause ends the save.
    ///
    /// # Thread
    /// None of this VM's EMTs; it is the one that runs the live passes.
    ///
    /// # Errors
    /// [`VmError::Save`], [`VmError::Refused`] in any other state, and as [`Vm::power_on`]. After a
    /// failure in a live pass the VM is RUNNING again, or where somebody else brought it.
    pub fn save(&self, saver: &mut dyn Saver, intent: Intent) -> Result<Saved, VmError> {
        self.noted("save", ops::save(&self.owner.shared, saver, intent))
    }

    /// Cancels the save under way.
    ///
    /// # Errors
    /// [`CancelError`]: there is none, or it was cancelled before.
    pub fn cancel_save(&self) -> Result<(), CancelError> {
        match self.owner.shared.cancel_save() {
            None => Err(CancelError::NothingPending),
            Some(false) => Err(CancelError::AlreadyCancelled),
            Some(true) => Ok(()),
        }
    }

    /// Whether the VM is being, or was, teleported and has not been resumed since.
    pub fn teleported(&self) -> bool {
        self.owner.shared.teleported()
    }

    /// The VM cannot be trusted any more, for a reason outside the guest: RUNNING -> FATAL_ERROR.
    /// Power-off is the only way on.
    ///
    /// # Errors
    /// As [`Vm::power_on`].
    pub fn fail(&self) -> Result<(), VmError> {
        self.noted("fatal error", ops::fail(&self.owner.shared))
    }

    /// Destroys: takes the components down in reverse, ends and joins the EMTs. OFF -> DESTROYING ->
    /// TERMINATED. Can be called again after [`VmError::Late`].
    ///
    /// # Errors
    /// [`VmError::Refused`] unless OFF, [`VmError::Late`] naming an EMT that did not come within
    /// `limit`; its memory stays, nothing is freed under a live thread.
    pub fn destroy(&self, limit: Duration) -> Result<(), VmError> {
        self.noted("destroy", self.owner.destroy(limit))
    }

    /// Waits until the state satisfies `wanted`.
    ///
    /// # Errors
    /// [`WaitError`] with the state at the end of `limit`.
    pub fn wait_until(
        &self,
        wanted: impl Fn(State) -> bool,
        limit: Option<Duration>,
    ) -> Result<State, WaitError> {
        self.owner.shared.state.wait_until(wanted, limit)
    }

    /// Calls `observer` for every change of state from now on, in order, until the subscription is
    /// dropped. A blocking operation called from an observer is refused.
    pub fn observe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) -> Subscription {
        self.owner.shared.state.observe(observer)
    }

    /// Calls `listener` for every error from now on, in order, until the subscription is dropped: each
    /// runtime error when what becomes of the VM has happened, and each operation that failed. Holds no
    /// lock meanwhile; on whichever thread comes to it, often an EMT. A blocking operation called from
    /// a listener is refused; an error reported from one is told after the one it is told of.
    pub fn observe_errors(
        &self,
        listener: impl Fn(&ErrorEvent) + Send + Sync + 'static,
    ) -> ErrorSubscription {
        self.owner.shared.errors.observe(listener)
    }

    /// What went wrong so far.
    pub fn errors(&self) -> Errors {
        self.owner.shared.errors.read()
    }

    /// Reports an error of the host's: suspends the VM or makes it fatal, as the error says, and then
    /// tells it. Never blocks; all that happens later, on an EMT. What is asked for while the VM is
    /// being resumed or reset happens when that is over; a suspend asked for while it is suspended is
    /// done already; a fatal error remembered while it is suspended keeps it from running again.
    pub fn raise(&self, error: RuntimeError) {
        self.owner.shared.raise(error);
    }

    /// [`Vm::raise`] to hand out, as devices have it in their [`Link`](vm_pdm::Link). It does not keep
    /// the VM's threads alive.
    pub fn raiser(&self) -> Raiser {
        let shared = Arc::clone(&self.owner.shared);
        Raiser::new(move |error| shared.raise(error))
    }

    /// How the VM ended, once it is on its way off.
    pub fn ending(&self) -> Option<Ending> {
        self.owner.shared.ending()
    }

    /// Why it is in guru meditation, if it is.
    pub fn guru(&self) -> Option<GuruReport> {
        self.owner.shared.guru()
    }

    /// The VM at this moment.
    pub fn status(&self) -> Status {
        let shared = &self.owner.shared;
        Status {
            name: shared.spec.name.clone(),
            state: shared.state.read().to_string(),
            previous: shared.state.snapshot().previous.to_string(),
            vcpus: shared.spec.vcpus,
            plugged: (0..shared.spec.vcpus)
                .filter(|&v| shared.plugged.has(v))
                .collect(),
            cap_percent: shared.cap.percent(),
            tids: shared.threads.tids(),
            hard_resets: shared.resets.hard(),
            soft_resets: shared.resets.soft(),
            errors: shared.errors.read().into(),
        }
    }

    /// The VM and what each EMT did last, for a person. Every EMT is asked; one that does not answer
    /// within `limit`, shared by all, is described from outside.
    ///
    /// # Errors
    /// [`VmError::WouldBlock`] on an EMT or in an observer.
    pub fn report(&self, limit: Duration) -> Result<Report, VmError> {
        let shared = &self.owner.shared;
        ops::refuse_blocking(shared, "report")?;
        let status = self.status();
        let seen = shared
            .queues
            .each(EachOrder::Ascending, Some(limit), |emt: &mut Emt| {
                emt.seen()
            });
        let emts = seen
            .into_iter()
            .zip(0..)
            .map(|(seen, vcpu)| EmtReport {
                vcpu,
                tid: status.tids.get(vcpu as usize).copied().flatten(),
                word: shared.bells.word(vcpu).to_string(),
                last_exit: crate::recorder::exit_name(shared.bells.last_exit(vcpu).0),
                seen: seen.ok(),
            })
            .collect();
        Ok(Report { status, emts })
    }

    /// Runs `op` on EMT `v`, with the vCPU's pending exit finished, and waits for its reply. From
    /// another thread than an EMT of this VM.
    ///
    /// # Errors
    /// [`VmError::Late`] if the EMT did not get to it within `limit` (then `op` never runs),
    /// [`VmError::WouldBlock`], [`VmError::Gone`], [`VmError::Panicked`].
    pub fn on_emt<T: Send>(
        &self,
        v: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut Emt) -> T + Send,
    ) -> Result<T, VmError> {
        self.request(v, |queues| queues.call(v, limit, op))
    }

    /// [`Vm::on_emt`], which the EMT also serves while it waits for something else, such as a device
    /// that is pending. Only for what is harmless there.
    ///
    /// # Errors
    /// As [`Vm::on_emt`].
    pub fn on_emt_priority<T: Send>(
        &self,
        v: u32,
        limit: Option<Duration>,
        op: impl FnOnce(&mut Emt) -> T + Send,
    ) -> Result<T, VmError> {
        self.request(v, |queues| queues.call_priority(v, limit, op))
    }

    fn request<T>(
        &self,
        v: u32,
        call: impl FnOnce(&Queues<Emt>) -> Result<T, CallError>,
    ) -> Result<T, VmError> {
        const OP: &str = "request";
        ops::refuse_blocking(&self.owner.shared, OP)?;
        call(&self.owner.shared.queues).map_err(|e| VmError::from_call(OP, v, e))
    }

    /// Gathers all EMTs and runs `op` on each, as `how` says.
    ///
    /// # Errors
    /// The first failure of `op`; [`VmError::Late`], [`VmError::WouldBlock`], [`VmError::Panicked`].
    pub fn meet(
        &self,
        how: How,
        op: impl Fn(&mut Emt) -> Result<vm_emt::Flow, VmError> + Sync,
    ) -> Result<(), VmError> {
        ops::refuse_blocking(&self.owner.shared, "rendezvous")?;
        self.owner
            .shared
            .rendezvous
            .meet(how, op)
            .map(drop)
            .map_err(|e| VmError::from_meet("rendezvous", e))
    }

    /// What the VM counts: exits by kind, kicks, requests, operations, and what its devices count.
    pub fn stats(&self) -> &Stats {
        &self.owner.shared.observed.stats
    }

    /// The pages about the VM's parts, from `cpu` to each device's, for a person. Not to be run on an
    /// EMT, whose turn the page may wait for.
    pub fn infos(&self) -> &Infos {
        &self.owner.shared.observed.infos
    }

    /// The virtual clock, which runs while the VM does, and the timers on it.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.owner.shared.timers
    }

    /// The doorbells, for diagnosis.
    pub fn bells(&self) -> &Arc<Bells> {
        &self.owner.shared.bells
    }

    /// The state cell, for embedders that wait or observe on their own.
    pub fn state_cell(&self) -> &Arc<StateCell> {
        &self.owner.shared.state
    }
}
