// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device's lifecycle hooks.

use std::fmt::{self, Write};

use crate::Link;
use crate::info::Page;
use crate::stats::{Scope, StatError};

/// Which reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetKind {
    /// As if the power button had been pressed twice.
    Hard,
    /// The processor's INIT: devices keep what a warm reset keeps.
    Soft,
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("device {device}: {what}")]
pub struct DeviceError {
    /// Instance name of the device.
    pub device: String,
    /// What failed, for a person.
    pub what: String,
}

/// A walk over the devices that failed, and was undone.
#[derive(Debug, thiserror::Error)]
pub struct WalkError {
    /// What failed first.
    pub error: DeviceError,
    /// What failed first while the walk was undone, if anything did: then some devices are neither
    /// where they were nor where they should be.
    pub undo: Option<DeviceError>,
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match &self.undo {
            None => Ok(()),
            Some(undo) => write!(f, "; while undoing: {undo}"),
        }
    }
}

/// A device. Dropping it is its destruction.
///
/// # Thread
/// Hooks run on EMT 0 while all EMTs are gathered, in order of construction on the way up
/// (`power_on`, `resume`, `reset`) and in exact reverse on the way down (`suspend`, `power_off`,
/// drop).
///
/// # Pending
/// `suspend`, `reset` and `power_off` may return before the device is done, if it has to wait for
/// its host end: then [`Device::is_pending`] says so until it is, and the device wakes the VM. Other
/// devices' hooks run meanwhile; the VM waits for all, within a limit, and names who is late.
pub trait Device: Send + Sync {
    /// Instance name, unique in the VM, e.g. `com1`.
    fn name(&self) -> &str;
    /// The VM is powered on: start workers.
    ///
    /// # Errors
    /// [`DeviceError`]; the devices already powered on are powered off again in reverse.
    fn power_on(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Quiesce: when this returns, the device changes neither guest memory nor interrupt lines.
    ///
    /// # Errors
    /// [`DeviceError`]; the devices already suspended are resumed again.
    fn suspend(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Take up work again.
    ///
    /// # Errors
    /// [`DeviceError`]; the devices already resumed are suspended again.
    fn resume(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Back to the state after construction.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Ok(())
    }
    /// The way to the VM, given once when the VM is built; most devices need none.
    fn connect(&self, _link: &Link) {}
    /// Registers what the device counts, once, when the VM is built. The closures must not hold the
    /// device itself, but a part of it that counts, or a `Weak` of it.
    ///
    /// # Errors
    /// [`StatError`]: what was registered before stays.
    fn stats(&self, _scope: &mut Scope) -> Result<(), StatError> {
        Ok(())
    }
    /// Writes what the device is doing, for a person, a line for each thing, into the page that has
    /// the device's name.
    ///
    /// # Thread
    /// Any, while the VM runs: it may take the device's own locks.
    ///
    /// # Errors
    /// Those of writing.
    fn info(&self, page: &mut Page) -> fmt::Result {
        writeln!(page, "{} has nothing to show", self.name())
    }
    /// Whether the last `suspend`, `reset` or `power_off` is still under way.
    fn is_pending(&self) -> bool {
        false
    }
    /// Stop workers for good, or until the next power-on.
    ///
    /// # Errors
    /// [`DeviceError`]; the walk goes on, the first error is reported.
    fn power_off(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
