// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where a boot begins.

use vm_cpu::x86::{Start, VcpuState};

#[test]
fn a_start_in_real_mode_is_a_state_that_a_vcpu_can_have() {
    let Start { gprs, system } = Start::real_mode(0x1000);
    let state = VcpuState {
        gprs,
        system,
        ..VcpuState::default()
    };
    assert!(state.validate().is_ok());
    assert_eq!(system.cs.base + gprs.rip, 0x1000);
    assert_eq!(system.cr0 & 1, 0, "protection is off");
    assert_eq!(gprs.rflags & 1 << 9, 0, "interrupts are off");
}
