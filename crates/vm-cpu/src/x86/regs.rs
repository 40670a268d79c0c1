// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! General and system registers.

use serde::{Deserialize, Serialize};

/// General registers, RIP and RFLAGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the register of that name")]
pub struct Gprs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Attributes as in VMCS access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, DB 14, G 15,
    /// unusable 16 (Intel SDM vol. 3, table 25-2).
    pub attributes: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    /// Base.
    pub base: u64,
    /// Limit.
    pub limit: u16,
}

/// Segments, descriptor tables and control registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is the register of that name")]
pub struct SystemRegs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
}

/// Where a boot begins: general and system registers of vCPU 0. `system.apic_base` of 0 means
/// "leave it as it is".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Start {
    /// General registers.
    pub gprs: Gprs,
    /// System registers.
    pub system: SystemRegs,
}

impl Start {
    /// Real mode at `rip`, with every segment at 0, interrupts off and no stack: where a guest of a few
    /// instructions in the first 64 KiB begins. Caches are off, as after a reset (Intel SDM volume 3,
    /// "Processor State After Reset").
    #[must_use]
    pub fn real_mode(rip: u64) -> Self {
        let segment = |attributes| Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            attributes,
        };
        let data = segment(0x93);
        Self {
            gprs: Gprs {
                rip,
                rflags: 2,
                ..Gprs::default()
            },
            system: SystemRegs {
                cs: segment(0x9b),
                ds: data,
                es: data,
                fs: data,
                gs: data,
                ss: data,
                tr: segment(0x8b),
                ldt: segment(0x82),
                cr0: 0x6000_0010,
                ..SystemRegs::default()
            },
        }
    }
}
