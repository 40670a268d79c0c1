// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Pauses, looks, resumes, stops: the loop before the port.

mod vmm;

use std::sync::Arc;
use std::time::Duration;

use port_your_pause::{Fallible, Guest, kvm_opens};

fn main() -> Fallible<()> {
    if !kvm_opens() {
        return Ok(());
    }
    let guest = Arc::new(Guest::new(2)?);
    let vm = vmm::Vm::start(&guest)?;
    guest.see_it_run();
    vm.pause();
    let rip = Box::new(|vcpu: &kvm_ioctls::VcpuFd| vcpu.get_regs().map_or(0, |regs| regs.rip));
    match vm.call(1, Duration::from_secs(1), rip) {
        Ok(rip) => println!("vCPU 1 is at {rip:#x}"),
        Err(error) => println!("vCPU 1 did not answer: {error}"),
    }
    let met = vm.meet(Duration::from_secs(1), Arc::new(|_| ()));
    println!("met: {met:?}");
    vm.resume();
    vm.stop();
    Ok(())
}
