// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The CPUID a vCPU answers with: the host's, masked to what a machine has.
//!
//! The topology is one package of single-threaded cores, said in every leaf that a guest may read it
//! from, because guests disagree which one they believe.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vm_cpu::IrqMode;

/// What CPUID depends on beside the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) id: u32,
    pub(crate) vcpus: u32,
    pub(crate) irq: IrqMode,
    pub(crate) tsc_deadline: Offer,
}

/// Whether a feature is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Yes,
    No,
}

const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_APIC: u32 = 1 << 9;
const EDX_HTT: u32 = 1 << 28;

/// The entries for one vCPU.
pub(crate) fn fit(supported: &CpuId, how: Fit) -> Vec<kvm_cpuid_entry2> {
    let mut entries = supported.as_slice().to_vec();
    // Rebuilt below.
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    let highest = supported
        .as_slice()
        .iter()
        .find(|e| e.function == 0)
        .map_or(0, |e| e.eax);
    for entry in &mut entries {
        fit_entry(entry, how);
    }
    for function in [0xb, 0x1f]
        .into_iter()
        .filter(|function| *function <= highest)
    {
        entries.extend(topology(function, how));
    }
    entries
}

fn fit_entry(entry: &mut kvm_cpuid_entry2, how: Fit) {
    let Fit {
        id,
        vcpus,
        irq,
        tsc_deadline,
    } = how;
    let cores = vcpus.min(0xff);
    match entry.function {
        0x1 => {
            entry.ebx = (entry.ebx & 0x0000_ffff) | (id & 0xff) << 24 | cores << 16;
            entry.ecx |= ECX_HYPERVISOR;
            entry.ecx &= !ECX_TSC_DEADLINE;
            entry.edx &= !EDX_HTT;
            if vcpus > 1 {
                entry.edx |= EDX_HTT;
            }
            match irq {
                IrqMode::Split if tsc_deadline == Offer::Yes => entry.ecx |= ECX_TSC_DEADLINE,
                IrqMode::Split => {}
                IrqMode::None => {
                    entry.ecx &= !ECX_X2APIC;
                    entry.edx &= !EDX_APIC;
                }
            }
        }
        // Intel's caches: who shares them is in EAX bits 25:14, cores of the package in 31:26.
        0x4 if entry.eax & 0x1f != 0 => {
            let sharing = if (entry.eax >> 5) & 7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & 0x3fff) | sharing.min(0xfff) << 14 | (cores - 1).min(63) << 26;
        }
        // Performance counters are not part of the saved state.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD: legacy flag "more than one core", then the count of cores and the width of core IDs.
        0x8000_0001 if vcpus == 1 => entry.ecx &= !(1 << 1),
        0x8000_0008 => {
            entry.ecx = (entry.ecx & !0xf0ff) | (cores - 1) | core_bits(vcpus) << 12;
        }
        // AMD's caches.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if (entry.eax >> 5) & 7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & 0x3fff) | sharing.min(0xfff) << 14;
        }
        // AMD: extended APIC ID; core ID, one thread each; one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

/// Bits of an APIC ID that number the cores of the package.
fn core_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

/// Leaf 0xb or 0x1f: one thread in a core, `vcpus` cores in the package (Intel SDM vol. 2A, CPUID).
fn topology(function: u32, how: Fit) -> [kvm_cpuid_entry2; 3] {
    let entry = |index: u32, shift, count, level: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: level << 8 | index,
        edx: how.id,
        ..kvm_cpuid_entry2::default()
    };
    [
        entry(0, 0, 1, 1),
        entry(1, core_bits(how.vcpus), how.vcpus, 2),
        entry(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(entries: &[kvm_cpuid_entry2]) -> CpuId {
        CpuId::from_entries(entries).expect("a few entries fit")
    }

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn how(id: u32, vcpus: u32, irq: IrqMode) -> Fit {
        Fit {
            id,
            vcpus,
            irq,
            tsc_deadline: Offer::Yes,
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = entries
            .iter()
            .find(|e| e.function == function && e.index == index);
        *found.expect("the leaf is there")
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_in_every_leaf() {
        let mut first = leaf(0);
        first.eax = 0x1f;
        let entries = fit(
            &host(&[first, leaf(1), leaf(0x8000_001e)]),
            how(5, 8, IrqMode::Split),
        );
        assert_eq!(find(&entries, 1, 0).ebx >> 24, 5);
        assert_eq!(find(&entries, 0xb, 0).edx, 5);
        assert_eq!(find(&entries, 0x1f, 1).edx, 5);
        assert_eq!(find(&entries, 0x8000_001e, 0).eax, 5);
    }

    #[test]
    fn the_package_has_as_many_cores_as_the_machine_vcpus() {
        let mut first = leaf(0);
        first.eax = 0xb;
        let entries = fit(
            &host(&[first, leaf(1), leaf(0x8000_0008)]),
            how(0, 6, IrqMode::Split),
        );
        let cores = find(&entries, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, 0x201));
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx & 0xf0ff, 0x3005);
        assert!(entries.iter().all(|e| e.function != 0x1f));
    }

    #[test]
    fn a_machine_without_interrupt_controller_has_no_apic() {
        let mut one = leaf(1);
        one.ecx = ECX_X2APIC;
        one.edx = EDX_APIC;
        let fitted = find(&fit(&host(&[one]), how(0, 1, IrqMode::None)), 1, 0);
        assert_eq!(fitted.ecx & (ECX_X2APIC | ECX_TSC_DEADLINE), 0);
        assert_eq!(fitted.edx & EDX_APIC, 0);
        assert_ne!(fitted.ecx & ECX_HYPERVISOR, 0);
    }
}
