// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The callback of a round without its types, so that a round can be published to every EMT.

// UNSAFETY: callbacks may borrow from their caller, which waits until every EMT has left; no safe
// type says so.
#![expect(unsafe_code, reason = "publishes a borrowed callback to other threads")]

use std::ptr::NonNull;

use vm_emt::Flow;

/// What one run of a callback came to. The error itself stays with the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Flow),
    Failed,
}

/// A callback, its types erased.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    callback: *const (),
    call: unsafe fn(*const (), NonNull<()>, u32) -> Outcome,
}

// SAFETY: `new` asks for a Sync callback.
unsafe impl Send for Op {}

impl Op {
    pub(crate) fn new<C, F>(callback: &F) -> Self
    where
        F: Fn(&mut C, u32) -> Outcome + Sync,
    {
        Self {
            callback: std::ptr::from_ref(callback).cast(),
            call: call::<C, F>,
        }
    }

    /// Runs the callback on `me`, the EMT of vCPU `v`.
    ///
    /// # Safety
    /// The callback given to [`new`](Self::new) is still alive, and C is the type it was made for.
    pub(crate) unsafe fn run<C>(self, me: &mut C, v: u32) -> Outcome {
        // SAFETY: this function's own condition.
        unsafe { (self.call)(self.callback, NonNull::from(me).cast(), v) }
    }
}

/// # Safety
/// `callback` is a live F and `me` a C lent for the call.
unsafe fn call<C, F>(callback: *const (), me: NonNull<()>, v: u32) -> Outcome
where
    F: Fn(&mut C, u32) -> Outcome + Sync,
{
    // SAFETY: this function's own condition.
    let callback = unsafe { &*callback.cast::<F>() };
    // SAFETY: this function's own condition.
    let me = unsafe { me.cast::<C>().as_mut() };
    callback(me, v)
}
