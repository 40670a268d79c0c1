// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A VM on scripted vCPUs, from create to destroy, with an observer that prints every state.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use vm_core::{Parts, Vm, VmSpec};
use vm_cpu::script::{Script, ScriptEngine};
use vm_state::{ResumeReason, SuspendReason};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Arc::new(ScriptEngine::new(Script::new().work(1000).forever()));
    let spec = VmSpec {
        vcpus: 4,
        memory_bytes: 1 << 20,
        ..VmSpec::default()
    };
    let vm = Vm::create(spec, Parts::bare(engine.clone()))?;
    let _watch = vm.observe(|change| {
        println!(
            "{:>2}. {} -> {} ({})",
            change.sequence, change.old, change.new, change.cause
        );
    });
    vm.power_on()?;
    let name = vm.on_emt(2, None, |emt| {
        format!("hello from the EMT of vCPU {}", emt.id())
    })?;
    println!("{name}");
    vm.suspend(SuspendReason::User)?;
    let before = engine.progress(0).work();
    println!("suspended: {} units of guest work done", before);
    vm.resume(ResumeReason::User)?;
    vm.reset()?;
    println!(
        "after {} reset(s), threads {:?}",
        vm.status().hard_resets,
        vm.status().tids
    );
    vm.power_off()?;
    vm.destroy(Duration::from_secs(5))?;
    Ok(())
}
