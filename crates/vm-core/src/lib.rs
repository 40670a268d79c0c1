// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtual machine: states, requests, rendezvous and devices composed around an EMT loop.
//!
//! | type | what it is |
//! |---|---|
//! | [`Vm`] | the handle: create, power on, suspend, resume, reset, power off, destroy |
//! | [`VmSpec`], [`Parts`] | what a VM is made from: numbers and policies; engine, board, firmware |
//! | [`Emt`] | an EMT's context, given to requests, rendezvous callbacks and components |
//! | [`Component`], [`Pipeline`] | a subsystem, and their order up, which is also the order down |
//! | [`Status`], [`Report`], [`Ending`], [`GuruReport`], [`Flight`] | what a VM tells of itself |
//! | [`Errors`], [`ErrorEvent`] | what went wrong: counts, the last ones, and each as it is told |
//! | [`Saver`] | what a save is driven through: live passes, votes, the final pass |
//! | [`VmError`] | what can go wrong, naming who was late or what was refused |
//!
//! This crate knows no concrete CPU backend and no concrete device.

mod cap;
mod component;
mod config;
mod emt;
mod error;
mod errors;
mod fault;
mod observe;
mod ops;
mod owner;
mod pages;
mod parts;
mod place;
mod processors;
mod recorder;
mod report;
mod save;
mod shared;
mod spec;
mod sync;
mod vm;

pub use component::{Component, ComponentError, Outcome, Pipeline, Round};
pub use emt::{Emt, EoiHandler};
pub use error::VmError;
pub use errors::{ErrorEvent, ErrorSubscription, ErrorSummary, Errors, Reported};
#[cfg(shuttle)]
#[doc(hidden)]
pub use fault::Fault;
pub use parts::{Board, BoardCx, BoxError, Built, Firmware, MachineMsi, OpenSaver, Parts};
pub use recorder::Flight;
pub use report::{EmtReport, Ending, GuruReport, Report, Seen, Status};
pub use save::{Cancel, CancelError, Closing, Intent, SaveError, Saved, Saver, SuspendedBy, Vote};
pub use spec::{MAX_VCPUS, OnReset, TripleFault, VmSpec};
pub use vm::Vm;
