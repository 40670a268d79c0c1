// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ioctls that kvm-ioctls has not, or has in a form this crate cannot use: `KVM_RUN` without a
//! `&mut kvm_run`, and state blobs as plain bytes.
// UNSAFETY: ioctl(2) with a pointer or without argument. Each function passes a buffer of at least
// the size that the kernel reads or writes, and the kernel keeps no pointer.
#![expect(unsafe_code, reason = "ioctl(2) is a foreign function")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_interrupt, kvm_sregs2, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use libc::{Ioctl, c_void};

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// Length of the fixed part of an XSAVE image (`struct kvm_xsave`).
pub(crate) const XSAVE_BYTES: usize = size_of::<kvm_xsave>();
/// Length of the header of a nested state (`struct kvm_nested_state` without data).
pub(crate) const NESTED_HEADER_BYTES: usize = 128;

const RUN: Ioctl = number(NONE, 0x80, 0);
const API_VERSION: Ioctl = number(NONE, 0x00, 0);
const INTERRUPT: Ioctl = number(WRITE, 0x86, size_of::<kvm_interrupt>());
const GET_TSC_KHZ: Ioctl = number(NONE, 0xa3, 0);
const GET_XSAVE: Ioctl = number(READ, 0xa4, XSAVE_BYTES);
const SET_XSAVE: Ioctl = number(WRITE, 0xa5, XSAVE_BYTES);
const GET_NESTED_STATE: Ioctl = number(READ | WRITE, 0xbe, NESTED_HEADER_BYTES);
const SET_NESTED_STATE: Ioctl = number(WRITE, 0xbf, NESTED_HEADER_BYTES);
const GET_SREGS2: Ioctl = number(READ, 0xcc, size_of::<kvm_sregs2>());
const SET_SREGS2: Ioctl = number(WRITE, 0xcd, size_of::<kvm_sregs2>());
const GET_STATS_FD: Ioctl = number(NONE, 0xce, 0);
const GET_XSAVE2: Ioctl = number(READ, 0xcf, XSAVE_BYTES);
const SET_DEVICE_ATTR: Ioctl = number(WRITE, 0xe1, size_of::<kvm_device_attr>());
const GET_DEVICE_ATTR: Ioctl = number(WRITE, 0xe2, size_of::<kvm_device_attr>());
const HAS_DEVICE_ATTR: Ioctl = number(WRITE, 0xe3, size_of::<kvm_device_attr>());

/// An ioctl number (Linux, `include/uapi/asm-generic/ioctl.h`) of the KVM range.
#[expect(clippy::cast_possible_truncation, reason = "sizes are below 2^14")]
const fn number(direction: u32, nr: u32, size: usize) -> Ioctl {
    (direction << 30 | (size as u32) << 16 | 0xae << 8 | nr) as Ioctl
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn call(fd: &impl AsRawFd, number: Ioctl, argument: *mut c_void) -> io::Result<()> {
    // SAFETY: private to this file; each caller passes null where the ioctl takes no argument, else
    // a pointer to a live buffer as long as the kernel uses.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) })
}

/// Enters the guest. The exit is in the run page.
pub(crate) fn run(vcpu: &VcpuFd) -> io::Result<()> {
    call(vcpu, RUN, std::ptr::null_mut())
}

/// The API version, or why the file is not KVM's.
pub(crate) fn api_version(kvm: &Kvm) -> io::Result<i32> {
    // SAFETY: takes no argument.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), API_VERSION, 0) };
    check(version).map(|()| version)
}

/// How fast the vCPU's TSC is. kvm-ioctls has it, without the reason when it fails.
pub(crate) fn tsc_khz(vcpu: &VcpuFd) -> io::Result<u32> {
    // SAFETY: takes no argument.
    let khz = unsafe { libc::ioctl(vcpu.as_raw_fd(), GET_TSC_KHZ, 0) };
    check(khz)?;
    u32::try_from(khz).map_err(io::Error::other)
}

/// Whether the vCPU's TSC has an offset that can be told and set (`KVM_VCPU_TSC_OFFSET`).
pub(crate) fn has_tsc_offset(vcpu: &VcpuFd) -> bool {
    on_tsc_offset(vcpu, HAS_DEVICE_ATTR, &mut 0).is_ok()
}

/// What KVM adds to the host's TSC, after scaling it, for the guest's.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0;
    on_tsc_offset(vcpu, GET_DEVICE_ATTR, &mut offset)?;
    Ok(offset)
}

pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    on_tsc_offset(vcpu, SET_DEVICE_ATTR, &mut offset)
}

/// The kernel reads or writes `offset`, 8 bytes, through the address in the argument.
fn on_tsc_offset(vcpu: &VcpuFd, number: Ioctl, offset: &mut u64) -> io::Result<()> {
    let mut argument = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw mut *offset).expose_provenance() as u64,
        flags: 0,
    };
    call(vcpu, number, (&raw mut argument).cast())
}

/// The file in which KVM tells what it counts of a VM or a vCPU (`KVM_CAP_BINARY_STATS_FD`).
pub(crate) fn stats_file(fd: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: takes no argument.
    let stats = unsafe { libc::ioctl(fd.as_raw_fd(), GET_STATS_FD, 0) };
    check(stats)?;
    // SAFETY: a descriptor that the kernel made for this call, so nobody else has it.
    Ok(unsafe { File::from_raw_fd(stats) })
}

/// Queues an external interrupt; without an interrupt controller in the kernel it is taken at the
/// next entry whatever RFLAGS.IF is, so the caller looks first.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let mut argument = kvm_interrupt { irq: vector.into() };
    call(vcpu, INTERRUPT, (&raw mut argument).cast())
}

pub(crate) fn sregs2(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut sregs = kvm_sregs2::default();
    call(vcpu, GET_SREGS2, (&raw mut sregs).cast())?;
    Ok(sregs)
}

pub(crate) fn set_sregs2(vcpu: &VcpuFd, mut sregs: kvm_sregs2) -> io::Result<()> {
    call(vcpu, SET_SREGS2, (&raw mut sregs).cast())
}

/// The XSAVE image, `bytes` long as `KVM_CAP_XSAVE2` says: the kernel fixes that length for a VM
/// when its first vCPU is made, and the caller asks for it after that.
pub(crate) fn xsave(vcpu: &VcpuFd, bytes: usize) -> io::Result<Vec<u8>> {
    let mut image = vec![0; bytes.max(XSAVE_BYTES)];
    let get = if image.len() > XSAVE_BYTES {
        GET_XSAVE2
    } else {
        GET_XSAVE
    };
    call(vcpu, get, image.as_mut_ptr().cast())?;
    Ok(image)
}

/// Sets the XSAVE image. `bytes` as for [`xsave`]; an image of another length is refused.
pub(crate) fn set_xsave(vcpu: &VcpuFd, image: &[u8], bytes: usize) -> io::Result<()> {
    if image.len() != bytes.max(XSAVE_BYTES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut copy = image.to_vec();
    call(vcpu, SET_XSAVE, copy.as_mut_ptr().cast())
}

/// The nested state, at most `room` bytes as `KVM_CAP_NESTED_STATE` says.
pub(crate) fn nested_state(vcpu: &VcpuFd, room: usize) -> io::Result<Vec<u8>> {
    let mut state = vec![0; room.max(NESTED_HEADER_BYTES)];
    let size = u32::try_from(state.len()).map_err(io::Error::other)?;
    state[4..8].copy_from_slice(&size.to_ne_bytes());
    call(vcpu, GET_NESTED_STATE, state.as_mut_ptr().cast())?;
    let used = nested_size(&state)
        .unwrap_or(0)
        .clamp(NESTED_HEADER_BYTES, state.len());
    state.truncate(used);
    Ok(state)
}

/// Sets the nested state. Its header's size must be its length, which bounds what the kernel reads.
pub(crate) fn set_nested_state(vcpu: &VcpuFd, state: &[u8]) -> io::Result<()> {
    if state.len() < NESTED_HEADER_BYTES || nested_size(state) != Some(state.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut copy = state.to_vec();
    call(vcpu, SET_NESTED_STATE, copy.as_mut_ptr().cast())
}

fn nested_size(state: &[u8]) -> Option<usize> {
    let bytes = state.get(4..8)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(bytes)).ok()
}
