// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ACPI tables, walked as an operating system walks them.

use vm_boot::{AcpiTables, Boot, Platform, VirtioWindows};

use crate::fixture::{Elf, u16_at, u32_at, u64_at};

/// The bytes of a table, its length and checksum checked.
fn table(tables: &AcpiTables, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    let at = usize::try_from(address - AcpiTables::ADDRESS).expect("inside the tables");
    let all = tables.as_bytes();
    let length = usize::try_from(u32_at(all, at + 4)).expect("small");
    let table = all[at..at + length].to_vec();
    assert_eq!(&table[..4], signature);
    assert_eq!(
        sum(&table),
        0,
        "checksum of {}",
        String::from_utf8_lossy(signature)
    );
    table
}

fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// FADT, MADT and DSDT, found from the RSDP.
fn walk(tables: &AcpiTables) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let rsdp = &tables.as_bytes()[..36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(
        (sum(&rsdp[..20]), sum(rsdp), rsdp[15], u32_at(rsdp, 20)),
        (0, 0, 2, 36)
    );
    let xsdt = table(tables, u64_at(rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table(tables, u64_at(&xsdt, 36), b"FACP");
    let madt = table(tables, u64_at(&xsdt, 44), b"APIC");
    let dsdt = table(tables, u64_at(&fadt, 140), b"DSDT");
    (fadt, madt, dsdt)
}

/// The MADT's entries as (type, bytes).
fn entries(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while let [kind, length, ..] = rest {
        let (entry, after) = rest.split_at(usize::from(*length));
        found.push((*kind, entry.to_vec()));
        rest = after;
    }
    found
}

/// A byte string's number of occurrences.
fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes
        .windows(wanted.len())
        .filter(|window| *window == wanted)
        .count()
}

#[test]
fn the_fadt_is_hardware_reduced_and_names_the_registers() {
    let (fadt, _, _) = walk(&AcpiTables::new(&Platform::default(), 1, &|_| true));
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let flags = u32_at(&fadt, 112);
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register");
    // Neither 8042 (bit 1) nor VGA (bit 2 says it is absent).
    assert_eq!(u16_at(&fadt, 109) & 6, 4);
    // Generic addresses: I/O space, 8 bits, byte access.
    let register = |at: usize| {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
        u64_at(&fadt, at + 4)
    };
    assert_eq!((register(116), fadt[128]), (0x602, 1));
    assert_eq!((register(244), register(256)), (0x600, 0x601));
}

#[test]
fn the_madt_has_every_vcpu_once_and_one_ioapic() {
    let (_, madt, _) = walk(&AcpiTables::new(&Platform::default(), 4, &|_| true));
    assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (0xfee0_0000, 0));
    let entries = entries(&madt);
    assert_eq!(entries.len(), 5);
    for (number, (kind, entry)) in (0_u8..).zip(&entries[..4]) {
        assert_eq!(
            (*kind, entry.as_slice()),
            (0, &[0, 8, number, number, 1, 0, 0, 0][..])
        );
    }
    let (kind, ioapic) = &entries[4];
    assert_eq!(
        (*kind, u32_at(ioapic, 4), u32_at(ioapic, 8)),
        (1, 0xfec0_0000, 0)
    );
}

#[test]
fn ids_beyond_eight_bits_are_x2apic_entries() {
    let (_, madt, _) = walk(&AcpiTables::new(&Platform::default(), 258, &|_| true));
    let entries = entries(&madt);
    let wide: Vec<_> = entries.iter().filter(|(kind, _)| *kind == 9).collect();
    let fields: Vec<_> = wide
        .iter()
        .map(|(_, entry)| (u32_at(entry, 4), u32_at(entry, 8), u32_at(entry, 12)))
        .collect();
    assert_eq!(fields, [(255, 1, 255), (256, 1, 256), (257, 1, 257)]);
    assert_eq!(entries.iter().filter(|(kind, _)| *kind == 0).count(), 255);
}

#[test]
fn the_dsdt_describes_serial_port_clock_power_off_and_vcpus() {
    let (_, _, dsdt) = walk(&AcpiTables::new(&Platform::default(), 3, &|_| true));
    // PNP0501 and PNP0B00 as compressed EISA ids.
    assert_eq!(count(&dsdt, &[0x0c, 0x41, 0xd0, 0x05, 0x01]), 1);
    assert_eq!(count(&dsdt, &[0x0c, 0x41, 0xd0, 0x0b, 0x00]), 1);
    // I/O 0x3f8, 8 ports; interrupt 4: consumer, edge, active high, exclusive.
    assert_eq!(count(&dsdt, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), 1);
    assert_eq!(count(&dsdt, &[0x89, 6, 0, 3, 1, 4, 0, 0, 0]), 1);
    assert_eq!(count(&dsdt, &[0x47, 1, 0x70, 0, 0x70, 0, 1, 2]), 1);
    // Name (_S5_, Package (1) {5})
    assert_eq!(count(&dsdt, b"\x08_S5_\x12\x04\x01\x0a\x05"), 1);
    assert_eq!(count(&dsdt, b"ACPI0007\0"), 3);
    // The device, and the place that notifies it.
    assert_eq!((count(&dsdt, b"C002"), count(&dsdt, b"C003")), (2, 0));
}

#[test]
fn a_vcpu_that_is_not_there_yet_may_come_and_its_device_says_how_it_will_be() {
    let (_, madt, dsdt) = walk(&AcpiTables::new(&Platform::default(), 3, &|cpu| cpu != 2));
    let flags: Vec<u32> = entries(&madt)
        .iter()
        .filter(|(kind, _)| *kind == 0)
        .map(|(_, entry)| u32_at(entry, 4))
        .collect();
    // Enabled; online capable (ACPI 6.5, table 5-25).
    assert_eq!(flags, [1, 1, 2]);
    // _MAT of each: its entry, enabled.
    assert_eq!(
        count(&dsdt, b"_MAT\x11\x0b\x0a\x08\x00\x08\x02\x02\x01\0\0\0"),
        1
    );
    assert_eq!(
        (count(&dsdt, b"_EJ0"), count(&dsdt, b"_MAT")),
        (2, 3),
        "the first one stays"
    );
}

#[test]
fn a_vcpu_beyond_those_that_the_event_device_knows_is_always_there() {
    let (_, _, dsdt) = walk(&AcpiTables::new(&Platform::default(), 66, &|_| true));
    assert_eq!((count(&dsdt, b"_STA"), count(&dsdt, b"_EJ0")), (64, 63));
    assert_eq!((count(&dsdt, b"C03F"), count(&dsdt, b"C040")), (2, 1));
}

#[test]
fn the_platform_decides_every_address() {
    let platform = Platform {
        ioapic_addr: 0xfed0_0000,
        lapic_addr: 0xfef0_0000,
        com1_port: 0x2f8,
        com1_irq: 3,
        sleep_control_port: 0x700,
        sleep_status_port: 0x701,
        s5_sleep_type: 6,
        reset_port: 0x702,
        reset_value: 9,
        debug_exit_port: Some(0x501),
        rtc_port: 0x74,
        event_port: 0x720,
        event_irq: 23,
        virtio: VirtioWindows {
            first_addr: 0xd800_0000,
            first_irq: 9,
            count: 2,
        },
    };
    let boot = Boot::new(Elf::linux().image(), None, "", 1).expect("a boot");
    let (fadt, madt, dsdt) = walk(&boot.with_platform(platform).acpi_tables());
    assert_eq!((u64_at(&fadt, 120), fadt[128]), (0x702, 9));
    assert_eq!((u64_at(&fadt, 248), u64_at(&fadt, 260)), (0x700, 0x701));
    assert_eq!(u32_at(&madt, 36), 0xfef0_0000);
    assert_eq!(u32_at(&entries(&madt)[1].1, 4), 0xfed0_0000);
    assert_eq!(count(&dsdt, &[0x47, 1, 0xf8, 2, 0xf8, 2, 1, 8]), 1);
    assert_eq!(count(&dsdt, &[0x89, 6, 0, 3, 1, 3, 0, 0, 0]), 1);
    assert_eq!(count(&dsdt, &[0x47, 1, 0x74, 0, 0x74, 0, 1, 2]), 1);
    assert_eq!(count(&dsdt, b"_S5_\x12\x04\x01\x0a\x06"), 1);
    // OperationRegion (EREG, SystemIO, 0x720, 4) and CREG at 0x724, 5 bytes; interrupt 23.
    assert_eq!(count(&dsdt, b"EREG\x01\x0b\x20\x07\x0a\x04"), 1);
    assert_eq!(count(&dsdt, b"CREG\x01\x0b\x24\x07\x0a\x05"), 1);
    assert_eq!(count(&dsdt, &[0x89, 6, 0, 3, 1, 23, 0, 0, 0]), 1);
    // Memory32Fixed, writable, 4 KiB; the interrupt behind it.
    for (page, irq) in [(0_u8, 9), (0x10, 10)] {
        let window = [
            0x86, 9, 0, 1, 0, page, 0, 0xd8, 0, 0x10, 0, 0, 0x89, 6, 0, 3, 1, irq, 0, 0, 0,
        ];
        assert_eq!(count(&dsdt, &window), 1, "{irq}");
    }
}

#[test]
fn virtio_devices_are_described_where_they_are_and_none_by_default() {
    let (_, _, dsdt) = walk(&AcpiTables::new(&Platform::default(), 1, &|_| true));
    assert_eq!(count(&dsdt, b"LNRO0005"), 0);
    let with = |count| {
        let virtio = VirtioWindows {
            count,
            ..VirtioWindows::default()
        };
        let platform = Platform {
            virtio,
            ..Platform::default()
        };
        walk(&AcpiTables::new(&platform, 1, &|_| true)).2
    };
    assert_eq!(count(&with(3), b"LNRO0005\0"), 3);
    assert_eq!(count(&with(3), b"VR02"), 1);
    assert_eq!(count(&with(u32::MAX), b"LNRO0005\0"), 16);
    let last = VirtioWindows {
        count: 16,
        ..VirtioWindows::default()
    };
    let last = last.iter().last().expect("16 of them");
    assert_eq!((last.addr, last.irq), (0xd000_f000, 20));
}

#[test]
fn the_tables_for_the_most_vcpus_fit_below_one_mib() {
    let tables = AcpiTables::new(&Platform::default(), AcpiTables::MAX_CPUS, &|_| true);
    let last = tables.tables().last().expect("an XSDT");
    assert!(last.address + last.bytes <= 0x10_0000);
    let (_, madt, dsdt) = walk(&tables);
    assert_eq!(entries(&madt).len(), 1025);
    assert_eq!(count(&dsdt, b"ACPI0007\0"), 1024);
}
