// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Eight threads do random operations to one VM for as long as `VM_STRESS_OPS` says (operations in
//! all; a slice if it is not set). No hang, no panic, no state that cannot be left.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::{DESTROY, LIMIT, Machine, busy};
use vm_core::{BoxError, Cancel, Closing, Emt, Intent, Saver, Vm, VmError, Vote};
use vm_emt::Flow;
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, SuspendReason};

const THREADS: u64 = 8;
const SLICE: u64 = 8000;

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

#[test]
fn eight_threads_of_random_operations_neither_hang_nor_break_the_vm() {
    let operations: u64 = match std::env::var("VM_STRESS_OPS") {
        Ok(text) => text.parse().expect("VM_STRESS_OPS is a number"),
        Err(_) => SLICE,
    };
    let machine = Machine::new(busy());
    let vm = machine.create(4);
    vm.power_on().unwrap();
    let (done, effective) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (vm, done, effective) = (&vm, &done, &effective);
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
    machine.log.lock().unwrap().clear();
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}
