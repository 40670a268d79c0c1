// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which thread the work of each vCPU ran on: its own, always the same, nobody else's.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::report::Finding;
use super::stand::Verdict;

/// Which thread each vCPU's work ran on.
#[derive(Debug, Clone)]
pub(super) struct Threads(Arc<Mutex<Seen>>);

#[derive(Debug)]
struct Seen {
    by_vcpu: Vec<Option<ThreadId>>,
    wrong: Option<u32>,
}

impl Threads {
    pub(super) fn new(vcpus: u32) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            by_vcpu: (0..vcpus).map(|_| None).collect(),
            wrong: None,
        })))
    }

    /// Work for `vcpu` runs on the calling thread.
    pub(super) fn note(&self, vcpu: u32) {
        let here = thread::current().id();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(vcpu).unwrap_or(usize::MAX);
        match seen.by_vcpu.get_mut(at) {
            Some(Some(known)) if *known == here => {}
            Some(place @ None) => *place = Some(here),
            Some(Some(_)) | None => seen.wrong = Some(vcpu),
        }
    }

    /// The calling thread is not a vCPU's.
    pub(super) fn never_here(&self) -> Verdict {
        let here = thread::current().id();
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = seen.by_vcpu.iter().position(|id| *id == Some(here));
        match at.and_then(|at| u32::try_from(at).ok()) {
            Some(vcpu) => Err(Finding::WrongThread { vcpu }.into()),
            None => Ok(()),
        }
    }

    /// Each vCPU has one thread, and no two share one.
    pub(super) fn verdict(&self) -> Verdict {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = (0_u32..).zip(&seen.by_vcpu).find(|(v, id)| {
            let earlier = usize::try_from(*v).unwrap_or(usize::MAX);
            id.is_some() && seen.by_vcpu.iter().take(earlier).any(|other| other == *id)
        });
        match seen.wrong.or(shared.map(|(v, _)| v)) {
            Some(vcpu) => Err(Finding::WrongThread { vcpu }.into()),
            None => Ok(()),
        }
    }
}
