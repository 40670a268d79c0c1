// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eight threads do random operations to one VM for as long as `VM_STRESS_OPS` says (operations in
//! all; a slice if it is not set), on scripted vCPUs and on KVM. No hang, no panic, no state that
//! cannot be left.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::{DESTROY, LIMIT, Machine, PORT_GIVE_WAY, spec};
use vm_core::{BoxError, Cancel, Closing, Emt, Intent, Saver, Vm, VmError, Vote};
use vm_cpu::GuestRam;
use vm_cpu::script::{Script, ScriptEngine};
use vm_cpu::x86::Start;
use vm_cpu_kvm::KvmEngine;
use vm_emt::Flow;
use vm_memory::{Bytes, GuestAddress};
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, SuspendReason};

const THREADS: u64 = 8;
const SLICE: u64 = 2000;

struct Quick;

impl Saver for Quick {
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
    fn pass(&mut self, pass: u32, _: &Cancel) -> Result<Vote, BoxError> {
        Ok(if pass < 2 { Vote::Again } else { Vote::Done })
    }
    fn finish(&mut self, emt: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        emt.settled()?.state()?;
        Ok(())
    }
    fn close(&mut self, _: Closing) -> Result<(), BoxError> {
        Ok(())
    }
}

fn operation(vm: &Vm, number: u64) -> Result<(), VmError> {
    let vcpu = u32::try_from(number / 16 % 4).unwrap();
    match number % 16 {
        0..=2 => vm.suspend(SuspendReason::User),
        3..=6 => vm.resume(ResumeReason::User),
        7 => vm.reset(),
        8 => vm.save(&mut Quick, Intent::Snapshot).map(drop),
        9 => vm.meet(How::together(), |_| Ok(Flow::Continue)),
        10 => vm.meet(How::once(), |_| Ok(Flow::Look)),
        11 => vm.report(Duration::from_secs(60)).map(drop),
        12 => {
            let _ = vm.cancel_save();
            Ok(())
        }
        13 => vm.meet(How::ascending().into(), |_| Ok(Flow::Continue)),
        _ => vm.on_emt(vcpu, LIMIT, |emt| {
            emt.settled().map(drop).map_err(|source| VmError::Cpu {
                op: "settle",
                source,
            })
        })?,
    }
}

/// Operations in all.
fn operations() -> u64 {
    match std::env::var("VM_STRESS_OPS") {
        Ok(text) => text.parse().expect("VM_STRESS_OPS is a number"),
        Err(_) => SLICE,
    }
}

fn storm(vm: &Vm) {
    let operations = operations();
    vm.power_on().unwrap();
    let (done, effective) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (done, effective) = (&done, &effective);
            scope.spawn(move || {
                let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while done.fetch_add(1, SeqCst) < operations {
                    number ^= number << 13;
                    number ^= number >> 7;
                    number ^= number << 17;
                    match operation(vm, number >> 8) {
                        Ok(()) => drop(effective.fetch_add(1, SeqCst)),
                        Err(VmError::Refused { .. } | VmError::Save { .. }) => {}
                        Err(other) => panic!("{other:?} in {}", vm.state()),
                    }
                }
            });
        }
    });
    assert!(
        effective.load(SeqCst) > operations / 4,
        "most operations were refused"
    );
    assert!(
        matches!(vm.state(), State::Running | State::Suspended),
        "{}",
        vm.state()
    );
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn eight_threads_of_random_operations_neither_hang_nor_break_a_scripted_vm() {
    // Two that have to be kicked out of the guest, and two that have to be woken. Without giving way
    // now and then, the two keep two processors from the threads that are to meet.
    let works = Script::new()
        .work(1000)
        .pio_write(PORT_GIVE_WAY, 1, 0)
        .forever();
    let idle = || Script::new().work(50).halt_for_good();
    let engine = ScriptEngine::new(works).vcpu(2, idle()).vcpu(3, idle());
    let machine = Machine::with(engine);
    storm(&machine.create(4));
}

/// Works for ever in real mode, and gives way now and then:
/// `cli; 1: mov cx, 1000; 2: loop 2b; out 0x80, al; jmp 1b`.
fn work(ram: &GuestRam) -> Result<Option<Start>, BoxError> {
    const CODE: u64 = 0x1000;
    let code = [0xfa, 0xb9, 0xe8, 3, 0xe2, 0xfe, 0xe6, 0x80, 0xeb, 0xf7];
    ram.write_slice(&code, GuestAddress(CODE))?;
    Ok(Some(Start::real_mode(CODE)))
}

#[test]
fn eight_threads_of_random_operations_neither_hang_nor_break_a_vm_on_kvm() {
    let engine = match KvmEngine::open() {
        Ok(engine) => Arc::new(engine),
        Err(e) => {
            println!("skipped: {e}");
            return;
        }
    };
    // The devices and ports of the scripted machine.
    let mut parts = Machine::new(Script::new()).parts();
    parts.engine = engine;
    parts.firmware = Box::new(work);
    storm(&Vm::create(spec(4), parts).unwrap());
}
