// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CPU backend whose guest is a list of steps, for tests that need no KVM.
//!
//! A [`Script`] is what one vCPU executes: units of work, port and memory accesses, halts, faults,
//! stretches in which it ignores kicks. Its position and everything it computed are in registers, so
//! that state, restore and reset behave as on a real engine:
//!
//! | register | holds |
//! |---|---|
//! | RIP | number of the step that comes next |
//! | RCX | units or items done of that step |
//! | RAX | running hash of all that was executed, read and interrupted |
//! | RDX | last value read |
//! | RBX | rounds of the running [`Step::Repeat`] |
//! | R9, R10 | last interrupt vector, last start-up vector |
//! | TSC | steps and units executed |
//!
//! [`Progress`] counts from outside what the vCPU did, so that a test can show that no guest code ran
//! in some stretch.

mod execute;
mod line;
mod machine;
mod progress;
mod step;
mod sync;
mod vcpu;

pub use machine::{ApStart, ScriptEngine};
pub use progress::Progress;
pub use step::{Fault, Gate, Script, Step};

/// Suberror of [`crate::Exit::InternalError`] when a read did not give what the script expects; its
/// data is the value read.
pub const MISMATCH: u32 = 0x5c_0001;
