// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the operations do to devices, timers and the guest's clock, on EMT 0.
//!
//! A walk that fails is undone. Where that fails too some devices work and others do not, and no
//! operation can tell which: [`VmError::NotUndone`], and the VM ends in guru meditation.

use std::time::Instant;

use vm_emt::serve_until;
use vm_pdm::{Devices, TimerError, WalkError};

use crate::VmError;
use crate::emt::Emt;

/// Powers the devices on.
pub(super) fn power_on(emt: &mut Emt) -> Result<(), VmError> {
    walk(emt, "power on", Devices::power_on).map_err(|failure| settled(emt, "power on", failure))
}

/// Resumes the devices.
pub(super) fn resume(emt: &mut Emt) -> Result<(), VmError> {
    walk(emt, "resume", Devices::resume).map_err(|failure| settled(emt, "resume", failure))
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

/// Suspends the devices, waits for those that are pending, and stops the guest's clock. If any of it
/// fails the devices are resumed again.
pub(super) fn quiesce(emt: &mut Emt, op: &'static str) -> Result<(), VmError> {
    hold_timers(emt, op)?;
    walk(emt, op, Devices::suspend)?;
    match wait_devices(emt, op).and_then(|()| clock(emt, op)) {
        Ok(clock_ns) => {
            emt.primary.clock_ns = clock_ns;
            // Whoever waited for a suspend has it.
            emt.shared().errors.quit_suspend();
            Ok(())
        }
        Err(failure) => Err(match walk(emt, op, Devices::resume) {
            Ok(()) => failure,
            Err(undo) => not_undone(op, failure, undo),
        }),
    }
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

fn clock(emt: &Emt, op: &'static str) -> Result<Option<u64>, VmError> {
    emt.machine()
        .map(|m| m.clock_ns().map_err(|source| VmError::Cpu { op, source }))
        .transpose()
}
