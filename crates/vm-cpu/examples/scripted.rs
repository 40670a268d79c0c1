// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs a scripted vCPU in a loop that is nobody's but this example's, and prints each exit.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use vm_cpu::script::{Script, ScriptEngine};
use vm_cpu::{CpuError, Engine, Entry, Exit, MachineSpec, RamLayout};

fn main() -> Result<(), CpuError> {
    let script = Script::new()
        .work(1000)
        .pio_write(0x3f8, 1, u32::from(b'A'))
        .pio_expect(0x3fd, 1, 0x60)
        .mmio_write(0xfec0_0000, 4, 0x10)
        .halt();
    let engine = ScriptEngine::new(script);
    let ram = RamLayout { bytes: 1 << 20 }.allocate()?;
    let machine = engine.create(
        &MachineSpec {
            vcpus: 1,
            ..MachineSpec::default()
        },
        &ram,
    )?;
    let mut vcpu = machine.create_vcpu(0)?;

    // A kick made now is seen at the first entry, so the halted guest below does not hold us.
    let kick = vcpu.kicker()?;
    let mut entry = Entry::Go;
    for _ in 0..5 {
        let exit = vcpu.run(entry)?;
        println!("{:<10} {exit:?}", exit.name());
        entry = if matches!(exit, Exit::PioRead { .. }) {
            Entry::Data(0x60)
        } else {
            Entry::Go
        };
        if matches!(exit, Exit::MmioWrite { .. }) {
            kick.kick();
        }
        if exit == Exit::Kicked {
            break;
        }
    }
    if vcpu.settle(entry)?.is_none() {
        let state = vcpu.settled()?.state()?;
        println!(
            "settled at step {}, hash {:#x}",
            state.gprs.rip, state.gprs.rax
        );
    }
    println!("units executed: {}", engine.progress(0).work());
    Ok(())
}
