// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Device manager: lifecycle of devices, PIO and MMIO buses, interrupt lines.
//!
//! | type | what it is |
//! |---|---|
//! | [`Device`] | what every device has: lifecycle hooks, called while all EMTs are gathered |
//! | [`Link`] | what a device gets from its VM: a [`Waker`] and a [`Raiser`] |
//! | [`Waker`] | how a device that had to wait says it is done |
//! | [`Raiser`] | how a device reports a [`RuntimeError`]: its disk is full, its host end is gone |
//! | [`Devices`] | the devices in order of construction: walks up in order, down in exact reverse |
//! | [`Place`], [`Change`], [`Places`] | what a device works on, how it comes and goes at run time, and where that can be |
//! | [`IoHandler`] | what a device has at a port or address range, called by any EMT |
//! | [`IoCtx`] | what a handler may ask of the VM: an [`Effect`], taken after the exit is settled |
//! | [`IrqChip`], [`IrqLine`] | an interrupt controller's inputs and one of them |
//! | [`MsiSink`] | where an interrupt controller sends its messages |
//! | [`VirtualClock`] | nanoseconds that pass only while the VM runs |
//! | [`Timers`], [`Timer`], [`Firing`] | callbacks at deadlines on that clock, and how to cancel them |
//! | [`stats`] | named counters, gauges and profiles: snapshot, reset, OpenMetrics |
//! | [`info`] | named pages about a part of the VM, for a person |
//! | [`thread()`] | how a thread of the VM is made |
//! | [`BusBuilder`], [`Buses`] | who owns which ports and addresses, and the dispatch, which takes no lock |
//!
//! ```
//! use std::sync::Arc;
//! use vm_pdm::{BusBuilder, IoCtx, IoHandler};
//!
//! struct Scratch(std::sync::atomic::AtomicU64);
//! impl IoHandler for Scratch {
//!     fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
//!         self.0.load(std::sync::atomic::Ordering::SeqCst)
//!     }
//!     fn write(&self, _: &mut IoCtx, _offset: u64, _size: u8, value: u64) {
//!         self.0.store(value, std::sync::atomic::Ordering::SeqCst);
//!     }
//! }
//!
//! let mut builder = BusBuilder::new();
//! builder.pio("scratch", 0x80..=0x80, Arc::new(Scratch(0.into())))?;
//! let buses = builder.build();
//! let mut cx = IoCtx::new();
//! buses.pio_write(&mut cx, 0x80, 1, 0x2a);
//! assert_eq!(buses.pio_read(&mut cx, 0x80, 1), 0x2a);
//! assert_eq!(buses.pio_read(&mut cx, 0x81, 2), 0xffff, "nobody has that port");
//! # Ok::<(), vm_pdm::BusError>(())
//! ```

mod builder;
mod bus;
mod clock;
mod device;
mod devices;
pub mod info;
mod io;
mod irq;
mod link;
mod mmio;
mod pio;
mod place;
pub mod stats;
mod thread;
mod timers;

pub use builder::{BusBuilder, BusError};
pub use bus::{Buses, Unassigned};
pub use clock::VirtualClock;
pub use device::{Device, DeviceError, ResetKind, WalkError};
pub use devices::Devices;
pub use io::{Effect, IoCtx, IoHandler};
pub use irq::{IrqChip, IrqLine, Level, MsiSink};
pub use link::{Action, Link, Raiser, RuntimeError, Waker};
pub use mmio::MmioBus;
pub use pio::PioBus;
pub use place::{Begun, Change, Place, PlaceError, Places};
pub use thread::thread;
pub use timers::{Firing, Timer, TimerError, TimerState, Timers};
