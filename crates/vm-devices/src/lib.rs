// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The devices: 16550, IOAPIC, CMOS, i8042, ACPI registers, virtio disks, entropy and console,
//! debug exit, POST port.
//!
//! | type | what it is |
//! |---|---|
//! | [`Serial`], [`SerialSpec`] | a 16550 with interrupt-driven input and output on threads of its own |
//! | [`IoApic`] | 24 interrupt inputs that become messages |
//! | [`Cmos`], [`CmosMemory`] | real-time clock and the memory sizes firmware looks up |
//! | [`I8042`] | the keyboard controller's reset command, nothing else |
//! | [`AcpiPm`] | sleep control, sleep status and reset registers |
//! | [`Ged`], [`PlugError`] | power button and processors that come and go, behind an ACPI generic event device |
//! | [`Virtio`] | a virtio-mmio device with a thread of its own: a disk, or a source of entropy |
//! | [`VirtioConsole`], [`ConsoleSpec`] | a virtio-mmio console, `hvc0` of a Linux guest |
//! | [`Ends`], [`SerialInput`] | where the bytes of those two come from and go to on the host |
//! | [`GuestRam`] | the guest memory that they read and write, which tells what they wrote |
//! | [`DiskImage`], [`DiskAccess`], [`DiskError`] | the file behind a disk, opened and checked |
//! | [`DebugExit`], [`PostPort`] | a guest ends the VM with a value; a guest tells how far it got |
//!
//! Each is made by `new` as an `Arc`, put on a bus by `attach`, and handed to
//! [`vm_pdm::Devices::add`]. No access of a guest, whatever its offset, size or value, panics.
//!
//! ```
//! use vm_devices::PostPort;
//! use vm_pdm::{BusBuilder, IoCtx};
//!
//! let post = PostPort::new();
//! let mut bus = BusBuilder::new();
//! post.attach(&mut bus)?;
//! bus.build().pio_write(&mut IoCtx::new(), PostPort::PORT, 1, 0x42);
//! assert_eq!(post.code(), 0x42);
//! # Ok::<(), vm_pdm::BusError>(())
//! ```

mod acpi_pm;
mod bytes;
mod calendar;
mod cmos;
mod debug_exit;
mod ged;
mod i8042;
mod ioapic;
mod post;
mod serial;
mod stream;
mod virtio;

pub use acpi_pm::AcpiPm;
pub use cmos::{Clock, Cmos, CmosMemory};
pub use debug_exit::DebugExit;
pub use ged::{Ged, PlugError};
pub use i8042::I8042;
pub use ioapic::IoApic;
pub use post::PostPort;
pub use serial::{Serial, SerialSpec};
pub use stream::{Ends, SerialInput};
pub use virtio::{ConsoleSpec, DiskAccess, DiskError, DiskImage, GuestRam, Virtio, VirtioConsole};
