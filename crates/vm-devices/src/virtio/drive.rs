// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A disk's drive: the place for an image, which comes and goes while the guest runs.
//!
//! # Change
//! The disk's thread serves one request at a time, each wholly on the image that was there when it
//! was taken. A change happens between two requests: at once if the thread is in none, else when it
//! gives the request back, done by whoever comes to that. Then the capacity is another, 0 without an
//! image, the configuration's generation is the next, and the driver gets a configuration change
//! interrupt (virtio 1.2, 2.4.1, 5.2.5); while the device is suspended it gets it at the resume. One
//! interrupt tells of all changes before it.
//!
//! # Requests
//! Without an image every request is answered with IOERR, but for the disk's name, which is the
//! drive's. So is a request that a full host refused, if the image has changed since: it is never
//! served on another one.
//!
//! # Access
//! Whether the disk is read-only is told to the guest by a feature, which cannot change under a
//! driver (2.2): it is the drive's for good, and an image of the other access is refused.
//!
//! # Closing
//! What was written to an image that is let go is made durable (`fdatasync`) before whoever asked is
//! answered, since the guest's next flush is another image's; then its lock is free.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use vm_pdm::stats::{Counter, Scope, StatError, Unit, Value};
use vm_pdm::{Begun, Change, Place, PlaceError};

use super::Virtio;
use super::image::{DiskAccess, DiskImage};
use super::shared::{Allowed, Shared, State, Thread};

/// A disk's drive, under the device's lock.
pub(super) struct Drive {
    access: DiskAccess,
    image: Option<Arc<DiskImage>>,
    /// What is to be there once the request under way is given back.
    waiting: Option<Option<Arc<DiskImage>>>,
    /// What was there before, until whoever changed it closes it.
    left: Option<Arc<DiskImage>>,
    /// The last change begun, and the last that happened.
    begun: u64,
    done: u64,
    changes: Arc<Counter>,
}

impl Drive {
    pub(super) fn new(access: DiskAccess, image: Option<DiskImage>) -> Self {
        Self {
            access,
            image: image.map(Arc::new),
            waiting: None,
            left: None,
            begun: 0,
            done: 0,
            changes: Arc::default(),
        }
    }

    pub(super) fn image(&self) -> Option<&Arc<DiskImage>> {
        self.image.as_ref()
    }

    pub(super) fn access(&self) -> DiskAccess {
        self.access
    }

    /// Sectors of 512 bytes that the guest finds.
    pub(super) fn sectors(&self) -> u64 {
        self.image.as_ref().map_or(0, |image| image.sectors)
    }

    fn check(&self, device: &str, change: &Change<DiskImage>) -> Result<(), PlaceError> {
        let device = || device.to_owned();
        if self.waiting.is_some() || self.left.is_some() {
            return Err(PlaceError::Underway { device: device() });
        }
        match (change, &self.image) {
            (Change::Attach(_), Some(there)) => {
                return Err(PlaceError::Attached {
                    device: device(),
                    what: there.to_string(),
                });
            }
            (Change::Detach, None) => return Err(PlaceError::Empty { device: device() }),
            (Change::Attach(_) | Change::Replace(_) | Change::Detach, _) => {}
        }
        match change.backend() {
            Some(image) if image.access != self.access => Err(PlaceError::Refused {
                device: device(),
                what: image.to_string(),
                why: format!(
                    "the guest was told that the disk is {0}; give an image that is {0}",
                    self.access
                ),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

impl State {
    /// Does the change that waits, now that the thread is in no request.
    pub(super) fn change_image(&mut self) {
        let Some(drive) = &mut self.drive else { return };
        let Some(image) = drive.waiting.take() else {
            return;
        };
        drive.left = std::mem::replace(&mut drive.image, image);
        drive.done = drive.begun;
        drive.changes.inc();
        self.registers.set_config(0, &drive.sectors().to_le_bytes());
        if self.allowed == Allowed::Run {
            self.registers.tell_config();
        }
        if let Some(refused) = &mut self.refused {
            // To be told that its image is gone.
            refused.again = true;
        }
    }
}

impl Shared {
    pub(super) fn drive_stats(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        let state = self.lock();
        let Some(drive) = &state.drive else {
            return Ok(());
        };
        let changes = Arc::clone(&drive.changes);
        drop(state);
        let shared = Arc::downgrade(self);
        let sectors = move || {
            let shared = shared.upgrade();
            let sectors = shared.and_then(|s| s.lock().drive.as_ref().map(Drive::sectors));
            Value::Gauge(sectors.unwrap_or(0))
        };
        scope
            .part("changes", Unit::Occurrences, "of image", &changes, |c| c)?
            .read("sectors", Unit::Count, "of the image attached", sectors)?;
        Ok(())
    }
}

impl Place<DiskImage> for Virtio {
    fn device(&self) -> &str {
        &self.shared.name
    }

    fn attached(&self) -> Option<String> {
        let state = self.shared.lock();
        let image = state.drive.as_ref()?.image.as_ref();
        image.map(ToString::to_string)
    }

    fn begin(&self, change: Change<DiskImage>) -> Result<Begun, PlaceError> {
        let name = &self.shared.name;
        let mut state = self.shared.lock();
        let Some(drive) = &mut state.drive else {
            let device = name.clone();
            return Err(PlaceError::NoPlace { device });
        };
        drive.check(name, &change)?;
        drive.begun += 1;
        let begun = Begun(drive.begun);
        drive.waiting = Some(change.into_backend().map(Arc::new));
        if state.thread != Thread::Busy {
            state.change_image();
        }
        drop(state);
        self.shared.work.notify_one();
        Ok(begun)
    }

    fn settle(&self, begun: Begun, limit: Duration) -> Result<(), PlaceError> {
        let is_due = |state: &mut State| {
            let drive = state.drive.as_ref();
            drive.is_some_and(|drive| drive.done < begun.0 && drive.waiting.is_some())
        };
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), limit, is_due)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(drive) = &mut state.drive else {
            return Ok(());
        };
        let device = || self.shared.name.clone();
        if drive.done < begun.0 {
            let given_up = drive.waiting.take();
            drop(state);
            drop(given_up);
            let device = device();
            return Err(PlaceError::Late { device, limit });
        }
        let left = drive.left.take();
        drop(state);
        left.map_or(Ok(()), |image| {
            close(&image).map_err(|error| PlaceError::Unwritten {
                device: device(),
                what: image.to_string(),
                why: error.to_string(),
            })
        })
    }
}

fn close(image: &DiskImage) -> io::Result<()> {
    match image.access {
        DiskAccess::ReadOnly => Ok(()),
        DiskAccess::ReadWrite => image.file.sync(),
    }
}
