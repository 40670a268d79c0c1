// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Pauses, looks, resumes, stops: the loop after the port.

mod kick;
mod vmm;

use std::sync::Arc;
use std::time::Duration;

use port_your_pause::{Fallible, Guest, kvm_opens};

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Fallible<()> {
    if !kvm_opens() {
        return Ok(());
    }
    let guest = Arc::new(Guest::new(2)?);
    let vm = vmm::Vm::start(&guest)?;
    guest.see_it_run();
    let held = vm.pause(LIMIT)?.held;
    let counts = (guest.progress(0), guest.progress(1));
    let rip = vm.call(1, LIMIT, |me| me.vcpu.get_regs().map(|regs| regs.rip))??;
    println!("{held} vCPUs paused; vCPU 1 is at {rip:#x}");
    vm.meet(LIMIT, |me| println!("vCPU {} meets", me.bell.id()))?;
    assert_eq!(counts, (guest.progress(0), guest.progress(1)), "nobody ran");
    vm.resume();
    guest.see_it_run();
    vm.stop();
    println!("stopped");
    Ok(())
}
