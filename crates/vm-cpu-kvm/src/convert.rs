// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM's register structures to and from the plain state types.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2};
use vm_cpu::x86::{Gprs, Segment, SystemRegs, Table};

/// `kvm_sregs2.flags`: the PDPTRs are valid (`KVM_SREGS2_FLAGS_PDPTRS_VALID`).
pub(crate) const PDPTRS_VALID: u64 = 1;

macro_rules! same_names {
    ($from:expr => $to:ident { $($field:ident),+ } $(.. $rest:expr)?) => {
        $to { $($field: $from.$field),+ $(, ..$rest)? }
    };
}

pub(crate) fn gprs(r: &kvm_regs) -> Gprs {
    same_names!(r => Gprs {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
    })
}

pub(crate) fn kvm_gprs(r: &Gprs) -> kvm_regs {
    same_names!(r => kvm_regs {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
    })
}

fn segment(s: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    Segment {
        selector: s.selector,
        base: s.base,
        limit: s.limit,
        attributes: u32::from(s.type_ & 0xf)
            | bit(s.s, 4)
            | u32::from(s.dpl & 3) << 5
            | bit(s.present, 7)
            | bit(s.avl, 12)
            | bit(s.l, 13)
            | bit(s.db, 14)
            | bit(s.g, 15)
            | bit(s.unusable, 16),
    }
}

fn kvm_segment_of(s: &Segment) -> kvm_segment {
    let bits = |at: u32, mask: u32| ((s.attributes >> at) & mask).to_le_bytes()[0];
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: bits(0, 0xf),
        s: bits(4, 1),
        dpl: bits(5, 3),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: bits(16, 1),
        padding: 0,
    }
}

fn table(t: &kvm_dtable) -> Table {
    Table {
        base: t.base,
        limit: t.limit,
    }
}

fn kvm_table(t: &Table) -> kvm_dtable {
    kvm_dtable {
        base: t.base,
        limit: t.limit,
        padding: [0; 3],
    }
}

/// System registers out of either of KVM's structures, which share these names.
macro_rules! system_of {
    ($s:expr) => {
        SystemRegs {
            cs: segment(&$s.cs),
            ds: segment(&$s.ds),
            es: segment(&$s.es),
            fs: segment(&$s.fs),
            gs: segment(&$s.gs),
            ss: segment(&$s.ss),
            tr: segment(&$s.tr),
            ldt: segment(&$s.ldt),
            gdt: table(&$s.gdt),
            idt: table(&$s.idt),
            cr0: $s.cr0,
            cr2: $s.cr2,
            cr3: $s.cr3,
            cr4: $s.cr4,
            cr8: $s.cr8,
            efer: $s.efer,
            apic_base: $s.apic_base,
        }
    };
}

macro_rules! kvm_system_of {
    ($to:ident, $s:expr, $($rest:tt)*) => {
        $to {
            cs: kvm_segment_of(&$s.cs),
            ds: kvm_segment_of(&$s.ds),
            es: kvm_segment_of(&$s.es),
            fs: kvm_segment_of(&$s.fs),
            gs: kvm_segment_of(&$s.gs),
            ss: kvm_segment_of(&$s.ss),
            tr: kvm_segment_of(&$s.tr),
            ldt: kvm_segment_of(&$s.ldt),
            gdt: kvm_table(&$s.gdt),
            idt: kvm_table(&$s.idt),
            cr0: $s.cr0,
            cr2: $s.cr2,
            cr3: $s.cr3,
            cr4: $s.cr4,
            cr8: $s.cr8,
            efer: $s.efer,
            apic_base: $s.apic_base,
            $($rest)*
        }
    };
}

pub(crate) fn system(s: &kvm_sregs) -> SystemRegs {
    system_of!(s)
}

/// The registers, and the PDPTRs if they are in use.
pub(crate) fn system2(s: &kvm_sregs2) -> (SystemRegs, Option<[u64; 4]>) {
    (
        system_of!(s),
        (s.flags & PDPTRS_VALID != 0).then_some(s.pdptrs),
    )
}

/// An interrupt that is acknowledged and not taken is part of the events, not of the bitmap here.
pub(crate) fn kvm_system(s: &SystemRegs) -> kvm_sregs {
    kvm_system_of!(kvm_sregs, s, interrupt_bitmap: [0; 4])
}

pub(crate) fn kvm_system2(s: &SystemRegs, pdptrs: Option<[u64; 4]>) -> kvm_sregs2 {
    let flags = if pdptrs.is_some() { PDPTRS_VALID } else { 0 };
    kvm_system_of!(kvm_sregs2, s, flags, pdptrs: pdptrs.unwrap_or_default(),)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_survives_the_way_there_and_back() {
        let flat_code = Segment {
            selector: 8,
            base: 0,
            limit: u32::MAX,
            attributes: 0xa09b,
        };
        assert_eq!(segment(&kvm_segment_of(&flat_code)), flat_code);
        let unusable = Segment {
            attributes: 0x1_0000,
            ..Segment::default()
        };
        assert_eq!(segment(&kvm_segment_of(&unusable)), unusable);
    }

    #[test]
    fn page_directory_pointers_are_only_told_when_valid() {
        let pdptrs = [1, 2, 3, 4];
        let regs = SystemRegs {
            cr3: 0x1000,
            ..SystemRegs::default()
        };
        assert_eq!(
            system2(&kvm_system2(&regs, Some(pdptrs))),
            (regs, Some(pdptrs))
        );
        assert_eq!(system2(&kvm_system2(&regs, None)), (regs, None));
    }
}
