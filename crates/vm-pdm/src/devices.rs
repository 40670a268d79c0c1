// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The devices of a VM, in order of construction, and the walks over them.
//!
//! Invariant: up in order of construction, down in exact reverse, whatever fails.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::{Device, DeviceError, Link, ResetKind, WalkError};

type Hook = fn(&dyn Device) -> Result<(), DeviceError>;

/// The devices of a VM.
///
/// A hook that fails counts as not done: its own device is not undone. The undoing goes on when a hook
/// fails meanwhile; the first such failure is in the [`WalkError`], further ones are logged.
///
/// # Thread
/// Walks: EMT 0 while all EMTs are gathered. No lock is held across a hook.
#[derive(Default)]
pub struct Devices {
    devices: Vec<Arc<dyn Device>>,
}

impl Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.devices.iter().map(|d| d.name()))
            .finish()
    }
}

impl Devices {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device after all others.
    ///
    /// # Errors
    /// [`DeviceError`] if another has its name.
    pub fn add(&mut self, device: Arc<dyn Device>) -> Result<(), DeviceError> {
        if self.devices.iter().any(|d| d.name() == device.name()) {
            return Err(DeviceError {
                device: device.name().to_owned(),
                what: "another device has this name: give each its own".to_owned(),
            });
        }
        self.devices.push(device);
        Ok(())
    }

    /// The device of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Device>> {
        self.devices.iter().find(|d| d.name() == name)
    }

    /// The devices in order of construction.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Device>> {
        self.devices.iter()
    }

    /// Names in order of construction.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().map(|d| d.name())
    }

    /// Gives every device the way to the VM.
    pub fn connect(&self, link: &Link) {
        for device in &self.devices {
            device.connect(link);
        }
    }

    /// Names of the devices whose last suspend, reset or power-off is still under way.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.devices
            .iter()
            .filter(|d| d.is_pending())
            .map(|d| d.name())
    }

    /// Powers on in order. If one fails, those before it are powered off in reverse.
    ///
    /// # Errors
    /// The failing device's, and what failed while it was undone.
    pub fn power_on(&self) -> Result<(), WalkError> {
        attempt(self.devices.iter(), |d| d.power_on(), |d| d.power_off())
    }

    /// Suspends in reverse. If one fails, those already suspended are resumed, the last first.
    ///
    /// # Errors
    /// The failing device's, and what failed while it was undone.
    pub fn suspend(&self) -> Result<(), WalkError> {
        attempt(self.devices.iter().rev(), |d| d.suspend(), |d| d.resume())
    }

    /// Resumes in order. If one fails, those before it are suspended again in reverse.
    ///
    /// # Errors
    /// The failing device's, and what failed while it was undone.
    pub fn resume(&self) -> Result<(), WalkError> {
        attempt(self.devices.iter(), |d| d.resume(), |d| d.suspend())
    }

    /// Resets in order. Nothing can undo a reset, so all are reset whatever fails.
    ///
    /// # Errors
    /// The first failing device's.
    pub fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        all(self.devices.iter().map(|d| d.reset(kind)))
    }

    /// Powers off in reverse, all of them whatever fails.
    ///
    /// # Errors
    /// The first failing device's.
    pub fn power_off(&self) -> Result<(), DeviceError> {
        all(self.devices.iter().rev().map(|d| d.power_off()))
    }
}

impl Drop for Devices {
    /// Destroys in reverse; a device that others still hold is destroyed when they let go.
    fn drop(&mut self) {
        while let Some(device) = self.devices.pop() {
            drop(device);
        }
    }
}

/// Calls `forth` on each; at the first failure calls `back` on those done, the last first.
fn attempt<'a>(
    devices: impl Iterator<Item = &'a Arc<dyn Device>>,
    forth: Hook,
    back: Hook,
) -> Result<(), WalkError> {
    let mut done: Vec<&Arc<dyn Device>> = Vec::new();
    for device in devices {
        if let Err(error) = forth(device.as_ref()) {
            let undone = all(done.into_iter().rev().map(|device| back(device.as_ref())));
            return Err(WalkError {
                error,
                undo: undone.err(),
            });
        }
        done.push(device);
    }
    Ok(())
}

/// The first error of all, the others logged.
fn all(results: impl Iterator<Item = Result<(), DeviceError>>) -> Result<(), DeviceError> {
    let mut first = Ok(());
    for error in results.filter_map(Result::err) {
        if first.is_ok() {
            first = Err(error);
        } else {
            log::warn!(target: "pdm.walk", "after an earlier failure: {error}");
        }
    }
    first
}
