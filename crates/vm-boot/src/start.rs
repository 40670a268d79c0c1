// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The state in which vCPU 0 begins, and the tables it points into: GDT and page tables.

use vm_cpu::x86::{Gprs, Segment, Start, SystemRegs, Table};

use crate::map::{GDT, PAGE_TABLES, STACK_TOP, START_INFO, ZERO_PAGE};
use crate::multiboot::LOADER_MAGIC;

/// Selectors that Linux' 64-bit protocol names `__BOOT_CS` and `__BOOT_DS` (`boot.rst`, "64-bit
/// Boot Protocol").
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
/// Attributes as in VMCS access rights (Intel SDM vol. 3, table 25-2).
const CODE32: u32 = 0xc09b;
const CODE64: u32 = 0xa09b;
const DATA32: u32 = 0xc093;
const TASK_BUSY: u32 = 0x8b;
const UNUSABLE: u32 = 1 << 16;
/// Smallest limit of a task state segment.
const TASK_LIMIT: u32 = 0x67;
/// RFLAGS with only the bit that is always one.
const RFLAGS: u64 = 2;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Entries of a page-table page.
const ENTRIES: u64 = 512;
const PAGE: u64 = 4096;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
/// Page directories, one for each GiB that is mapped.
const DIRECTORIES: u64 = 4;

/// PVH: 32-bit protected mode without paging, EBX at the start info (Xen
/// `docs/misc/pvh.pandoc`).
pub(crate) fn pvh(entry: u64) -> Start {
    Start {
        gprs: Gprs {
            rbx: START_INFO,
            rip: entry,
            rflags: RFLAGS,
            ..Gprs::default()
        },
        system: SystemRegs {
            cr0: CR0_PE | CR0_ET,
            ..segments(CODE32)
        },
    }
}

/// Multiboot: as PVH, EAX with the loader's magic, EBX at the information structure (Multiboot
/// 0.6.96, 3.2).
pub(crate) fn multiboot(entry: u64) -> Start {
    let mut start = pvh(entry);
    start.gprs.rax = LOADER_MAGIC.into();
    start
}

/// Linux' 32-bit entry: protected mode without paging, ESI at the zero page (`boot.rst`, "32-bit Boot
/// Protocol": EBP, EDI and EBX are zero).
pub(crate) fn linux32(entry: u64) -> Start {
    let mut start = pvh(entry);
    start.gprs.rbx = 0;
    start.gprs.rsi = ZERO_PAGE;
    start
}

/// Linux' 64-bit entry: long mode, memory below 4 GiB mapped one to one, RSI at the zero page.
pub(crate) fn linux64(entry: u64) -> Start {
    let gprs = Gprs {
        rsi: ZERO_PAGE,
        rip: entry,
        rsp: STACK_TOP,
        rbp: STACK_TOP,
        rflags: RFLAGS,
        ..Gprs::default()
    };
    let system = SystemRegs {
        cr0: CR0_PE | CR0_ET | CR0_PG,
        cr3: PAGE_TABLES,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        ..segments(CODE64)
    };
    Start { gprs, system }
}

fn segments(code: u32) -> SystemRegs {
    let flat = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    let data = flat(DATA, DATA32);
    SystemRegs {
        cs: flat(CODE, code),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment {
            selector: TASK,
            base: 0,
            limit: TASK_LIMIT,
            attributes: TASK_BUSY,
        },
        ldt: Segment {
            attributes: UNUSABLE,
            ..Segment::default()
        },
        gdt: Table {
            base: GDT,
            limit: 6 * 8 - 1,
        },
        ..SystemRegs::default()
    }
}

/// The GDT that the selectors of `start` refer to. The task segment takes two slots, as long mode
/// has it.
pub(crate) fn gdt(start: &Start) -> Vec<u8> {
    let system = &start.system;
    let entries = [
        0,
        0,
        descriptor(&system.cs),
        descriptor(&system.ds),
        descriptor(&system.tr),
        0_u64,
    ];
    entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect()
}

/// A segment as an 8-byte descriptor (Intel SDM vol. 3, 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let attributes = u64::from(segment.attributes);
    let granular = attributes & 0x8000 != 0;
    let limit = u64::from(if granular {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let base = segment.base;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (attributes & 0xf0ff) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// Page tables for [`linux64`], to be written at [`PAGE_TABLES`]: 4 GiB in pages of 2 MiB.
pub(crate) fn page_tables() -> Vec<u8> {
    let table = |entries: &dyn Fn(u64) -> u64| -> Vec<u8> {
        (0..ENTRIES)
            .flat_map(|entry| entries(entry).to_le_bytes())
            .collect()
    };
    let pdpt = PAGE_TABLES + PAGE;
    let mut bytes = table(&|entry| {
        if entry == 0 {
            pdpt | PRESENT_WRITABLE
        } else {
            0
        }
    });
    bytes.extend(table(&|entry| match entry {
        0..DIRECTORIES => (pdpt + PAGE * (1 + entry)) | PRESENT_WRITABLE,
        _ => 0,
    }));
    for directory in 0..DIRECTORIES {
        bytes.extend(table(&|entry| {
            ((directory * ENTRIES + entry) << 21) | LARGE | PRESENT_WRITABLE
        }));
    }
    bytes
}
