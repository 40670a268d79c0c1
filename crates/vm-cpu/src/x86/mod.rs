// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! x86-64 vCPU state as plain data, the same for every engine.
//!
//! These types are ours: neither kernel structures nor an engine's runtime types, so that what one
//! engine saved another can load.

mod events;
mod regs;
mod state;

pub use events::{Activity, Bit, Delivery, Events, Exception, Interrupt, Nmi, Smi};
pub use regs::{Gprs, Segment, Start, SystemRegs, Table};
pub use state::{DebugRegs, Msr, Tsc, VcpuState};
