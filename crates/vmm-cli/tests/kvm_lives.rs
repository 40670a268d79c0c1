// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A hundred lives on KVM leave nothing behind. A program of one test, since it counts what the
//! whole process holds.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod kvm_guest;

use kvm_guest::{LIMIT, SPIN, create, engine};
use vm_cpu::IrqMode;
use vm_state::SuspendReason;

/// Threads and file descriptors of this process.
fn held() -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn a_hundred_lives_on_kvm_leave_no_thread_and_no_descriptor() {
    let Some(engine) = engine() else { return };
    let life = |irq, vcpus| {
        let vm = create(&engine, SPIN, irq, vcpus);
        vm.power_on().unwrap();
        vm.suspend(SuspendReason::User).unwrap();
        vm.power_off().unwrap();
        vm.destroy(LIMIT).unwrap();
    };
    life(IrqMode::Split, 2);
    let before = held();
    for irq in [IrqMode::None, IrqMode::Split] {
        for vcpus in [1, 2] {
            for _ in 0..25 {
                life(irq, vcpus);
            }
            assert_eq!(held(), before, "{irq:?}, {vcpus} vCPUs");
        }
    }
}
