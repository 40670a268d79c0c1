// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The page that KVM and one vCPU's thread talk through (KVM API, section 5).
//!
//! It is mapped once and only reached through raw pointers. No reference to `kvm_run` or to a part
//! of it exists, with one exception: `immediate_exit` is an `AtomicU8`, because a kick stores to it
//! from another thread at any time. All other fields are for the vCPU's thread alone: they are
//! methods of [`RunPage`], of which there is one for each mapping and which is not `Sync`; what other
//! threads hold is a [`Mapping`], which offers nothing but the atomic.
// UNSAFETY: mmap(2), munmap(2) and raw pointer accesses inside the mapping, whose bounds are checked
// here before each access.
#![expect(unsafe_code, reason = "the run page is memory shared with the kernel")]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{KVM_SYNC_X86_REGS, kvm_regs, kvm_run, kvm_sync_regs};

/// The mapping, alive as long as anyone may store to it.
#[derive(Debug)]
pub(crate) struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Kernel,
    #[cfg(test)]
    Heap,
}

// SAFETY: through a shared `Mapping` only the atomic byte can be reached.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Not 0: `KVM_RUN` finishes the pending exit, then fails with `EINTR` before guest code runs.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: in bounds, since the constructors make the mapping at least a `kvm_run` long.
        let byte = unsafe { self.at.add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: valid for the life of `self`, aligned, and nothing on our side accesses this byte
        // in another way; the kernel only reads it.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match self.backing {
            // SAFETY: our own mapping, unmapped once, and `self` was the last to reach it.
            Backing::Kernel => unsafe {
                libc::munmap(self.at.as_ptr().cast(), self.bytes);
            },
            #[cfg(test)]
            // SAFETY: made in `fake` with the same layout.
            Backing::Heap => unsafe {
                std::alloc::dealloc(self.at.as_ptr(), fake_layout(self.bytes));
            },
        }
    }
}

/// The fields that belong to the vCPU's thread.
#[derive(Debug)]
pub(crate) struct RunPage {
    mapping: Arc<Mapping>,
    /// Not `Sync`: two threads must not access fields at once.
    owner: PhantomData<Cell<()>>,
}

macro_rules! field {
    ($name:ident: $type:ty, $($path:tt)+) => {
        pub(crate) fn $name(&self) -> $type {
            <$type>::from_ne_bytes(self.load(offset_of!(kvm_run, $($path)+)))
        }
    };
}

impl RunPage {
    /// Maps the page of a vCPU; `bytes` from `KVM_GET_VCPU_MMAP_SIZE`.
    pub(crate) fn map(vcpu: &impl AsRawFd, bytes: usize) -> io::Result<Self> {
        if bytes < size_of::<kvm_run>() {
            return Err(io::Error::other(
                "the run page is shorter than the structure in it",
            ));
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, fd) = (libc::MAP_SHARED, vcpu.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, 0) };
        let at = NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED);
        let at = at.ok_or_else(io::Error::last_os_error)?;
        Ok(Self::new(Mapping {
            at,
            bytes,
            backing: Backing::Kernel,
        }))
    }

    fn new(mapping: Mapping) -> Self {
        Self {
            mapping: Arc::new(mapping),
            owner: PhantomData,
        }
    }

    /// What a kick needs.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Reads `N` bytes. A place outside the page, which the kernel never gives, reads as zeros.
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        if !self.holds(offset, N) {
            return [0; N];
        }
        // SAFETY: `holds` says that offset + N is inside the mapping.
        let from = unsafe { self.mapping.at.add(offset) };
        // SAFETY: valid for N bytes, alignment 1. The kernel writes only during `KVM_RUN`, which the
        // owner of `self` is not in; other threads only touch `immediate_exit`, which no caller names.
        unsafe { from.cast::<[u8; N]>().read_volatile() }
    }

    /// Writes `N` bytes; outside the page, nothing.
    fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        if !self.holds(offset, N) {
            return;
        }
        // SAFETY: `holds` says that offset + N is inside the mapping.
        let to = unsafe { self.mapping.at.add(offset) };
        // SAFETY: as in `load`.
        unsafe { to.cast::<[u8; N]>().write_volatile(bytes) }
    }

    fn holds(&self, offset: usize, length: usize) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.mapping.bytes)
    }

    field!(exit_reason: u32, exit_reason);
    field!(if_flag: u8, if_flag);
    field!(internal_suberror: u32, __bindgen_anon_1.internal.suberror);
    field!(internal_first: u64, __bindgen_anon_1.internal.data);
    field!(entry_failure: u64, __bindgen_anon_1.fail_entry.hardware_entry_failure_reason);
    field!(eoi_vector: u8, __bindgen_anon_1.eoi.vector);
    field!(fault_address: u64, __bindgen_anon_1.memory_fault.gpa);
    /// RIP as of the last exit, if [`RunPage::want_registers`] was asked for.
    pub(crate) fn rip(&self) -> u64 {
        const AT: usize =
            offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, regs) + offset_of!(kvm_regs, rip);
        u64::from_ne_bytes(self.load(AT))
    }

    /// Has KVM leave the general registers in the page at each exit (KVM API, section 6,
    /// `KVM_CAP_SYNC_REGS`).
    pub(crate) fn want_registers(&self) {
        let general = u64::from(KVM_SYNC_X86_REGS);
        self.store(offset_of!(kvm_run, kvm_valid_regs), general.to_ne_bytes());
    }

    field!(event_type: u32, __bindgen_anon_1.system_event.type_);
    field!(io_direction: u8, __bindgen_anon_1.io.direction);
    field!(io_size: u8, __bindgen_anon_1.io.size);
    field!(io_port: u16, __bindgen_anon_1.io.port);
    field!(io_count: u32, __bindgen_anon_1.io.count);
    field!(io_data_offset: u64, __bindgen_anon_1.io.data_offset);
    field!(mmio_address: u64, __bindgen_anon_1.mmio.phys_addr);
    field!(mmio_length: u32, __bindgen_anon_1.mmio.len);
    field!(mmio_is_write: u8, __bindgen_anon_1.mmio.is_write);

    /// The accessed bytes, little-endian; those behind `mmio_length` mean nothing.
    pub(crate) fn mmio_data(&self) -> u64 {
        u64::from_le_bytes(self.load(offset_of!(kvm_run, __bindgen_anon_1.mmio.data)))
    }

    pub(crate) fn set_mmio_data(&self, value: u64) {
        self.store(
            offset_of!(kvm_run, __bindgen_anon_1.mmio.data),
            value.to_le_bytes(),
        );
    }

    pub(crate) fn set_exit_reason(&self, reason: u32) {
        self.store(offset_of!(kvm_run, exit_reason), reason.to_ne_bytes());
    }

    pub(crate) fn set_request_interrupt_window(&self, wanted: u8) {
        self.store(offset_of!(kvm_run, request_interrupt_window), [wanted]);
    }

    /// Without an interrupt controller in the kernel, `KVM_RUN` takes CR8 from here.
    pub(crate) fn set_cr8(&self, value: u64) {
        self.store(offset_of!(kvm_run, cr8), value.to_ne_bytes());
    }

    /// A port item of `size` (1, 2 or 4) bytes at `offset`.
    pub(crate) fn io_item(&self, offset: usize, size: u8) -> u32 {
        match size {
            1 => u32::from(u8::from_le_bytes(self.load(offset))),
            2 => u32::from(u16::from_le_bytes(self.load(offset))),
            _ => u32::from_le_bytes(self.load(offset)),
        }
    }

    /// Answers a port item; higher bytes of `value` are dropped.
    pub(crate) fn set_io_item(&self, offset: usize, size: u8, value: u64) {
        let [a, b, c, d, ..] = value.to_le_bytes();
        match size {
            1 => self.store(offset, [a]),
            2 => self.store(offset, [a, b]),
            _ => self.store(offset, [a, b, c, d]),
        }
    }

    /// Whether `length` bytes at `offset` lie in the page.
    pub(crate) fn has(&self, offset: usize, length: usize) -> bool {
        self.holds(offset, length)
    }
}

#[cfg(test)]
fn fake_layout(bytes: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(bytes, 4096).expect("a page size is a valid layout")
}

#[cfg(test)]
impl RunPage {
    /// A page of zeros that no kernel knows.
    fn fake(bytes: usize) -> Self {
        assert!(bytes >= size_of::<kvm_run>());
        // SAFETY: the size is not zero.
        let at = unsafe { std::alloc::alloc_zeroed(fake_layout(bytes)) };
        let at = NonNull::new(at).expect("the test host has memory");
        Self::new(Mapping {
            at,
            bytes,
            backing: Backing::Heap,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn port_items_keep_their_size_and_neighbours() {
        let page = RunPage::fake(2 * PAGE);
        page.set_io_item(PAGE, 4, 0x1122_3344_5566_7788);
        page.set_io_item(PAGE + 1, 1, 0xaabb);
        assert_eq!(page.io_item(PAGE, 4), 0x5566_bb88);
        assert_eq!(page.io_item(PAGE + 4, 4), 0);
    }

    #[test]
    fn an_item_across_the_end_reads_as_zero_and_is_not_written() {
        let page = RunPage::fake(PAGE);
        page.set_io_item(PAGE - 1, 1, 0xff);
        page.set_io_item(PAGE - 1, 2, 0x1234);
        assert_eq!(page.io_item(PAGE - 1, 2), 0);
        assert_eq!(page.io_item(PAGE - 1, 1), 0xff);
        assert_eq!(page.io_item(usize::MAX, 4), 0);
    }

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        // Offsets of Linux's include/uapi/linux/kvm.h, struct kvm_run.
        let page = RunPage::fake(PAGE);
        page.set_request_interrupt_window(1);
        page.mapping().immediate_exit().store(2, SeqCst);
        page.set_exit_reason(7);
        page.set_cr8(0xf);
        assert_eq!(page.load(0), [1, 2]);
        assert_eq!(page.load(8), [7, 0, 0, 0]);
        assert_eq!(page.load(16), [0xf, 0, 0, 0, 0, 0, 0, 0]);
        page.set_mmio_data(0x0807_0605_0403_0201);
        assert_eq!(page.load(40), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_kick_from_another_thread_and_field_accesses_do_not_disturb_each_other() {
        let page = RunPage::fake(PAGE);
        let mapping = Arc::clone(page.mapping());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..100 {
                    mapping.immediate_exit().fetch_or(1, SeqCst);
                }
            });
            for i in 0..100 {
                page.set_exit_reason(i);
                page.set_request_interrupt_window(1);
                assert_eq!(page.exit_reason(), i);
            }
        });
        assert_eq!(page.mapping().immediate_exit().swap(0, SeqCst), 1);
    }

    #[test]
    fn the_mapping_outlives_the_vcpus_part() {
        let page = RunPage::fake(PAGE);
        let mapping = Arc::clone(page.mapping());
        drop(page);
        mapping.immediate_exit().store(1, SeqCst);
        assert_eq!(mapping.immediate_exit().load(SeqCst), 1);
    }
}
