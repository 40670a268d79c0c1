// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guest memory as KVM memory slots.
// UNSAFETY: KVM_SET_USER_MEMORY_REGION makes host memory reachable for a guest. It stays mapped as
// long as the VM can run, because every vCPU and the machine hold the `GuestRam`.
#![expect(unsafe_code, reason = "KVM maps host memory into the guest")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_cpu::{CpuError, GuestRam};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::errno::host_error;

/// Gives the VM one slot for each region of `ram`, which the caller keeps as long as a vCPU of the
/// VM exists.
pub(crate) fn map(vm: &VmFd, ram: &GuestRam) -> Result<(), CpuError> {
    for (slot, region) in (0..).zip(ram.iter()) {
        set_slot(vm, slot, region)?;
    }
    Ok(())
}

fn set_slot<B: Bitmap>(vm: &VmFd, slot: u32, region: &GuestRegionMmap<B>) -> Result<(), CpuError> {
    let slot = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr().addr() as u64,
    };
    // SAFETY: the range is a mapping of its own that the caller keeps, and all access to it on our
    // side goes through vm-memory's volatile accesses.
    unsafe { vm.set_user_memory_region(slot) }
        .map_err(|e| host_error("KVM_SET_USER_MEMORY_REGION", None, e))
}
