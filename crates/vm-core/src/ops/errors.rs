// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What becomes of a VM whose device, or whose host, failed at run time.
//!
//! Level-triggered as all of the loop: every EMT looks at the ledger before it enters the guest, so
//! the vCPU whose access failed does not go on first; EMT 0 is rung for what comes from elsewhere.

use std::sync::Arc;

use vm_emt::Flow;
use vm_pdm::Action;
use vm_rendezvous::How;
use vm_state::{Cause, State, SuspendReason};

use super::{Caller, Wanted};
use crate::emt::Emt;
use crate::shared::Shared;
use crate::{VmError, ops};

const FATAL: &str = vm_state::operations::FATAL_ERROR.name;

/// Where an EMT is when it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// In its loop, with its exit settled.
    Loop,
    /// Inside something that waits: no meeting can be called.
    Wait,
}

/// Does what is due, then tells the errors.
pub(crate) fn serve_errors(emt: &mut Emt, depth: Depth) {
    let shared = Arc::clone(emt.shared());
    while let Some(due) = shared.errors.due() {
        let state = shared.state.read();
        if state.is_running() && depth == Depth::Wait && due.action != Action::Inform {
            // The loop does it, before it enters the guest.
            return;
        }
        let done = match due.action {
            Action::Suspend if state.is_running() => suspend(&shared, emt),
            Action::Fatal if state.is_running() => fatal(&shared, emt),
            Action::Inform => Done::Yes,
            Action::Suspend if state.is_transient() => {
                shared.errors.owe_suspend();
                Done::Yes
            }
            Action::Suspend => {
                shared.errors.quit_suspend();
                Done::Yes
            }
            Action::Fatal => {
                doom(&shared, state);
                Done::Yes
            }
        };
        if done == Done::LookAgain {
            continue;
        }
        shared.errors.settle(due);
        if due.action == Action::Suspend && !state.is_running() {
            break;
        }
    }
    shared.errors.tell();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    /// Somebody else has moved the VM, or has done it.
    LookAgain,
}

fn suspend(shared: &Arc<Shared>, emt: &mut Emt) -> Done {
    let caller = Caller::On(emt, Wanted::Error);
    match ops::suspend(shared, caller, SuspendReason::RuntimeError) {
        Ok(()) => Done::Yes,
        Err(VmError::Refused { .. } | VmError::Overtaken { .. }) => Done::LookAgain,
        Err(e) => {
            // It runs on: a suspend that failed once would fail again at once.
            shared.errors.quit_suspend();
            shared.errors.failed("suspend", &e);
            Done::Yes
        }
    }
}

/// RUNNING -> FATAL_ERROR, with all EMTs gathered; if one does not come, without it.
fn fatal(shared: &Arc<Shared>, emt: &mut Emt) -> Done {
    let how = How::once().limit(shared.spec.gather_limit);
    let met = shared.rendezvous.meet_from(emt, how, |_: &mut Emt| {
        enter_fatal(shared, Cause::RuntimeError)?;
        Ok(Flow::Look)
    });
    match met.map_err(|e| VmError::from_meet(FATAL, e)) {
        Ok(_) => {}
        Err(VmError::Refused { .. }) => return Done::LookAgain,
        Err(late) => {
            shared.errors.failed(FATAL, &late);
            if let Err(e) = enter_fatal(shared, Cause::RuntimeError) {
                log::debug!(target: "vm.error", "{e}");
            }
            shared.bells.ring_all();
        }
    }
    shared.follow_state();
    Done::Yes
}

/// A VM that does not run will not run again: whatever ends next ends in GURU_MEDITATION.
fn doom(shared: &Shared, state: State) {
    let on_its_way_out = matches!(
        state,
        State::PoweringOff
            | State::PoweringOffLs
            | State::OffLs
            | State::Off
            | State::Destroying
            | State::Terminated
    );
    if !state.is_failed() && !on_its_way_out {
        shared.state.raise_fatal(Cause::RuntimeError);
        shared.cancel_save();
    }
}

/// RUNNING -> FATAL_ERROR; while the VM is suspended or in between, the cause is remembered.
///
/// # Errors
/// [`VmError::Refused`] where there is nothing to fail any more.
pub(super) fn enter_fatal(shared: &Shared, cause: Cause) -> Result<(), VmError> {
    match shared
        .state
        .shift(vm_state::operations::FATAL_ERROR.shifts, cause)
    {
        Ok(_) => {}
        Err(refused) if refused.actual().is_powered_on() => {
            shared.state.raise_fatal(cause);
        }
        Err(refused) => return Err(VmError::Refused { op: FATAL, refused }),
    }
    shared.cancel_save();
    shared.follow_state();
    Ok(())
}
