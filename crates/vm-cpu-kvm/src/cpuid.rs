// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The CPUID a vCPU answers with: the host's, masked to what a machine has.
//!
//! The topology is one package of single-threaded cores, said in every leaf that a guest may read it
//! from, because guests disagree which one they believe.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
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
const ECX_CMP_LEGACY: u32 = 1 << 1;

/// Whose leaves a guest believes about its topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// AMD, and Hygon, which follows it.
    Amd,
    Other,
}

impl Maker {
    fn of(vendor: Option<&kvm_cpuid_entry2>) -> Self {
        // The first four letters of the name.
        match vendor.map(|entry| entry.ebx.to_le_bytes()) {
            Some([b'A', b'u', b't', b'h'] | [b'H', b'y', b'g', b'o']) => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// The entries for one vCPU, from what the machine's CPU model has.
pub(crate) fn fit(model: &[kvm_cpuid_entry2], how: Fit) -> Vec<kvm_cpuid_entry2> {
    let mut entries = model.to_vec();
    // The first two are rebuilt below. AMD's extended topology would be believed before all others
    // (APM vol. 3, appendix E), and says nothing that they do not.
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026));
    let vendor = model.iter().find(|e| e.function == 0);
    let highest = vendor.map_or(0, |e| e.eax);
    let maker = Maker::of(vendor);
    for entry in &mut entries {
        fit_entry(entry, how);
        if maker == Maker::Amd {
            fit_amd(entry, how);
        }
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
        _ => {}
    }
}

/// AMD's own leaves (APM vol. 3, appendix E); elsewhere these bits are reserved.
fn fit_amd(entry: &mut kvm_cpuid_entry2, how: Fit) {
    let Fit { id, vcpus, .. } = how;
    match entry.function {
        // That what leaf 1 counts are cores, not threads.
        0x8000_0001 => {
            entry.ecx &= !ECX_CMP_LEGACY;
            if vcpus > 1 {
                entry.ecx |= ECX_CMP_LEGACY;
            }
        }
        // The count of cores and the width of core IDs.
        0x8000_0008 => {
            let cores = vcpus.min(0xff);
            entry.ecx = (entry.ecx & !0xf0ff) | (cores - 1) | core_bits(vcpus) << 12;
        }
        // Caches.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if (entry.eax >> 5) & 7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & 0x3fff) | sharing.min(0xfff) << 14;
        }
        // Extended APIC ID; core ID, one thread each; one node.
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
mod tests;
