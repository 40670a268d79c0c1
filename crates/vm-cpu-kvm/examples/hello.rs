// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs a 16-bit guest that says hello at COM1, where there is a KVM to run it.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use vm_cpu::x86::{Gprs, Start};
use vm_cpu::{Entry, Exit, IrqMode, Machine, MachineSpec, RamLayout};
use vm_cpu_kvm::KvmEngine;
use vm_memory::{Bytes, GuestAddress};

/// `mov si, 0x100d; mov dx, 0x3f8; mov cx, 5; rep outsb; hlt`, then the text.
const PROGRAM: &[u8] = b"\xbe\x0d\x10\xba\xf8\x03\xb9\x06\x00\xf3\x6e\xf4\x90hello\n";
const AT: u64 = 0x1000;

fn main() -> Result<(), Box<dyn Error>> {
    let engine = match KvmEngine::open() {
        Ok(engine) => engine,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    println!("guest kernels on this host: {:?}", engine.speed_probe()?);

    let ram = RamLayout { bytes: 0x1_0000 }.allocate()?;
    ram.write_slice(PROGRAM, GuestAddress(AT))?;
    let spec = MachineSpec {
        vcpus: 1,
        irq: IrqMode::None,
        ..MachineSpec::default()
    };
    let mut vcpu = engine.machine(&spec, &ram)?.create_vcpu(0)?;

    // From the reset vector to address 0x1000: same registers, code segment at 0.
    let mut settled = vcpu.settled()?;
    let mut system = settled.start()?.system;
    system.cs.base = 0;
    system.cs.selector = 0;
    settled.set_start(&Start {
        gprs: Gprs {
            rip: AT,
            rflags: 2,
            ..Gprs::default()
        },
        system,
    })?;

    let mut text = String::new();
    let exit = loop {
        let exit = vcpu.run(Entry::Go)?;
        let Exit::PioWrite {
            port: 0x3f8, value, ..
        } = exit
        else {
            break exit;
        };
        text.push(u8::try_from(value).map_or('?', char::from));
    };
    print!("{text}");
    println!("the guest left with {exit:?}");
    Ok(())
}
