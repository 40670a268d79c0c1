// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whichever call of KVM fails in the life of a VM, it ends in an error that names the call, never
//! in a panic, and nothing stays behind.
//!
//! This program has an `ioctl` of its own in front of libc's, so that what is tested is what is
//! shipped. A program of one test, since it counts what the whole process holds.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]
// UNSAFETY: a function with the name and the form of libc's ioctl(2), which passes everything on.
#![expect(unsafe_code, reason = "stands in front of a foreign function")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod kvm_guest;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kvm_guest::{LIMIT, build, engine};
use libc::{c_int, c_ulong};
use vm_core::{Emt, ErrorSummary, Vm, VmSpec};
use vm_cpu::{CpuError, IrqMode, Msi};
use vm_cpu_kvm::KvmEngine;
use vm_state::{ResumeReason, State, SuspendReason};

/// `out 0x80, al; cli; 1: jmp 1b`: leaves once, then never on its own.
const GUEST: &[u8] = &[0xe6, 0x80, 0xfa, 0xeb, 0xfe];

/// More than any mapping that the process has for other reasons.
const GUEST_BYTES: u64 = 512 << 20;

/// The type of KVM's ioctls (Linux, `include/uapi/linux/kvm.h`, `KVMIO`).
const KVMIO: c_ulong = 0xae;

/// How many calls of KVM go through until one fails; below zero: all do.
static LEFT: AtomicI64 = AtomicI64::new(-1);
/// What the one that fails says.
static ERRNO: AtomicI32 = AtomicI32::new(0);
/// The number of the one that failed.
static FAILED: AtomicU64 = AtomicU64::new(0);
/// Panics of any thread.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// ioctl(2): libc's is declared with a variable argument, which arrives where a third one does.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, number: c_ulong, argument: usize) -> c_int {
    let is_kvm = number >> 8 & 0xff == KVMIO;
    if is_kvm && LEFT.load(SeqCst) >= 0 && LEFT.fetch_sub(1, SeqCst) == 0 {
        FAILED.store(number, SeqCst);
        // SAFETY: always points to the calling thread's errno.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        unsafe { *errno = ERRNO.load(SeqCst) };
        return -1;
    }
    // SAFETY: the caller's own call, as it is.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, number, argument) };
    c_int::try_from(result).unwrap_or(-1)
}

/// Threads, file descriptors, and mappings of vCPUs or as large as the guest's memory.
fn held() -> (usize, usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let bytes = |line: &str| -> Option<u64> {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(address(to)? - address(from)?)
    };
    let of_a_vm = |line: &&str| line.contains("anon_inode:kvm") || bytes(line) >= Some(GUEST_BYTES);
    (
        count("/proc/self/task"),
        count("/proc/self/fd"),
        maps.lines().filter(of_a_vm).count(),
    )
}

/// What went wrong in a life, in order.
#[derive(Default)]
struct Said(Vec<String>);

impl Said {
    fn note<E: Error>(&mut self, what: &str, result: Result<(), E>) {
        if let Err(error) = result {
            let mut text = format!("{what}: {error}");
            let mut cause = error.source();
            while let Some(e) = cause {
                text.push_str(&format!(": {e}"));
                cause = e.source();
            }
            self.0.push(text);
        }
    }
}

/// What a save, a restore and the devices ask of KVM.
fn exercise(emt: &mut Emt) -> Result<(), CpuError> {
    let first = emt.id() == 0;
    // EMT 0 has it.
    if let Some(machine) = emt.machine().cloned() {
        machine.set_clock_ns(machine.clock_ns()?)?;
        if emt.spec().irq == IrqMode::Split {
            let msi = Msi {
                addr: 0xfee0_0000,
                data: 0x40,
            };
            machine.route_pins(&[Some(msi)])?;
            machine.deliver_msi(msi)?;
        }
        machine.statistics();
    }
    let mut settled = emt.settled()?;
    let state = settled.state()?;
    settled.set_state(&state)?;
    let start = settled.start()?;
    if first {
        // Another vCPU would run where no firmware is.
        settled.set_start(&start)?;
    }
    Ok(())
}

fn use_vm(vm: &Vm, said: &mut Said) {
    said.note("power on", vm.power_on());
    let exits = || {
        vm.stats()
            .snapshot(&"/emt/0/exits/*".parse().unwrap())
            .used()
    };
    // The guest leaves once by itself; one that died or was suspended need not.
    let end = Instant::now() + LIMIT;
    while vm.state() == State::Running && exits().samples.is_empty() {
        assert!(Instant::now() < end, "the guest never leaves");
        std::thread::yield_now();
    }
    said.note("suspend", vm.suspend(SuspendReason::User));
    for v in 0..2 {
        match vm.on_emt(v, Some(LIMIT), exercise) {
            Ok(result) => said.note("state", result),
            Err(e) => said.note("state", Err(e)),
        }
    }
    said.note("resume", vm.resume(ResumeReason::User));
    said.note("suspend", vm.suspend(SuspendReason::User));
    said.note("soft reset", vm.soft_reset());
    said.note("hard reset", vm.reset());
    said.note("resume", vm.resume(ResumeReason::User));
    said.note("power off", vm.power_off());
    if let Some(report) = vm.guru() {
        said.0.push(report.why);
    }
    let ErrorSummary {
        last, last_runtime, ..
    } = vm.status().errors;
    said.0.extend([last, last_runtime].into_iter().flatten());
}

/// A whole life, whatever fails in it.
fn life(irq: IrqMode) -> Said {
    let mut said = Said::default();
    let spec = VmSpec {
        vcpus: 2,
        memory_bytes: GUEST_BYTES,
        irq,
        ..VmSpec::default()
    };
    let vm = match KvmEngine::open().map(Arc::new) {
        Err(e) => {
            said.note("open", Err(e));
            return said;
        }
        Ok(engine) => build(&engine, GUEST, spec),
    };
    match vm {
        Err(e) => said.note("create", Err(e)),
        Ok(vm) => {
            use_vm(&vm, &mut said);
            vm.destroy(Duration::from_secs(60)).unwrap();
            assert_eq!(vm.state(), State::Terminated);
        }
    }
    said
}

/// How an error names the call with this number (Linux, `include/uapi/linux/kvm.h`); no name: that it
/// fails is no error.
fn names(number: u64) -> &'static [&'static str] {
    match number & 0xff {
        0x00 => &["/dev/kvm", "KVM API version"],
        0x01 => &["KVM_CREATE_VM"],
        0x02 => &["KVM_GET_MSR_INDEX_LIST"],
        // Of the size of the run page, which kvm-ioctls asks for when it makes the VM.
        0x04 => &["KVM_CREATE_VM"],
        0x05 => &["KVM_GET_SUPPORTED_CPUID"],
        0x41 => &["KVM_CREATE_VCPU"],
        0x46 => &["KVM_SET_USER_MEMORY_REGION"],
        0x47 => &["KVM_SET_TSS_ADDR"],
        0x48 => &["KVM_SET_IDENTITY_MAP_ADDR"],
        0x6a => &["KVM_SET_GSI_ROUTING"],
        0x7b => &["KVM_SET_CLOCK"],
        0x7c => &["KVM_GET_CLOCK"],
        0x80 => &["KVM_RUN", "guest memory", "host memory"],
        0x81 => &["KVM_GET_REGS"],
        0x82 => &["KVM_SET_REGS"],
        0x83 => &["KVM_GET_SREGS"],
        0x84 => &["KVM_SET_SREGS"],
        0x88 => &["KVM_GET_MSRS"],
        0x89 => &["KVM_SET_MSRS"],
        0x8e => &["KVM_GET_LAPIC"],
        0x8f => &["KVM_SET_LAPIC"],
        0x90 => &["KVM_SET_CPUID2"],
        0x91 => &["KVM_GET_CPUID2"],
        0x98 => &["KVM_GET_MP_STATE"],
        0x99 => &["KVM_SET_MP_STATE"],
        0x9f => &["KVM_GET_VCPU_EVENTS"],
        0xa0 => &["KVM_SET_VCPU_EVENTS"],
        0xa1 => &["KVM_GET_DEBUGREGS"],
        0xa2 => &["KVM_SET_DEBUGREGS"],
        // One number, told apart by the size of the argument.
        0xa3 if number >> 16 == 0 => &["KVM_GET_TSC_KHZ"],
        0xa3 => &["KVM_ENABLE_CAP"],
        0xa4 | 0xcf => &["KVM_GET_XSAVE"],
        0xa5 if number >> 16 & 0x3fff == 0x20 => &["KVM_SIGNAL_MSI"],
        0xa5 => &["KVM_SET_XSAVE"],
        0xa6 => &["KVM_GET_XCRS"],
        0xa7 => &["KVM_SET_XCRS"],
        0xbe => &["KVM_GET_NESTED_STATE"],
        0xbf => &["KVM_SET_NESTED_STATE"],
        0xcc => &["KVM_GET_SREGS2"],
        0xcd => &["KVM_SET_SREGS2"],
        0xe1 => &["KVM_SET_DEVICE_ATTR"],
        0xe2 => &["KVM_GET_DEVICE_ATTR"],
        // A capability that is not there, and statistics and attributes that are not.
        0x03 | 0xce | 0xe3 => &[],
        _ => panic!("call {number:#x} has no name here: add it"),
    }
}

#[test]
fn whichever_call_of_kvm_fails_the_error_names_it_and_nothing_stays_behind() {
    if engine().is_none() {
        return;
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        usual(info);
    }));
    for irq in [IrqMode::None, IrqMode::Split] {
        let Said(said) = life(irq);
        assert!(said.is_empty(), "nothing fails: {said:#?}");
        let before = held();
        assert_eq!(before.2, 0, "mappings of a VM that is gone");
        // Which of them a call may fail with is not ours to know: an errno that means something to
        // us, and one that does not.
        for errnos in [
            &[libc::EIO][..],
            &[libc::ENOMEM, libc::EINVAL, libc::EFAULT],
        ] {
            let calls = walk(irq, before, errnos);
            assert!(calls > 100, "{calls} calls in a life");
        }
    }
}

/// Fails each call of a life in a life of its own; how many there are.
fn walk(irq: IrqMode, before: (usize, usize, usize), errnos: &[i32]) -> i64 {
    for (n, errno) in (0..).zip(errnos.iter().cycle()) {
        ERRNO.store(*errno, SeqCst);
        FAILED.store(0, SeqCst);
        LEFT.store(n, SeqCst);
        let Said(said) = life(irq);
        LEFT.store(-1, SeqCst);
        let failed = FAILED.load(SeqCst);
        let at = format!("{irq:?}, errno {errno}, call {n}, {failed:#x}: {said:#?}");
        assert_eq!(PANICS.load(SeqCst), 0, "{at}");
        // A thread that was joined may be listed a moment longer.
        let end = Instant::now() + LIMIT;
        while held() != before && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(held(), before, "{at}");
        if failed == 0 {
            return n;
        }
        let names = names(failed);
        let named = said
            .iter()
            .any(|text| names.iter().any(|name| text.contains(name)));
        // Some calls may fail unseen: see `names`. What is said then is about something else.
        assert!(named || names.is_empty(), "{at}");
    }
    unreachable!("a life ends")
}
