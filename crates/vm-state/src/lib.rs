// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The life of a virtual machine as data: states, one table of legal moves, transitions, observers.
//!
//! | type | what it is |
//! |---|---|
//! | [`State`] | one of the 29 states |
//! | [`table`] | the one table of legal moves |
//! | [`StateCell`] | the state of one VM: read, begin, shift, wait, observe |
//! | [`Transition`] | an operation under way; ends by commit, or undone when dropped |
//! | [`Cause`], [`SuspendReason`], [`ResumeReason`] | why a state changed |
//! | [`Change`], [`Subscription`] | what an observer is told, and its registration |
//! | [`Refused`], [`IllegalTarget`], [`WaitError`] | what did not happen, and why |
//! | [`operations`] | the operations on a VM as data: from where, through what, to where |
//! | [`diagram`] | the table as Mermaid, Graphviz and Markdown |
//!
//! The crate starts no thread and knows no vCPU. A caller reads the state with one load, and
//! changes it only through an owned [`Transition`]:
//!
//! ```
//! use vm_state::{Cause, State, StateCell, operations};
//!
//! let (cell, creation) = StateCell::create();
//! creation.commit(State::Created)?;
//! let power_on = cell.begin(operations::POWER_ON.moves, Cause::User)?;
//! assert_eq!(cell.read(), State::PoweringOn);
//! drop(power_on); // a device failed to start
//! assert_eq!(cell.read(), State::Created);
//!
//! let refused = cell.begin(operations::RESUME.moves, Cause::User).unwrap_err();
//! assert_eq!(refused.to_string(), "not possible while the VM is CREATED; possible in SUSPENDED");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cause;
mod cell;
pub mod diagram;
mod error;
mod observer;
pub mod operations;
mod state;
mod sync;
pub mod table;
mod transition;

pub use cause::{Cause, ResumeReason, SuspendReason};
#[cfg(loom)]
#[doc(hidden)]
pub use cell::Broken;
pub use cell::{Raised, Snapshot, StateCell};
pub use error::{IllegalTarget, Refused, WaitError};
pub use observer::{Change, Subscription, as_observer, in_observer};
pub use state::{State, UnknownState};
pub use transition::Transition;
