// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What both programs share and a port does not change: a VM whose vCPUs count in guest memory.

use std::error::Error;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// What goes wrong here is printed, not handled.
pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CODE: u64 = 0x1000;
const COUNTERS: u64 = 0x2000;
const RAM_BYTES: usize = 0x4000;
/// Bytes between the counters of two vCPUs.
const STRIDE: u64 = 64;
/// Real mode: `inc dword [di]; jmp` back to it. It never leaves the guest by itself.
const PROGRAM: [u8; 5] = [0x66, 0xff, 0x05, 0xeb, 0xfb];

/// Called on a vCPU's thread just before KVM_RUN.
pub type EntryHook = Arc<dyn Fn() + Send + Sync>;

/// The VM without its vCPUs.
pub struct Guest {
    vm: VmFd,
    hooks: Box<[Mutex<Option<EntryHook>>]>,
    memory: GuestMemoryMmap,
    /// How many vCPUs it is to have.
    pub vcpus: u32,
}

impl Guest {
    /// A VM with its memory.
    pub fn new(vcpus: u32) -> Fallible<Self> {
        let vm = Kvm::new()?.create_vm()?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_BYTES)])?;
        memory.write_slice(&PROGRAM, GuestAddress(CODE))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: RAM_BYTES as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
        };
        // SAFETY: the memory is mapped as long as the VM exists; a thread that runs a vCPU holds both.
        unsafe { vm.set_user_memory_region(region) }?;
        let hooks = (0..vcpus).map(|_| Mutex::default()).collect();
        Ok(Self { vm, hooks, memory, vcpus })
    }

    /// vCPU `v`, about to count.
    pub fn vcpu(&self, v: u32) -> Fallible<VcpuFd> {
        let vcpu = self.vm.create_vcpu(v.into())?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs)?;
        let mut regs = vcpu.get_regs()?;
        (regs.rip, regs.rflags, regs.rdi) = (CODE, 2, counter(v));
        vcpu.set_regs(&regs)?;
        Ok(vcpu)
    }

    /// How far vCPU `v` has counted.
    pub fn progress(&self, v: u32) -> u32 {
        self.memory.load(GuestAddress(counter(v)), SeqCst).unwrap_or(0)
    }

    /// Where kicks get lost: the loops call this before KVM_RUN, and the kit may look in.
    pub fn at_door(&self, v: u32) {
        let hook = self.hooks[v as usize].lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook();
        }
    }

    /// Has `hook` called there.
    pub fn set_hook(&self, v: u32, hook: EntryHook) {
        *self.hooks[v as usize].lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// Lets the guests run for a moment.
    pub fn see_it_run(&self) {
        let before = self.progress(0);
        while self.progress(0) == before {
            std::thread::yield_now();
        }
    }
}

fn counter(v: u32) -> u64 {
    COUNTERS + STRIDE * u64::from(v)
}

/// Whether there is KVM; says so if not.
pub fn kvm_opens() -> bool {
    match Kvm::new() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: no KVM ({error})");
            false
        }
    }
}
