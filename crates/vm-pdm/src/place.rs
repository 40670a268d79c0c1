// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device works on while the VM runs, and how that comes and goes: the image in a drive.
//!
//! A backend is opened and checked by whoever attaches it, before the device hears of it. It has no
//! state of its own: from its first instant it is in that of its device, and is quiet with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Devices;

/// An attach or detach that did not happen; what was attached still is.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No device has that name.
    #[error("there is no device {device}; those that something can be attached to: {places}")]
    NoDevice {
        /// The name.
        device: String,
        /// Names of those that have a place.
        places: String,
    },
    /// What the device works on is given to it when it is made.
    #[error(
        "nothing can be attached to or detached from {device} while its VM is there: it is given what it works on when it is made"
    )]
    NoPlace {
        /// The device.
        device: String,
    },
    /// Something is attached.
    #[error("{device} has {what} attached already: detach it first, or replace it")]
    Attached {
        /// The device.
        device: String,
        /// What is attached.
        what: String,
    },
    /// There is nothing to detach.
    #[error("{device} has nothing attached")]
    Empty {
        /// The device.
        device: String,
    },
    /// Another change of the same device has not ended.
    #[error("{device} is in the middle of another attach or detach: ask again when that is over")]
    Underway {
        /// The device.
        device: String,
    },
    /// The device cannot work on what was to be attached.
    #[error("{device} cannot have {what}: {why}")]
    Refused {
        /// The device.
        device: String,
        /// What was to be attached.
        what: String,
        /// Why not, and what would be right.
        why: String,
    },
    /// What the device is doing did not end in time.
    #[error(
        "{device} was still at work on what is attached after {limit:?}, and is as before; look at what that waits for"
    )]
    Late {
        /// The device.
        device: String,
        /// How long it had.
        limit: Duration,
    },
    /// It is detached, and the only error after which it is: the host did not make it durable.
    #[error("{device} has let go of {what}, but the host could not write all of it: {why}")]
    Unwritten {
        /// The device.
        device: String,
        /// What was detached.
        what: String,
        /// What the host said.
        why: String,
    },
}

/// What becomes of a place.
#[derive(Debug)]
pub enum Change<B> {
    /// It is empty, and gets this.
    Attach(B),
    /// It gets this, whatever is there; the guest never finds it empty.
    Replace(B),
    /// It is empty from now on.
    Detach,
}

impl<B> Change<B> {
    /// What is to be attached.
    pub fn backend(&self) -> Option<&B> {
        match self {
            Self::Attach(backend) | Self::Replace(backend) => Some(backend),
            Self::Detach => None,
        }
    }

    /// The same.
    pub fn into_backend(self) -> Option<B> {
        match self {
            Self::Attach(backend) | Self::Replace(backend) => Some(backend),
            Self::Detach => None,
        }
    }

    /// What is asked for, as errors name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Attach(_) => "attach",
            Self::Replace(_) => "replace",
            Self::Detach => "detach",
        }
    }
}

/// A change that was begun; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun(pub u64);

/// A device's place for a backend.
///
/// A change is begun where it cannot meet one of the device's lifecycle hooks, on EMT 0, and waited
/// for elsewhere, so that the guest goes on while the device finishes what it is in. Hooks, resets by
/// the guest and further changes may come between the two.
pub trait Place<B>: Send + Sync {
    /// Instance name of the device.
    fn device(&self) -> &str;

    /// What is attached, for a person.
    fn attached(&self) -> Option<String>;

    /// Begins a change. Never blocks. It happens as soon as the device is in no request, and at once if
    /// it is in none. Whoever begins one settles it; until then no other is begun.
    ///
    /// # Errors
    /// Every [`PlaceError`] that says why it cannot be; nothing was begun.
    fn begin(&self, change: Change<B>) -> Result<Begun, PlaceError>;

    /// Waits until a change that was begun has happened, and closes what was detached.
    ///
    /// # Errors
    /// [`PlaceError::Late`]: given up after `limit`, and everything is as before.
    /// [`PlaceError::Unwritten`].
    fn settle(&self, begun: Begun, limit: Duration) -> Result<(), PlaceError>;
}

/// The places for a `B` that a machine has.
pub struct Places<B> {
    devices: Vec<String>,
    places: Vec<Arc<dyn Place<B>>>,
}

impl<B> fmt::Debug for Places<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.names()).finish()
    }
}

impl<B> Places<B> {
    /// `places` are those of `devices`, in order.
    pub fn new(devices: &Devices, places: Vec<Arc<dyn Place<B>>>) -> Self {
        Self {
            devices: devices.names().map(str::to_owned).collect(),
            places,
        }
    }

    /// The place of the device of that name.
    ///
    /// # Errors
    /// [`PlaceError::NoDevice`], [`PlaceError::NoPlace`].
    pub fn get(&self, device: &str) -> Result<&Arc<dyn Place<B>>, PlaceError> {
        if let Some(place) = self.places.iter().find(|place| place.device() == device) {
            return Ok(place);
        }
        let is_known = self.devices.iter().any(|name| name == device);
        let device = device.to_owned();
        Err(if is_known {
            PlaceError::NoPlace { device }
        } else {
            let places = self.names();
            PlaceError::NoDevice { device, places }
        })
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Place<B>>> {
        self.places.iter()
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.iter().map(|place| place.device()).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    }
}
