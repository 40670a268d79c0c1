// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the operations do to devices, timers and the guest's time, on EMT 0.
//!
//! A walk that fails is undone. Where that fails too some devices work and others do not, and no
//! operation can tell which: [`VmError::NotUndone`], and the VM ends in guru meditation.

use std::time::Instant;

use vm_cpu::Held;
use vm_emt::serve_until;
use vm_pdm::{Devices, TimerError, WalkError};

use crate::VmError;
use crate::emt::Emt;

/// Powers the devices on.
pub(super) fn power_on(emt: &mut Emt) -> Result<(), VmError> {
    walk(emt, "power on", Devices::power_on).map_err(|failure| settled(emt, "power on", failure))
}

/// Resumes the devices and lets time go on, as late as can be. If either fails devices are suspended
/// and time is held, as if nothing had been tried: for the guest none of it passed.
pub(super) fn resume(emt: &mut Emt) -> Result<(), VmError> {
    const OP: &str = "resume";
    walk(emt, OP, Devices::resume).map_err(|failure| settled(emt, OP, failure))?;
    let_time_go(emt, OP).map_err(|failure| match walk(emt, OP, Devices::suspend) {
        Ok(()) => settled(emt, OP, failure),
        Err(undo) => not_undone(OP, failure, undo),
    })
}

/// After a walk was undone: those that are quiet again may take their time.
fn settled(emt: &mut Emt, op: &'static str, failure: VmError) -> VmError {
    match wait_devices(emt, op) {
        Ok(()) => failure,
        Err(undo) => not_undone(op, failure, undo),
    }
}

fn walk(
    emt: &Emt,
    op: &'static str,
    walk: impl FnOnce(&Devices) -> Result<(), WalkError>,
) -> Result<(), VmError> {
    let Some(devices) = &emt.primary.devices else {
        return Ok(());
    };
    walk(devices).map_err(|WalkError { error, undo }| match undo {
        None => error.into(),
        Some(undo) => not_undone(op, error.into(), undo.into()),
    })
}

fn not_undone(op: &'static str, error: VmError, undo: VmError) -> VmError {
    if matches!(error, VmError::NotUndone { .. }) {
        // What was first not undone is what counts.
        return error;
    }
    VmError::NotUndone {
        op,
        error: Box::new(error),
        undo: Box::new(undo),
    }
}

/// Stops the guest's time, suspends the devices and waits for those that are pending. If any of it
/// fails the devices are resumed again and time goes on.
///
/// Time is held first: however long the devices take, it does not pass for the guest. It stays held
/// until a resume lets it go, whatever else happens to a VM that is suspended: a reset or a save leaves
/// it so, and a power-off or a destroy leaves nobody who could read a clock.
pub(super) fn quiesce(emt: &mut Emt, op: &'static str) -> Result<(), VmError> {
    hold_timers(emt, op)?;
    hold_time(emt, op)?;
    match suspend(emt, op) {
        Ok(()) => {
            // Whoever waited for a suspend has it.
            emt.shared().errors.quit_suspend();
            Ok(())
        }
        Err(failure) => Err(match let_time_go(emt, op) {
            Ok(()) => failure,
            Err(undo) => not_undone(op, failure, undo),
        }),
    }
}

/// Suspends the devices and waits for those that are pending; undone if one is late.
fn suspend(emt: &mut Emt, op: &'static str) -> Result<(), VmError> {
    walk(emt, op, Devices::suspend)?;
    let Err(failure) = wait_devices(emt, op) else {
        return Ok(());
    };
    Err(match walk(emt, op, Devices::resume) {
        Ok(()) => failure,
        Err(undo) => not_undone(op, failure, undo),
    })
}

/// Holds the virtual clock; when this returns no timer's callback runs.
pub(super) fn hold_timers(emt: &Emt, op: &'static str) -> Result<(), VmError> {
    let limit = emt.spec().quiesce_limit;
    match emt.shared().timers.quiesce(limit) {
        Err(TimerError::Late { timer, limit }) => Err(VmError::Pending {
            op,
            devices: format!("timer {timer:?}"),
            limit,
        }),
        Ok(()) | Err(TimerError::Thread(_) | TimerError::Running) => Ok(()),
    }
}

/// Waits until no device is pending, serving priority requests meanwhile.
///
/// # Errors
/// [`VmError::Pending`] naming those that are late.
pub(crate) fn wait_devices(emt: &mut Emt, op: &'static str) -> Result<(), VmError> {
    let quiet = |emt: &mut Emt| {
        emt.primary
            .devices
            .as_ref()
            .is_none_or(|devices| devices.pending().next().is_none())
    };
    if quiet(emt) {
        return Ok(());
    }
    let limit = emt.spec().quiesce_limit;
    if serve_until(emt, Instant::now().checked_add(limit), quiet) {
        return Ok(());
    }
    let pending = emt
        .primary
        .devices
        .as_ref()
        .map(|d| d.pending().collect::<Vec<_>>().join(", "))
        .unwrap_or_default();
    if pending.is_empty() {
        // The last one finished just after the limit: nobody is late any more.
        return Ok(());
    }
    Err(VmError::Pending {
        op,
        devices: pending,
        limit,
    })
}

fn hold_time(emt: &Emt, op: &'static str) -> Result<(), VmError> {
    let Some(machine) = emt.machine() else {
        return Ok(());
    };
    match machine.hold_time() {
        Ok(Held::Everything) => Ok(()),
        Ok(Held::ClockOnly) => {
            log::debug!(target: "vm.transition", "the host cannot stop the guest's TSC");
            Ok(())
        }
        Err(source) => Err(VmError::Cpu { op, source }),
    }
}

fn let_time_go(emt: &Emt, op: &'static str) -> Result<(), VmError> {
    emt.machine().map_or(Ok(()), |machine| {
        machine
            .let_time_go()
            .map_err(|source| VmError::Cpu { op, source })
    })
}
