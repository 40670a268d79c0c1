// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One boot: a kernel, perhaps an initrd, a command line and a machine, put into guest memory as
//! often as it is reset.

use vm_cpu::x86::Start;
use vm_cpu::{GuestRam, RamLayout};
use vm_memory::{Bytes, GuestAddress};

use crate::acpi::AcpiTables;
use crate::handover::Handover;
use crate::image::{Image, Initrd, Kind};
use crate::initrd::{self, Room};
use crate::load;
use crate::map::{self, MapRange};
use crate::multiboot;
use crate::{BootError, Platform, Protocol, bios_data, linux64, pvh, reset_vector, start};

/// Everything a VM boots from.
pub struct Boot {
    image: Image,
    initrds: Vec<Initrd>,
    command_line: String,
    cpus: u32,
    platform: Platform,
    protocol: Option<Protocol>,
    is_there: IsThere,
}

/// Whether a vCPU is there when the guest boots.
type IsThere = Box<dyn Fn(u32) -> bool + Send + Sync>;

impl std::fmt::Debug for Boot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot")
            .field("image", &self.image)
            .field("initrds", &self.initrds)
            .field("command_line", &self.command_line)
            .finish_non_exhaustive()
    }
}

impl Boot {
    /// Least guest memory, in bytes: the boot tables and a MiB for a kernel.
    pub const MIN_MEMORY: u64 = 2 << 20;
    /// Most vCPUs that the tables describe.
    pub const MAX_CPUS: u32 = AcpiTables::MAX_CPUS;

    /// Prepares a boot on the default [`Platform`], entered by the first of these that the kernel
    /// has: PVH note, multiboot header, 64-bit entry, 32-bit entry.
    ///
    /// Linux and PVH kernels see the initrds as one, in this order, each padded to four bytes;
    /// multiboot kernels as modules.
    ///
    /// # Errors
    /// [`BootError::CommandLine`], [`BootError::CommandLineNul`], [`BootError::Cpus`].
    pub fn new(
        image: Image,
        initrds: impl IntoIterator<Item = Initrd>,
        command_line: &str,
        cpus: u32,
    ) -> Result<Self, BootError> {
        if cpus == 0 || cpus > Self::MAX_CPUS {
            return Err(BootError::Cpus {
                cpus,
                limit: Self::MAX_CPUS,
            });
        }
        let limit = usize::try_from(image.command_line_limit())
            .unwrap_or(usize::MAX)
            .min(map::COMMAND_LINE_BYTES - 1);
        if command_line.len() > limit {
            return Err(BootError::CommandLine {
                bytes: command_line.len(),
                limit,
            });
        }
        if let Some(offset) = command_line.find('\0') {
            return Err(BootError::CommandLineNul { offset });
        }
        Ok(Self {
            image,
            initrds: initrds.into_iter().collect(),
            command_line: command_line.to_owned(),
            cpus,
            platform: Platform::default(),
            protocol: None,
            is_there: Box::new(|_| true),
        })
    }

    /// Describes another machine to the guest.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Asks at every boot which vCPUs are there by then; the others are described as such that may
    /// come. Without it all are there.
    #[must_use]
    pub fn with_present(mut self, is_there: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        self.is_there = Box::new(is_there);
        self
    }

    /// Enters by this protocol, whatever else the kernel offers.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// The kernel image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The ACPI tables that the guest is given.
    pub fn acpi_tables(&self) -> AcpiTables {
        AcpiTables::new(&self.platform, self.cpus, &*self.is_there)
    }

    /// The memory map that the guest is given, ascending.
    pub fn memory_map(&self, layout: RamLayout) -> Vec<MapRange> {
        map::ranges(layout, self.acpi_tables().as_bytes().len() as u64)
    }

    /// Puts kernel, initrd and tables into guest memory and answers where vCPU 0 begins. May be
    /// called any number of times: what it leaves depends only on the images, except for memory
    /// that belongs to none of them, which it does not touch.
    ///
    /// # Errors
    /// Every [`BootError`] about memory; about a file, if it changed or does not decompress.
    ///
    /// # Thread
    /// Any. vCPUs must not be running.
    pub fn load(&self, ram: &GuestRam, layout: RamLayout) -> Result<Start, BootError> {
        if layout.bytes < Self::MIN_MEMORY {
            let (bytes, minimum) = (layout.bytes, Self::MIN_MEMORY);
            return Err(BootError::MemoryTooSmall { bytes, minimum });
        }
        self.image.source.unchanged()?;
        for initrd in &self.initrds {
            initrd.source.unchanged()?;
        }
        let placed = load::place(&self.image, self.protocol, ram, layout)?;
        let (initrds, protocol) = (&self.initrds, placed.protocol);
        let room = Room::above(&placed, self.image.initrd_limit(), layout);
        let (initrd, modules) = if protocol == Protocol::Multiboot {
            (None, initrd::place_modules(initrds, room, ram)?)
        } else {
            (initrd::place(initrds, room, ram)?, Vec::new())
        };
        let acpi = self.acpi_tables();
        let map = map::ranges(layout, acpi.as_bytes().len() as u64);
        let handover = Handover {
            map: &map,
            command_line: &self.command_line,
            initrd,
            modules,
        };
        for (address, bytes) in bios_data::WORDS {
            write(ram, address, &bytes)?;
        }
        write(ram, AcpiTables::ADDRESS, acpi.as_bytes())?;
        write(
            ram,
            reset_vector::ADDRESS,
            &reset_vector::code(&self.platform),
        )?;
        write(ram, map::COMMAND_LINE, self.command_line.as_bytes())?;
        write(
            ram,
            map::COMMAND_LINE + self.command_line.len() as u64,
            &[0],
        )?;
        let start = self.enter(placed.protocol, placed.entry, &handover, ram)?;
        write(ram, map::GDT, &start::gdt(&start))?;
        Ok(start)
    }

    /// Writes what the kernel is given the way it is entered; where vCPU 0 begins.
    fn enter(
        &self,
        protocol: Protocol,
        entry: u64,
        handover: &Handover<'_>,
        ram: &GuestRam,
    ) -> Result<Start, BootError> {
        Ok(match protocol {
            Protocol::Multiboot => {
                write(ram, map::START_INFO, &multiboot::info(handover)?)?;
                start::multiboot(entry)
            }
            Protocol::Pvh | Protocol::Flat => {
                write(ram, map::START_INFO, &pvh::start_info(handover))?;
                start::pvh(entry)
            }
            Protocol::Linux32 | Protocol::Linux64 => {
                let header = match &self.image.kind {
                    Kind::Elf { .. } | Kind::Raw(_) => &[][..],
                    Kind::BzImage(image) => &image.header,
                };
                write(ram, map::ZERO_PAGE, &linux64::zero_page(handover, header))?;
                if protocol == Protocol::Linux32 {
                    start::linux32(entry)
                } else {
                    write(ram, map::PAGE_TABLES, &start::page_tables())?;
                    start::linux64(entry)
                }
            }
        })
    }
}

fn write(ram: &GuestRam, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    ram.write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootError::Ram { address, source })
}
