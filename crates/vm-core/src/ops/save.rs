// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Save: from SUSPENDED in one step, from RUNNING live.
//!
//! A live save moves RUNNING to RUNNING_LS, writes passes while the VM runs, suspends it, writes the
//! rest, and ends SUSPENDED. Everybody else's operations are allowed meanwhile and have `_LS` states of
//! their own; [`Owner`] is the one who leaves those, on every path.

use std::sync::Arc;

use vm_state::operations::{LIVE_END, LIVE_FINISH, LIVE_SUSPEND};
use vm_state::{Cause, State, SuspendReason};

use super::{Act, Caller, Wanted, gather, refuse_blocking};
use crate::save::{Cancel, Closing, Intent, SaveError, Saved, Saver, SuspendedBy, Vote};
use crate::shared::Shared;
use crate::sync::lock;
use crate::{Emt, Ending, VmError};

const OP: &str = "save";

/// Passes after which a save that does not converge is given up.
const PASS_LIMIT: u32 = 1 << 20;

/// Saves through `saver`.
pub(crate) fn save(
    shared: &Arc<Shared>,
    saver: &mut dyn Saver,
    intent: Intent,
) -> Result<Saved, VmError> {
    refuse_blocking(shared, OP)?;
    let owner = Owner::claim(shared)?;
    saver.open().map_err(|e| failed(SaveError::Saver(e)))?;
    let result = run(&owner, saver, intent);
    let closing = if result.is_ok() {
        Closing::Keep
    } else {
        Closing::Drop
    };
    let closed = saver.close(closing);
    drop(owner);
    let saved = result?;
    closed.map_err(|e| failed(SaveError::Saver(e)))?;
    Ok(saved)
}

fn run(owner: &Owner, saver: &mut dyn Saver, intent: Intent) -> Result<Saved, VmError> {
    let mark = (intent == Intent::Teleport).then(|| owner.shared.begin_teleport());
    let result = begin(&owner.shared).and_then(|begun| match begun {
        Begun::Suspended => finish(owner, saver).map(|()| Saved {
            passes: 0,
            suspended_by: SuspendedBy::Other,
        }),
        Begun::Live => live(owner, saver),
    });
    if let (Err(_), Some(mark)) = (&result, mark) {
        owner.shared.end_teleport(mark);
    }
    result
}

/// What a device asked for: suspends the VM, saves it through the embedder's saver and powers it off.
/// If a step fails, or somebody else goes ahead, the VM stays as the step before left it.
pub(crate) fn save_and_power_off(emt: &mut Emt, wanted: Wanted) -> Result<(), VmError> {
    let shared = Arc::clone(emt.shared());
    let open = shared.saver.get().ok_or(failed(SaveError::NoSaver))?;
    super::suspend(&shared, Caller::On(emt, wanted), SuspendReason::Vm)?;
    let mut saver = open().map_err(|e| failed(SaveError::Saver(e)))?;
    save_suspended(emt, saver.as_mut())?;
    super::power_off(&shared, Caller::On(emt, wanted), Ending::GuestPowerOff)
}

/// [`save`] of a VM that is suspended, from one of its EMTs.
fn save_suspended(emt: &mut Emt, saver: &mut dyn Saver) -> Result<(), VmError> {
    let shared = Arc::clone(emt.shared());
    let owner = Owner::claim(&shared)?;
    saver.open().map_err(|e| failed(SaveError::Saver(e)))?;
    let limit = Some(shared.spec.gather_limit);
    let written = shared
        .queues
        .call_from(emt, 0, limit, |emt| write(&owner, emt, &mut *saver))
        .map_err(|e| VmError::from_call(OP, 0, e))
        .flatten();
    let closing = if written.is_ok() {
        Closing::Keep
    } else {
        Closing::Drop
    };
    let closed = saver.close(closing);
    drop(owner);
    written?;
    closed.map_err(|e| failed(SaveError::Saver(e)))
}

/// Where a save starts from.
enum Begun {
    Suspended,
    Live,
}

/// RUNNING -> RUNNING_LS; nothing yet if SUSPENDED.
fn begin(shared: &Arc<Shared>) -> Result<Begun, VmError> {
    match shared
        .state
        .shift(vm_state::operations::SAVE.shifts, Cause::Save)
    {
        Ok(_) => Ok(Begun::Live),
        Err(refused) if refused.actual() == State::Suspended => Ok(Begun::Suspended),
        Err(refused) => Err(VmError::Refused { op: OP, refused }),
    }
}

fn live(owner: &Owner, saver: &mut dyn Saver) -> Result<Saved, VmError> {
    let mut passes = 0;
    loop {
        if owner.cancel.is_cancelled() {
            return Err(failed(owner.why_cancelled()));
        }
        if passes == PASS_LIMIT {
            return Err(failed(SaveError::TooManyPasses { passes }));
        }
        let vote = saver.pass(passes, &owner.cancel);
        passes += 1;
        match vote.map_err(|e| failed(SaveError::Saver(e)))? {
            Vote::Again => {}
            Vote::Done => break,
        }
    }
    let suspended_by = suspend(owner)?;
    finish(owner, saver)?;
    Ok(Saved {
        passes,
        suspended_by,
    })
}

/// RUNNING_LS -> SUSPENDING_LS -> SUSPENDED_LS. That somebody else suspended or reset the VM
/// meanwhile serves as well.
fn suspend(owner: &Owner) -> Result<SuspendedBy, VmError> {
    let act = Act {
        op: &LIVE_SUSPEND,
        cause: Cause::Save,
        begun: &|| {},
        each: &|_| Ok(()),
        last: &|emt, _| {
            super::devices::quiesce(emt, "save")?;
            Ok(State::SuspendedLs)
        },
    };
    match gather(&owner.shared, Caller::Off, &act) {
        Ok(()) => Ok(SuspendedBy::Save),
        Err(VmError::Refused { refused, .. })
            if matches!(refused.actual(), State::SuspendedExtLs | State::SuspendedLs) =>
        {
            Ok(SuspendedBy::Other)
        }
        Err(VmError::Refused { .. }) => Err(failed(owner.why_cancelled())),
        Err(e) => Err(e),
    }
}

/// -> SAVING -> SUSPENDED, on EMT 0.
fn finish(owner: &Owner, saver: &mut dyn Saver) -> Result<(), VmError> {
    let shared = &owner.shared;
    let limit = Some(shared.spec.gather_limit);
    shared
        .queues
        .call(0, limit, |emt| write(owner, emt, saver))
        .map_err(|e| VmError::from_call(OP, 0, e))?
}

/// The final pass.
fn write(owner: &Owner, emt: &mut Emt, saver: &mut dyn Saver) -> Result<(), VmError> {
    let moves = [LIVE_FINISH.moves, vm_state::operations::SAVE.moves].concat();
    let transition = owner
        .shared
        .state
        .begin(&moves, Cause::Save)
        .map_err(|refused| VmError::Refused { op: OP, refused })?;
    if owner.cancel.is_cancelled() {
        return Err(failed(SaveError::Cancelled));
    }
    saver
        .finish(emt, &owner.cancel)
        .map_err(|e| failed(SaveError::Saver(e)))?;
    match transition.commit(State::Suspended) {
        Ok(State::Suspended) => Ok(()),
        Ok(state) | Err(vm_state::IllegalTarget { ended: state, .. }) => {
            Err(VmError::Fatal { op: OP, state })
        }
    }
}

fn failed(source: SaveError) -> VmError {
    VmError::Save { source }
}

/// Whoever is saving. Dropped, it has left every `_LS` state, whatever happened.
struct Owner {
    shared: Arc<Shared>,
    cancel: Cancel,
}

impl Owner {
    fn claim(shared: &Arc<Shared>) -> Result<Self, VmError> {
        let cancel = Cancel::default();
        let mut saving = lock(&shared.saving);
        if saving.is_some() {
            return Err(failed(SaveError::Busy));
        }
        *saving = Some(cancel.clone());
        drop(saving);
        Ok(Self {
            shared: Arc::clone(shared),
            cancel,
        })
    }

    fn why_cancelled(&self) -> SaveError {
        let now = self.shared.state.read();
        if matches!(now, State::PoweringOffLs | State::OffLs | State::Off) {
            SaveError::PoweredOff
        } else if now.is_failed() || self.shared.state.fatal().is_some() {
            SaveError::Died
        } else {
            SaveError::Cancelled
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let state = &self.shared.state;
        loop {
            // Somebody's operation may be under way; it ends within its own limits.
            let _ = state.wait_until(|s| !(s.is_live_save() && s.is_transient()), None);
            if !state.read().is_live_save() || state.shift(LIVE_END.shifts, Cause::Save).is_ok() {
                break;
            }
        }
        lock(&self.shared.saving).take();
        self.shared.bells.ring_all();
    }
}
