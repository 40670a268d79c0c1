// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which model-specific registers are part of a vCPU's state, and their way in and out.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_cpu::CpuError;
use vm_cpu::x86::Msr;

use crate::errno::{host_error, invalid};

pub(crate) const TSC: u32 = 0x10;
pub(crate) const MISC_ENABLE: u32 = 0x1a0;
pub(crate) const MTRR_DEF_TYPE: u32 = 0x2ff;
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;
/// Hyper-V's MSRs: not offered to guests, and some of them tick.
const HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;

/// Memory type ranges, which KVM emulates and does not list (Intel SDM vol. 3, section 12.11).
const MTRRS: [std::ops::RangeInclusive<u32>; 5] = [
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    MTRR_DEF_TYPE..=MTRR_DEF_TYPE,
];

/// The MSRs to save: what KVM lists, the MTRRs, except the TSC, which is a field of its own, and Hyper-V's. The
/// TSC deadline is last, because it can only be set once the LAPIC's timer is in that mode.
pub(crate) fn saved(kvm: &Kvm) -> Result<Vec<u32>, CpuError> {
    let list = kvm
        .get_msr_index_list()
        .map_err(|e| host_error("KVM_GET_MSR_INDEX_LIST", None, e))?;
    let mut list = list.as_slice().to_vec();
    list.extend(MTRRS.into_iter().flatten());
    list.retain(|index| *index != TSC && !HYPERV.contains(index));
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|index| seen.insert(*index));
    list.sort_by_key(|index| *index == TSC_DEADLINE);
    Ok(list)
}

/// Reads `indices`, leaving out those that this vCPU does not have.
pub(crate) fn read(fd: &VcpuFd, vcpu: u32, indices: &[u32]) -> Result<Vec<Msr>, CpuError> {
    let fail = |e| host_error("KVM_GET_MSRS", Some(vcpu), e);
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let entry = |index: &u32| kvm_msr_entry {
            index: *index,
            ..kvm_msr_entry::default()
        };
        let entries: Vec<_> = batch.iter().map(entry).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| fail(too_many()))?;
        let done = fd.get_msrs(&mut msrs).map_err(|e| fail(e.into()))?;
        let read = msrs.as_slice().iter().take(done);
        values.extend(read.map(|entry| Msr {
            index: entry.index,
            value: entry.data,
        }));
        // KVM stops at the first MSR that it cannot read: go on behind it.
        let skip = if done < batch.len() { done + 1 } else { done };
        rest = &rest[skip..];
    }
    Ok(values)
}

/// Sets `msrs` in order. A refusal counts only if the MSR does not have the value already: KVM lets
/// some be read that it does not let be set, such as those of paravirtual features that need a LAPIC
/// in a machine without.
pub(crate) fn write(fd: &VcpuFd, vcpu: u32, msrs: &[Msr]) -> Result<(), CpuError> {
    let fail = |e| host_error("KVM_SET_MSRS", Some(vcpu), e);
    let mut rest = msrs;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let entry = |m: &Msr| kvm_msr_entry {
            index: m.index,
            data: m.value,
            reserved: 0,
        };
        let entries: Vec<_> = batch.iter().map(entry).collect();
        let list = Msrs::from_entries(&entries).map_err(|_| fail(too_many()))?;
        let done = fd.set_msrs(&list).map_err(|e| fail(e.into()))?;
        let Some(refused) = batch.get(done) else {
            rest = &rest[batch.len()..];
            continue;
        };
        if !read(fd, vcpu, &[refused.index])?.contains(refused) {
            return invalid(
                &format!("msrs[{:#x}]", refused.index),
                format!("KVM refuses the value {:#x}", refused.value),
            );
        }
        rest = &rest[done + 1..];
    }
    Ok(())
}

fn too_many() -> std::io::Error {
    std::io::Error::other("more MSRs than fit a list")
}
