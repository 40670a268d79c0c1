// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The operations that gather all EMTs: power on, suspend, resume, reset, power off, save.
//!
//! Each is one descending rendezvous. The first EMT (the highest vCPU) begins the transition, each
//! does its own part, and EMT 0, last, does the machine's part and commits. If anything fails on the
//! way the transition is dropped, which undoes it along the table's edge.

mod devices;
mod errors;
mod save;

use std::sync::Arc;
use std::time::Instant;

use vm_emt::Flow;
use vm_pdm::{Action, ResetKind};
use vm_rendezvous::How;
use vm_state::operations::Operation;
use vm_state::{Cause, ResumeReason, State, SuspendReason, Transition};

use self::devices::{hold_timers, quiesce};
use crate::component::Pipeline;
use crate::emt::{Emt, describe};
use crate::fault::Fault;
use crate::recorder::Flight;
use crate::shared::Shared;
use crate::sync::{Mutex, lock};
use crate::{Ending, VmError, pages};

pub(crate) use devices::wait_devices;
pub(crate) use errors::{Depth, serve_errors};
pub(crate) use save::{save, save_and_power_off};

/// Who asks.
pub(crate) enum Caller<'a> {
    /// A thread that is no EMT of this VM.
    Off,
    /// An EMT, which takes part itself, as long as it is still wanted when all have met.
    On(&'a mut Emt, Wanted),
}

/// What somebody on an EMT asked for, and others may have settled before all have met.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// By the guest as it was after so many resets.
    Resets(u64),
    /// By a runtime error.
    Error,
}

impl Wanted {
    fn holds(self, shared: &Shared) -> bool {
        match self {
            Self::Resets(resets) => shared.resets.total() == resets,
            Self::Error => shared
                .errors
                .due()
                .is_some_and(|due| due.action == Action::Suspend),
        }
    }
}

/// What one operation does, besides the transition.
struct Act<'a> {
    op: &'static Operation,
    cause: Cause,
    /// On the first EMT, right after the transition began.
    begun: &'a (dyn Fn() + Sync),
    /// On every EMT.
    each: &'a (dyn Fn(&mut Emt) -> Result<(), VmError> + Sync),
    /// On EMT 0, last; gives the state to commit, from the state the operation began in.
    last: &'a (dyn Fn(&mut Emt, State) -> Result<State, VmError> + Sync),
}

/// Devices are powered on and the guest begins. CREATED -> POWERING_ON -> RUNNING.
pub(crate) fn power_on(shared: &Arc<Shared>, caller: Caller<'_>) -> Result<(), VmError> {
    gather(
        shared,
        caller,
        &Act {
            op: &vm_state::operations::POWER_ON,
            cause: Cause::User,
            begun: &|| shared.errors.quit_suspend(),
            each: &|_| Ok(()),
            last: &|emt, _| {
                devices::power_on(emt)?;
                Ok(State::Running)
            },
        },
    )
}

/// No guest code runs and no device works. RUNNING -> SUSPENDING -> SUSPENDED.
pub(crate) fn suspend(
    shared: &Arc<Shared>,
    caller: Caller<'_>,
    reason: SuspendReason,
) -> Result<(), VmError> {
    gather(
        shared,
        caller,
        &Act {
            op: &vm_state::operations::SUSPEND,
            cause: Cause::Suspend(reason),
            begun: &|| {},
            each: &|_| Ok(()),
            last: &|emt, from| {
                quiesce(emt, "suspend")?;
                Ok(if from == State::RunningLs {
                    State::SuspendedExtLs
                } else {
                    State::Suspended
                })
            },
        },
    )
}

/// The guest goes on where it was. SUSPENDED -> RESUMING -> RUNNING.
pub(crate) fn resume(
    shared: &Arc<Shared>,
    caller: Caller<'_>,
    reason: ResumeReason,
) -> Result<(), VmError> {
    let mark = shared.teleport_mark();
    gather(
        shared,
        caller,
        &Act {
            op: &vm_state::operations::RESUME,
            cause: Cause::Resume(reason),
            // What was asked for before somebody wants it to run again is void.
            begun: &|| shared.errors.quit_suspend(),
            each: &|_| Ok(()),
            last: &|emt, _| {
                devices::resume(emt)?;
                Ok(State::Running)
            },
        },
    )?;
    // After observers heard of RUNNING, who may still want to know; a teleport that began since keeps
    // its own mark.
    shared.end_teleport(mark);
    Ok(())
}

/// The machine as it was when it was powered on; a suspended VM stays suspended.
pub(crate) fn reset(
    shared: &Arc<Shared>,
    caller: Caller<'_>,
    kind: ResetKind,
) -> Result<(), VmError> {
    gather(
        shared,
        caller,
        &Act {
            op: match kind {
                ResetKind::Hard => &vm_state::operations::HARD_RESET,
                ResetKind::Soft => &vm_state::operations::SOFT_RESET,
            },
            cause: Cause::User,
            begun: &|| shared.resets.count(kind),
            each: &|emt| {
                emt.reset_vcpu().map_err(|source| VmError::Cpu {
                    op: "reset",
                    source,
                })
            },
            last: &|emt, from| {
                let mut pipeline = std::mem::take(&mut emt.primary.pipeline);
                let result = pipeline.reset(emt, kind);
                emt.primary.pipeline = pipeline;
                result?;
                Ok(match (from, kind) {
                    // A hard reset during a live save ends suspended.
                    (State::RunningLs, ResetKind::Hard) => State::SuspendedLs,
                    (from, _) => from,
                })
            },
        },
    )
}

/// Nothing of the machine works any more; only destroy is left.
pub(crate) fn power_off(
    shared: &Arc<Shared>,
    caller: Caller<'_>,
    ending: Ending,
) -> Result<(), VmError> {
    let cause = match ending {
        Ending::PowerOff => Cause::User,
        Ending::GuestPowerOff | Ending::GuestReset | Ending::DebugExit(_) | Ending::TripleFault => {
            Cause::Guest
        }
    };
    gather(
        shared,
        caller,
        &Act {
            op: &vm_state::operations::POWER_OFF,
            cause,
            begun: &|| {
                shared.end(ending);
                shared.cancel_save();
            },
            each: &|emt| {
                pages::dump(emt);
                Ok(())
            },
            last: &|emt, from| {
                if let Err(e) = hold_timers(emt, "power off") {
                    log::warn!(target: "vm.transition", "{e}; power-off goes on");
                }
                if let Some(devices) = &mut emt.primary.devices
                    && let Err(e) = devices.power_off()
                {
                    log::warn!(target: "vm.transition", "power-off goes on although {e}");
                }
                if let Err(e) = wait_devices(emt, "power off") {
                    log::warn!(target: "vm.transition", "{e}; power-off goes on");
                }
                Ok(if from.is_live_save() {
                    State::OffLs
                } else {
                    State::Off
                })
            },
        },
    )
}

/// Whether only a saver leaves this state.
pub(crate) fn is_savers(state: State) -> bool {
    matches!(
        state,
        State::SuspendedLs | State::SuspendedExtLs | State::Saving
    )
}

/// No guest code runs any more. RUNNING -> FATAL_ERROR; while the VM is suspended or in between, the
/// cause is remembered, and whatever ends next ends in GURU_MEDITATION.
pub(crate) fn fail(shared: &Arc<Shared>) -> Result<(), VmError> {
    const OP: &str = vm_state::operations::FATAL_ERROR.name;
    refuse_blocking(shared, OP)?;
    let how = How::once().limit(shared.spec.gather_limit);
    let shift = |_: &mut Emt| {
        errors::enter_fatal(shared, Cause::Host)?;
        Ok(Flow::Look)
    };
    let met = shared.rendezvous.meet(how, shift);
    shared.follow_state();
    met.map(drop).map_err(|e| VmError::from_meet(OP, e))
}

/// Takes the pipeline down; only in DESTROYING, on EMT 0.
pub(crate) fn take_down(emt: &mut Emt) {
    let mut pipeline = std::mem::replace(&mut emt.primary.pipeline, Pipeline::new(Vec::new()));
    pipeline.term(emt);
}

fn gather(shared: &Arc<Shared>, caller: Caller<'_>, act: &Act<'_>) -> Result<(), VmError> {
    let name = act.op.name;
    if matches!(caller, Caller::Off) {
        refuse_blocking(shared, name)?;
    }
    let started = Instant::now();
    let slot: Mutex<Option<Transition>> = Mutex::new(None);
    let how = How::descending()
        .stop_on_error()
        .limit(shared.spec.gather_limit);
    let asked = match &caller {
        Caller::Off => None,
        Caller::On(_, wanted) => Some(*wanted),
    };
    let callback = |emt: &mut Emt| step(act, &slot, asked, emt);
    let met = match caller {
        Caller::Off => shared.rendezvous.meet(how, callback),
        Caller::On(emt, _) => shared.rendezvous.meet_from(emt, how, callback),
    };
    // Only a panic leaves it there.
    let left = lock(&slot).take();
    if left.is_some() {
        drop(left);
        if !shared.is_broken(Fault::UndoWithoutRing) {
            shared.bells.ring_all();
        }
    }
    let took = met.is_ok().then(|| started.elapsed());
    shared.observed.operation(name, took);
    met.map(drop).map_err(|e| VmError::from_meet(name, e))
}

/// One EMT's part of an operation. If it fails, the transition is undone here, before any EMT is
/// let go: whoever comes next must not find the VM in the middle of what failed.
fn step(
    act: &Act<'_>,
    slot: &Mutex<Option<Transition>>,
    asked: Option<Wanted>,
    emt: &mut Emt,
) -> Result<Flow, VmError> {
    let done = part(act, slot, asked, emt);
    if let Err(e @ VmError::NotUndone { .. }) = &done {
        // Devices are neither here nor there: nobody may run this VM again.
        emt.doom(Cause::Host, &describe(e));
    }
    if done.is_err() && !emt.shared().is_broken(Fault::UndoWithoutRing) {
        undo(emt.shared(), lock(slot).take());
    }
    if done.is_err() || emt.id() == 0 {
        emt.shared().follow_state();
    }
    done
}

fn part(
    act: &Act<'_>,
    slot: &Mutex<Option<Transition>>,
    asked: Option<Wanted>,
    emt: &mut Emt,
) -> Result<Flow, VmError> {
    let begun = lock(slot).is_some();
    if !begun {
        if asked.is_some_and(|wanted| !wanted.holds(emt.shared())) {
            return Err(VmError::Overtaken { op: act.op.name });
        }
        let transition = emt
            .shared()
            .state
            .begin(act.op.moves, act.cause)
            .map_err(|refused| VmError::Refused {
                op: act.op.name,
                refused,
            })?;
        // A cause that was remembered while the VM did not run: no device hears of this operation.
        if act.op.name != vm_state::operations::POWER_OFF.name
            && emt.shared().state.fatal().is_some()
        {
            return Err(VmError::Fatal {
                op: act.op.name,
                state: transition.undo(),
            });
        }
        *lock(slot) = Some(transition);
        (act.begun)();
    }
    emt.record(Flight::Part(act.op.name));
    (act.each)(emt)?;
    if emt.id() == 0 {
        let Some(from) = lock(slot).as_ref().map(Transition::from) else {
            return Err(VmError::Gone { op: act.op.name });
        };
        let to = (act.last)(emt, from)?;
        suspend_after_reset(emt, slot, to)?;
        let ended = lock(slot).take().map(|t| t.commit(to));
        if let Some(state) = ended.map(|ended| ended.unwrap_or_else(|illegal| illegal.ended))
            && emt_moved(emt, state) != to
        {
            return Err(VmError::Fatal {
                op: act.op.name,
                state,
            });
        }
    }
    Ok(Flow::Look)
}

/// Gives a transition up. A suspend that fails during a live save has no way back into the save: it
/// ends, and the VM runs on.
fn undo(shared: &Shared, transition: Option<Transition>) {
    let Some(transition) = transition else { return };
    if matches!(
        transition.via(),
        State::SuspendingLs | State::SuspendingExtLs
    ) {
        shared.cancel_save();
        if let Err(illegal) = transition.then(State::Suspending).map(drop) {
            log::error!(target: "vm.transition", "{illegal}");
        }
    }
}

/// Records the state that this EMT brought the VM to.
fn emt_moved(emt: &mut Emt, state: State) -> State {
    emt.record(Flight::State(state));
    state
}

/// A hard reset during a live save goes on as a suspend, since the memory that was saved so far is
/// that of another boot.
fn suspend_after_reset(
    emt: &mut Emt,
    slot: &Mutex<Option<Transition>>,
    to: State,
) -> Result<(), VmError> {
    let resetting = lock(slot).as_ref().map(Transition::via) == Some(State::ResettingLs);
    if !resetting || to != State::SuspendedLs {
        return Ok(());
    }
    let transition = lock(slot).take().map(|t| t.then(State::SuspendingLs));
    let fatal = |illegal: vm_state::IllegalTarget| VmError::Fatal {
        op: "hard reset",
        state: illegal.ended,
    };
    *lock(slot) = transition.transpose().map_err(fatal)?;
    quiesce(emt, "hard reset")
}

/// A blocking operation must not be called where it would wait for its own caller.
pub(crate) fn refuse_blocking(shared: &Shared, op: &'static str) -> Result<(), VmError> {
    if shared.bells.current().is_some() {
        return Err(VmError::WouldBlock {
            op,
            from: "an EMT of this VM",
        });
    }
    if vm_state::in_observer() {
        return Err(VmError::WouldBlock {
            op,
            from: "an observer",
        });
    }
    Ok(())
}
