// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ACPI tables of a hardware-reduced machine: RSDP, XSDT, FADT, MADT, DSDT.
//!
//! Hardware-reduced (ACPI 6.5, 4.1) means: no PIC, no PIT, no PM timer, no SCI; power-off and
//! reset through registers that the FADT names. Interrupts come from one I/O APIC, and every
//! device that has one says so in the DSDT.

use acpi_tables::aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml::Path};

use crate::acpi_events::{ENABLED, Events, ONLINE_CAPABLE, Processors, local_apic};
use crate::map::ACPI;
use crate::{Platform, VirtioWindow, VirtioWindows};

const OEM: [u8; 6] = *b"VMLIFE";
const OEM_TABLE: [u8; 8] = *b"VMBOOT  ";
const REVISION: u32 = 1;
const HEADER_BYTES: u32 = 36;
/// FADT `IAPC_BOOT_ARCH`: there is no VGA (ACPI 6.5, table 5-11). That there is no 8042 is said by
/// its bit being clear.
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// The tables, ready to be written at [`AcpiTables::ADDRESS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiTables {
    bytes: Vec<u8>,
    tables: Vec<AcpiTable>,
}

/// Where one table lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcpiTable {
    /// Its name: `RSDP`, or its signature.
    pub signature: [u8; 4],
    /// Its guest address.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl AcpiTables {
    /// Guest address of the first table, the RSDP.
    pub const ADDRESS: u64 = ACPI;
    /// The most vCPUs that are described; the tables for them fit below 1 MiB.
    pub const MAX_CPUS: u32 = 1024;

    /// Builds the tables for a machine with `cpus` vCPUs, whose APIC ids are 0 and up; those that are
    /// not there yet may come. More than [`AcpiTables::MAX_CPUS`] are left out.
    pub fn new(platform: &Platform, cpus: u32, is_there: &dyn Fn(u32) -> bool) -> Self {
        let cpus = cpus.min(Self::MAX_CPUS);
        let mut this = Self {
            bytes: Vec::new(),
            tables: Vec::new(),
        };
        // The RSDP comes first, so that it lies at a fixed address; it is filled in last.
        this.push(*b"RSDP", &vec![0; Rsdp::len()]);
        let dsdt = this.push(*b"DSDT", dsdt(platform, cpus).as_slice());
        let fadt = this.push(*b"FACP", &fadt(platform, dsdt));
        let madt = this.push(*b"APIC", madt(platform, cpus, is_there).as_slice());
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = this.push(*b"XSDT", &encode(&xsdt));
        let rsdp = encode(&Rsdp::new(OEM, xsdt));
        for (to, from) in this.bytes.iter_mut().zip(rsdp) {
            *to = from;
        }
        this
    }

    /// All tables as they lie in guest memory.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tables, by rising address.
    pub fn tables(&self) -> &[AcpiTable] {
        &self.tables
    }

    /// Appends a table on a 16-byte boundary; its guest address.
    fn push(&mut self, signature: [u8; 4], table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = Self::ADDRESS + self.bytes.len() as u64;
        self.tables.push(AcpiTable {
            signature,
            address,
            bytes: table.len() as u64,
        });
        self.bytes.extend_from_slice(table);
        address
    }
}

fn encode(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// An 8-bit I/O port.
fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

fn fadt(platform: &Platform, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // No fixed-hardware buttons.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = VGA_NOT_PRESENT.into();
    fadt.reset_reg = port(platform.reset_port);
    fadt.reset_value = platform.reset_value;
    fadt.sleep_control_reg = port(platform.sleep_control_port);
    fadt.sleep_status_reg = port(platform.sleep_status_port);
    encode(&fadt.finalize())
}

/// The MADT (ACPI 6.5, 5.2.12): flags 0, as there are no 8259s.
fn madt(platform: &Platform, cpus: u32, is_there: &dyn Fn(u32) -> bool) -> Sdt {
    let mut body = Vec::new();
    body.extend_from_slice(&platform.lapic_addr.to_le_bytes());
    body.extend_from_slice(&0_u32.to_le_bytes());
    for cpu in 0..cpus {
        let flags = if is_there(cpu) {
            ENABLED
        } else {
            ONLINE_CAPABLE
        };
        body.extend(local_apic(cpu, flags));
    }
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&platform.ioapic_addr.to_le_bytes());
    body.extend_from_slice(&0_u32.to_le_bytes());
    table(*b"APIC", 5, &body)
}

fn dsdt(platform: &Platform, cpus: u32) -> Sdt {
    let mut body = encode(&aml::Name::new(
        Path::new("_S5_"),
        &aml::Package::new(vec![&platform.s5_sleep_type]),
    ));
    let com1_name = aml::Name::new(Path::new("_HID"), &aml::EISAName::new("PNP0501"));
    let com1_number = aml::Name::new(Path::new("_UID"), &aml::ZERO);
    let com1_ports = aml::IO::new(platform.com1_port, platform.com1_port, 1, 8);
    let com1_irq = aml::Interrupt::new(true, true, false, false, platform.com1_irq);
    let com1_resources = aml::Name::new(
        Path::new("_CRS"),
        &aml::ResourceTemplate::new(vec![&com1_ports, &com1_irq]),
    );
    let com1 = aml::Device::new(
        Path::new("COM1"),
        vec![&com1_name, &com1_number, &com1_resources],
    );

    let rtc_name = aml::Name::new(Path::new("_HID"), &aml::EISAName::new("PNP0B00"));
    let rtc_ports = aml::IO::new(platform.rtc_port, platform.rtc_port, 1, 2);
    let rtc_resources = aml::Name::new(
        Path::new("_CRS"),
        &aml::ResourceTemplate::new(vec![&rtc_ports]),
    );
    let rtc = aml::Device::new(Path::new("RTC0"), vec![&rtc_name, &rtc_resources]);

    let processors = Processors {
        platform,
        count: cpus,
    };
    let events = Events(platform);
    let virtio: Vec<Virtio> = (0..).zip(platform.virtio.iter()).map(Virtio).collect();
    let mut children: Vec<&dyn Aml> = vec![&com1, &rtc];
    children.extend(virtio.iter().map(|device| device as &dyn Aml));
    children.extend([&processors as &dyn Aml, &events]);
    body.extend(encode(&aml::Scope::new(Path::new("\\_SB_"), children)));
    table(*b"DSDT", 2, &body)
}

/// A virtio-mmio device with its number. `LNRO0005` is what Linux's virtio_mmio driver answers to; its
/// DMA is coherent, and Linux wants to be told (ACPI 6.5, 6.2.17).
struct Virtio((u8, VirtioWindow));

impl Aml for Virtio {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (number, VirtioWindow { addr, irq }) = self.0;
        let hid = aml::Name::new(Path::new("_HID"), &"LNRO0005");
        let uid = aml::Name::new(Path::new("_UID"), &number);
        let cca = aml::Name::new(Path::new("_CCA"), &aml::ONE);
        let registers = aml::Memory32Fixed::new(true, addr, VirtioWindows::BYTES);
        let interrupt = aml::Interrupt::new(true, true, false, false, irq);
        let resources = aml::ResourceTemplate::new(vec![&registers, &interrupt]);
        let resources = aml::Name::new(Path::new("_CRS"), &resources);
        let name = format!("VR{number:02X}");
        aml::Device::new(Path::new(&name), vec![&hid, &uid, &cca, &resources]).to_aml_bytes(sink);
    }
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, HEADER_BYTES, revision, OEM, OEM_TABLE, REVISION);
    table.append_slice(body);
    table
}
