// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What of a built machine is reached from outside it: its event device, and what comes and goes: the
//! images of its drives, the host's ends of its serial port and console.
//!
//! No lock is held while a listener is called or anything is opened or changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use vm_core::{Vm, VmError};
use vm_devices::{DiskAccess, DiskError, DiskImage, Ends, Ged};
use vm_pdm::{Change, Place, PlaceError, Places};

use crate::ends::EndsAt;

/// Something came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) device: String,
    pub(crate) now: Now,
}

/// What is attached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Now {
    /// To a drive.
    Image(Option<Attached>),
    /// To a serial port or console.
    Ends(Option<EndsAt>),
}

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// An image, or what a console is to end at; the access is an image's.
    Path(&'a Path, DiskAccess),
    /// A program that listens there, for a console to end at.
    Socket(&'a Path),
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path, _) => write!(f, "{}", path.display()),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An image that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) path: PathBuf,
    pub(crate) access: DiskAccess,
    pub(crate) sectors: u64,
}

/// Why something did not come or go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// It is there already.
    #[error("{} is attached to {device} of this VM: detach it there first", path.display())]
    Here { path: PathBuf, device: String },
    #[error(transparent)]
    Image(#[from] DiskError),
    /// It cannot be opened or connected to.
    #[error("{device}: {why}")]
    Ends { device: String, why: String },
    #[error(transparent)]
    Vm(#[from] VmError),
}

type Listener = dyn Fn(&Changed) + Send + Sync;

/// Told of changes until it is dropped.
#[must_use = "dropped, it is told of nothing"]
pub(crate) struct Listening(#[expect(dead_code, reason = "held alive")] Arc<Listener>);

/// What is reached. Empty until the machine is built.
#[derive(Default)]
pub(crate) struct Reach {
    pub(crate) ged: OnceLock<Arc<Ged>>,
    pub(crate) drives: OnceLock<Places<DiskImage>>,
    pub(crate) ends: OnceLock<Places<Ends>>,
    listeners: Mutex<Vec<Weak<Listener>>>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("drives", &self.drives)
            .field("ends", &self.ends)
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

    /// Opens what is given and attaches it to `device`, which has nothing.
    ///
    /// # Errors
    /// [`ReachError`]; what was attached still is.
    pub(crate) fn attach(
        &self,
        vm: &Vm,
        device: &str,
        what: Given<'_>,
    ) -> Result<Changed, ReachError> {
        let place = self.place(device)?;
        if let Some(what) = place.attached() {
            // Before anything is opened, which may be that very image.
            let device = device.to_owned();
            return Err(VmError::from(PlaceError::Attached { device, what }).into());
        }
        match place {
            Found::Drive(place) => self.give_image(vm, place, what, Change::Attach),
            Found::Ends(place) => self.give_ends(vm, place, what, Change::Attach),
        }
    }

    /// Opens what is given and attaches it to `device`, in place of what it may have.
    ///
    /// # Errors
    /// As [`Reach::attach`].
    pub(crate) fn replace(
        &self,
        vm: &Vm,
        device: &str,
        what: Given<'_>,
    ) -> Result<Changed, ReachError> {
        match self.place(device)? {
            Found::Drive(place) => self.give_image(vm, place, what, Change::Replace),
            Found::Ends(place) => self.give_ends(vm, place, what, Change::Replace),
        }
    }

    /// Detaches what `device` has.
    ///
    /// # Errors
    /// [`ReachError`]; it is still attached, except after [`PlaceError::Unwritten`].
    pub(crate) fn detach(&self, vm: &Vm, device: &str) -> Result<Changed, ReachError> {
        match self.place(device)? {
            Found::Drive(place) => self.change(vm, place, Change::Detach, Now::Image(None)),
            Found::Ends(place) => self.change(vm, place, Change::Detach, Now::Ends(None)),
        }
    }

    fn give_image(
        &self,
        vm: &Vm,
        place: &dyn Place<DiskImage>,
        what: Given<'_>,
        how: fn(DiskImage) -> Change<DiskImage>,
    ) -> Result<Changed, ReachError> {
        let Given::Path(path, access) = what else {
            let why = "a disk works on an image: give the path of a file or block device";
            return Err(unfit(place.device(), what, why));
        };
        let image = DiskImage::open(path, access).map_err(|error| self.explain(path, error))?;
        let attached = Attached {
            path: path.to_owned(),
            access,
            sectors: image.sectors(),
        };
        self.change(vm, place, how(image), Now::Image(Some(attached)))
    }

    fn give_ends(
        &self,
        vm: &Vm,
        place: &dyn Place<Ends>,
        what: Given<'_>,
        how: fn(Ends) -> Change<Ends>,
    ) -> Result<Changed, ReachError> {
        let at = match what {
            Given::Path(path, DiskAccess::ReadWrite) => EndsAt::Path(path.to_owned()),
            Given::Path(_, DiskAccess::ReadOnly) => {
                let why = "read-only is a disk's affair: the guest's output is written to it";
                return Err(unfit(place.device(), what, why));
            }
            Given::Socket(path) => EndsAt::Socket(path.to_owned()),
        };
        let ends = at.open().map_err(|error| ReachError::Ends {
            device: place.device().to_owned(),
            why: format!("{error:#}"),
        })?;
        self.change(vm, place, how(ends.into()), Now::Ends(Some(at)))
    }

    fn change<B: Send>(
        &self,
        vm: &Vm,
        place: &dyn Place<B>,
        change: Change<B>,
        now: Now,
    ) -> Result<Changed, ReachError> {
        let device = place.device().to_owned();
        let changed = Changed { device, now };
        let result = vm.change(place, change);
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

    fn place(&self, device: &str) -> Result<Found<'_>, VmError> {
        let (ends, drives) = (self.ends.get(), self.drives.get());
        let end = ends.map(|places| places.get(device));
        let drive = drives.map(|places| places.get(device));
        match (end, drive) {
            (Some(Ok(place)), _) => Ok(Found::Ends(place.as_ref())),
            (_, Some(Ok(place))) => Ok(Found::Drive(place.as_ref())),
            (_, Some(Err(error))) if !matches!(error, PlaceError::NoDevice { .. }) => {
                Err(error.into())
            }
            _ => {
                let ends = ends.into_iter().flat_map(Places::iter);
                let drives = drives.into_iter().flat_map(Places::iter);
                let names = ends.map(|place| place.device());
                let names: Vec<_> = names.chain(drives.map(|place| place.device())).collect();
                let (device, places) = (device.to_owned(), names.join(", "));
                Err(PlaceError::NoDevice { device, places }.into())
            }
        }
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

/// The place of a device.
enum Found<'a> {
    Drive(&'a dyn Place<DiskImage>),
    Ends(&'a dyn Place<Ends>),
}

impl Found<'_> {
    fn attached(&self) -> Option<String> {
        match self {
            Self::Drive(place) => place.attached(),
            Self::Ends(place) => place.attached(),
        }
    }
}

/// What is given is of another kind.
fn unfit(device: &str, what: Given<'_>, why: &str) -> ReachError {
    VmError::from(PlaceError::Refused {
        device: device.to_owned(),
        what: what.to_string(),
        why: why.to_owned(),
    })
    .into()
}
