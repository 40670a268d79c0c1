// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Does the host execute guest kernels, or interpret them?
//!
//! Some nested KVMs run 64-bit user code on the processor and interpret everything else at one or
//! two million instructions per second: enough for small guests, hopeless for Linux. No capability
//! tells, so a loop in 64-bit kernel mode is timed: two instructions, a million times, which takes a
//! processor half a millisecond, an emulated one four and an interpreter a second; it gets ten.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vm_cpu::x86::{Gprs, Segment, Start, SystemRegs, Table};
use vm_cpu::{CpuError, Entry, Exit, IrqMode, MachineSpec, RamLayout, Vcpu};
use vm_memory::{Bytes, GuestAddress};

use crate::KvmEngine;

/// How the host executes a guest's kernel mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestSpeed {
    /// On the processor.
    Native,
    /// By an interpreter in the host's kernel.
    Interpreted,
}

const ROUNDS: u64 = 1_000_000;
/// Below this many rounds in a microsecond it is an interpreter: those seen do 0.9, an emulated
/// processor 250, on a crowded host 10, a real one 2000.
const NATIVE_ROUNDS_PER_US: u64 = 3;
const LIMIT: Duration = Duration::from_millis(10);
/// A busy host may take the processor away for as long as the limit; not every time.
const TRIES: u32 = 4;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
const RAM_BYTES: u64 = 0x5000;
/// `mov ecx, ROUNDS` is done by the register; then `1: dec rcx; jnz 1b; hlt`.
const PROGRAM: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4];

pub(crate) fn probe(engine: &KvmEngine) -> Result<GuestSpeed, CpuError> {
    let ram = RamLayout { bytes: RAM_BYTES }.allocate()?;
    let write = |at: u64, bytes: &[u8]| {
        let fail = |e| CpuError::Invalid {
            what: "speed probe".into(),
            why: format!("{e}"),
        };
        ram.write_slice(bytes, GuestAddress(at)).map_err(fail)
    };
    // Present, writable; the third level maps 2 MiB at once, which every processor can.
    write(PML4, &(PDPT | 3).to_le_bytes())?;
    write(PDPT, &(PD | 3).to_le_bytes())?;
    write(PD, &0x83_u64.to_le_bytes())?;
    write(CODE, &PROGRAM)?;
    let spec = MachineSpec {
        vcpus: 1,
        irq: IrqMode::None,
        ..MachineSpec::default()
    };
    let mut vcpu = engine.machine(&spec, &ram)?.vcpu(0)?;
    for _ in 0..TRIES {
        if is_native(&mut vcpu)? {
            return Ok(GuestSpeed::Native);
        }
    }
    Ok(GuestSpeed::Interpreted)
}

fn is_native(vcpu: &mut impl Vcpu) -> Result<bool, CpuError> {
    vcpu.settled()?.set_start(&start())?;
    let kick = vcpu.kicker()?;
    let done = (Mutex::new(false), Condvar::new());
    let (exit, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let finished = done.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = done
                .1
                .wait_timeout_while(finished, LIMIT, |finished| !*finished);
            drop(waited);
            kick.kick();
        });
        let begin = Instant::now();
        let exit = vcpu.run(Entry::Go);
        let took = begin.elapsed();
        *done.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        done.1.notify_all();
        (exit, took)
    });
    let left = vcpu.settled()?.start()?.gprs.rcx;
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let rounds = ROUNDS.saturating_sub(left);
    // A host that leaves in another way cannot run even this: it runs no kernel.
    let ran = matches!(exit?, Exit::Halt { .. } | Exit::Kicked);
    Ok(ran && rounds / micros >= NATIVE_ROUNDS_PER_US)
}

fn start() -> Start {
    let code = Segment {
        selector: 8,
        base: 0,
        limit: u32::MAX,
        attributes: 0xa09b,
    };
    let data = Segment {
        selector: 16,
        base: 0,
        limit: u32::MAX,
        attributes: 0xc093,
    };
    let tr = Segment {
        selector: 0,
        base: 0,
        limit: 0x67,
        attributes: 0x8b,
    };
    let unused = Segment {
        attributes: 0x1_0000,
        ..Segment::default()
    };
    Start {
        gprs: Gprs {
            rip: CODE,
            rcx: ROUNDS,
            rflags: 2,
            ..Gprs::default()
        },
        system: SystemRegs {
            cs: code,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr,
            ldt: unused,
            gdt: Table::default(),
            idt: Table::default(),
            // Protection, extension type, numeric errors, paging.
            cr0: 0x8000_0031,
            cr2: 0,
            cr3: PML4,
            // PAE.
            cr4: 0x20,
            cr8: 0,
            // Long mode, enabled and active.
            efer: 0x500,
            apic_base: 0,
        },
    }
}
