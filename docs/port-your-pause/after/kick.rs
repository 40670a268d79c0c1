// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kick: `immediate_exit`, then a signal. Neither alone is enough.

use std::io::Error;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering::SeqCst, fence};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use port_your_pause::Fallible;
use vm_emt::Kick;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// One vCPU's way out of the guest, and its bar before the way in.
#[derive(Debug)]
pub struct Door {
    /// A mapping of the run page beside the one of kvm-ioctls, whose `run` makes a `&mut kvm_run`
    /// that a store from another thread must not alias.
    page: NonNull<u8>,
    tid: AtomicI32,
}

// SAFETY: only the atomic byte is reached through the page.
unsafe impl Send for Door {}
// SAFETY: as above.
unsafe impl Sync for Door {}

extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Door {
    pub fn new(vcpu: &VcpuFd) -> Fallible<Self> {
        register_signal_handler(SIGRTMIN(), on_kick)?;
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, vcpu.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(null_mut(), size_of::<kvm_run>(), access, libc::MAP_SHARED, fd, 0)
        };
        if page == libc::MAP_FAILED {
            return Err(Error::last_os_error().into());
        }
        let page = NonNull::new(page.cast()).ok_or("mapped at 0")?;
        Ok(Self { page, tid: AtomicI32::new(0) })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as `self`.
        let byte = unsafe { self.page.add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: valid and aligned; the kernel only reads it.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    /// From here on kicks signal this thread. Before `install_kick`.
    pub fn opens_on_this_thread(&self) {
        // SAFETY: takes nothing, cannot fail.
        self.tid.store(unsafe { libc::gettid() }, SeqCst);
    }

    /// The vCPU is out. A kick after this bars the next entry: one exit too many, none too few.
    pub fn shut(&self) {
        self.immediate_exit().store(0, SeqCst);
    }
}

impl Kick for Door {
    fn kick(&self) {
        self.immediate_exit().store(1, SeqCst); // before KVM_RUN this keeps it out
        fence(SeqCst);
        let (pid, tid) = (std::process::id(), self.tid.load(SeqCst));
        // SAFETY: takes integers. Should the thread have ended and its number be in use again, it is
        // a thread of ours, whose system call ends early.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, SIGRTMIN()) }; // in KVM_RUN this gets it out
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<kvm_run>()) };
    }
}
