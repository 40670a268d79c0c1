// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernel images and the tables a kernel reads, put into guest memory.
//!
//! | type | what it is |
//! |---|---|
//! | [`Image`] | a kernel: ELF `vmlinux` (PVH or 64-bit entry), bzImage (decompressed on the host, or entered as is), multiboot, flat binary |
//! | [`Form`] | how a kernel file is to be taken, if not as what it looks like |
//! | [`Initrd`] | an initial RAM disk, or a multiboot module |
//! | [`Boot`] | image, initrds, command line, vCPUs and platform; [`Boot::load`] puts them into memory |
//! | [`Protocol`] | how the kernel is entered |
//! | [`Platform`], [`VirtioWindows`], [`VirtioWindow`] | the addresses, ports and lines that the tables describe |
//! | [`AcpiTables`], [`AcpiTable`] | RSDP, XSDT, FADT, MADT, DSDT |
//! | [`MapRange`], [`RangeKind`] | the memory map that the guest is given |
//! | [`BootError`] | what can be wrong, and what would be right |
//!
//! No image stays in this process: files stay open and are read, or decompressed, anew at every
//! load, straight into guest memory. A bzImage needs its decoder's window while it loads (8 MiB for
//! lz4, up to the size of the kernel for xz and zstd), nothing afterwards.
//!
//! ```
//! use vm_boot::{BootError, Image};
//!
//! let error = Image::from_bytes("notes.txt", b"hello, kernel".to_vec()).unwrap_err();
//! assert!(matches!(error, BootError::NotAKernel { .. }));
//! assert!(error.to_string().starts_with("notes.txt is no kernel: it begins with 68656c6c6f2c206b"));
//! ```

mod acpi;
mod acpi_events;
mod bios_data;
mod boot;
mod bzimage;
mod elf;
mod error;
mod handover;
mod image;
mod initrd;
mod le;
mod linux64;
mod load;
mod lz4;
mod map;
mod multiboot;
mod payload;
mod platform;
mod protocol;
mod pvh;
mod reset_vector;
mod segment;
mod source;
mod start;

pub use acpi::{AcpiTable, AcpiTables};
pub use boot::Boot;
pub use error::BootError;
pub use image::{Form, Image, Initrd};
pub use map::{MapRange, RangeKind};
pub use platform::{Platform, VirtioWindow, VirtioWindows};
pub use protocol::Protocol;
