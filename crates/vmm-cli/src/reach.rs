// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What of a built machine is reached from outside it: its event device, and its drives, whose images
//! come and go.
//!
//! No lock is held while a listener is called or an image is opened or changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use vm_core::{Vm, VmError};
use vm_devices::{DiskAccess, DiskError, DiskImage, Ged};
use vm_pdm::{Change, Place, PlaceError, Places};

/// An image that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) device: String,
    /// What is attached now.
    pub(crate) image: Option<Attached>,
}

/// What is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) path: PathBuf,
    pub(crate) access: DiskAccess,
    pub(crate) sectors: u64,
}

/// Why an image did not come or go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// It is there already.
    #[error("{} is attached to {device} of this VM: detach it there first", path.display())]
    Here { path: PathBuf, device: String },
    #[error(transparent)]
    Image(#[from] DiskError),
    #[error(transparent)]
    Vm(#[from] VmError),
}

type Listener = dyn Fn(&Changed) + Send + Sync;

/// Told of images until it is dropped.
#[must_use = "dropped, it is told of nothing"]
pub(crate) struct Listening(#[expect(dead_code, reason = "held alive")] Arc<Listener>);

/// What is reached. Empty until the machine is built.
#[derive(Default)]
pub(crate) struct Reach {
    pub(crate) ged: OnceLock<Arc<Ged>>,
    pub(crate) drives: OnceLock<Places<DiskImage>>,
    listeners: Mutex<Vec<Weak<Listener>>>,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach")
            .field("drives", &self.drives)
            .finish_non_exhaustive()
    }
}

impl Reach {
    /// Calls `listener` after each change, on the thread that asked for it.
    pub(crate) fn listen(&self, listener: impl Fn(&Changed) + Send + Sync + 'static) -> Listening {
        let listener: Arc<Listener> = Arc::new(listener);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
        drop(listeners);
        Listening(listener)
    }

    /// Opens an image and gives it to `device`, which has none.
    ///
    /// # Errors
    /// [`ReachError`]; what was attached still is.
    pub(crate) fn attach(
        &self,
        vm: &Vm,
        device: &str,
        image: (&Path, DiskAccess),
    ) -> Result<Changed, ReachError> {
        let place = self.place(device)?;
        if let Some(what) = place.attached() {
            // Before the image is opened, which may be that one.
            let device = device.to_owned();
            return Err(VmError::from(PlaceError::Attached { device, what }).into());
        }
        self.give(vm, place, image, Change::Attach)
    }

    /// Opens an image and gives it to `device`, in place of the one that it may have.
    ///
    /// # Errors
    /// As [`Reach::attach`].
    pub(crate) fn replace(
        &self,
        vm: &Vm,
        device: &str,
        image: (&Path, DiskAccess),
    ) -> Result<Changed, ReachError> {
        self.give(vm, self.place(device)?, image, Change::Replace)
    }

    /// Takes the image from `device`.
    ///
    /// # Errors
    /// [`ReachError`]; it is still attached, except after [`PlaceError::Unwritten`].
    pub(crate) fn detach(&self, vm: &Vm, device: &str) -> Result<Changed, ReachError> {
        self.change(vm, self.place(device)?, Change::Detach, None)
    }

    fn give(
        &self,
        vm: &Vm,
        place: &Arc<dyn Place<DiskImage>>,
        (path, access): (&Path, DiskAccess),
        how: fn(DiskImage) -> Change<DiskImage>,
    ) -> Result<Changed, ReachError> {
        let image = DiskImage::open(path, access).map_err(|error| self.explain(path, error))?;
        let attached = Attached {
            path: path.to_owned(),
            access,
            sectors: image.sectors(),
        };
        self.change(vm, place, how(image), Some(attached))
    }

    fn change(
        &self,
        vm: &Vm,
        place: &Arc<dyn Place<DiskImage>>,
        change: Change<DiskImage>,
        image: Option<Attached>,
    ) -> Result<Changed, ReachError> {
        let changed = Changed {
            device: place.device().to_owned(),
            image,
        };
        let result = vm.change(place.as_ref(), change);
        // What could not be made durable is gone from the guest all the same.
        if let Ok(()) | Err(VmError::Place(PlaceError::Unwritten { .. })) = result {
            self.tell(&changed);
        }
        Ok(result.map(|()| changed)?)
    }

    fn tell(&self, changed: &Changed) {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener(changed);
        }
    }

    fn place(&self, device: &str) -> Result<&Arc<dyn Place<DiskImage>>, VmError> {
        let place = self.drives.get().map(|drives| drives.get(device));
        let none = || PlaceError::NoDevice {
            device: device.to_owned(),
            places: "none".to_owned(),
        };
        Ok(place.ok_or_else(none)??)
    }

    /// An image in use may be so by this VM itself.
    fn explain(&self, path: &Path, error: DiskError) -> ReachError {
        if !matches!(error, DiskError::Busy { .. }) {
            return error.into();
        }
        let shown = format!("{} (", path.display());
        let mut drives = self.drives.get().into_iter().flat_map(Places::iter);
        let has_it = |place: &&Arc<dyn Place<DiskImage>>| {
            place
                .attached()
                .is_some_and(|what| what.starts_with(&shown))
        };
        drives
            .find(has_it)
            .map_or(error.into(), |place| ReachError::Here {
                path: path.to_owned(),
                device: place.device().to_owned(),
            })
    }
}
