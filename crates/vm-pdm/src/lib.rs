// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Device manager: lifecycle of devices, PIO and MMIO buses, interrupt lines.
//!
//! | type | what it is |
//! |---|---|
//! | [`Device`] | what every device has: lifecycle hooks, called while all EMTs are gathered |
//! | [`IoHandler`] | what a device has at a port or address range, called by any EMT |
//! | [`IoCtx`] | what a handler may ask of the VM: an [`Effect`], taken after the exit is settled |
//! | [`IrqChip`], [`IrqLine`] | an interrupt controller's inputs and one of them |

mod device;
mod io;
mod irq;

pub use device::{Device, DeviceError, ResetKind};
pub use io::{Effect, IoCtx, IoHandler};
pub use irq::{IrqChip, IrqLine, Level, MsiSink};
