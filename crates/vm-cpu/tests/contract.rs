// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The contract suite on scripted vCPUs.

use std::sync::Arc;

use vm_cpu::contract::{self, Fixture, Op, VECTOR_PORT};
use vm_cpu::script::{ApStart, Fault, Script, ScriptEngine, Step};
use vm_cpu::x86::{Bit, Gprs, Start};
use vm_cpu::{CpuError, Engine, IrqMode, Machine, MachineSpec, RamLayout, Vcpu};

struct Scripts;

fn step(op: &Op) -> Step {
    match *op {
        Op::Out { port, size, value } => Step::PioWrite { port, size, value },
        Op::In { port, size } => Step::PioRead {
            port,
            size,
            expect: None,
        },
        Op::Echo { port, size } => Step::Echo { port, size },
        Op::OutString { port, bytes } => {
            let values = bytes.iter().copied().map(u32::from).collect();
            Step::PioWriteEach {
                port,
                size: 1,
                values,
            }
        }
        Op::InString { port, count } => Step::PioReadEach {
            port,
            size: 1,
            count: count.into(),
        },
        Op::MmioWrite { addr, size, value } => Step::MmioWrite {
            addr,
            size,
            value: value.into(),
        },
        Op::MmioRead { addr, size } => Step::MmioRead {
            addr,
            size,
            expect: None,
        },
        Op::InterruptsOn => Step::Interrupts(Bit::Set),
        Op::InterruptsOff => Step::Interrupts(Bit::Clear),
        Op::Halt => Step::Halt,
        Op::TripleFault => Step::Fault(Fault::Shutdown),
        Op::Spin => Step::Work(u64::MAX),
    }
}

impl Fixture for Scripts {
    fn machine(
        &self,
        irq: IrqMode,
        vcpus: u32,
        program: &[Op],
    ) -> Result<Arc<dyn Machine>, CpuError> {
        let script = Script::new().report_interrupts(VECTOR_PORT);
        let script = program.iter().map(step).fold(script, Script::then);
        let ram = RamLayout { bytes: 4096 }.allocate()?;
        let spec = MachineSpec {
            vcpus,
            irq,
            ..MachineSpec::default()
        };
        ScriptEngine::new(script)
            .aps(ApStart::AfterSipi)
            .create(&spec, &ram)
    }

    fn start(&self, _: IrqMode, vcpu: &mut dyn Vcpu) -> Result<(), CpuError> {
        let gprs = Gprs {
            rflags: 2,
            ..Gprs::default()
        };
        vcpu.settled()?.set_start(&Start {
            gprs,
            ..Start::default()
        })
    }

    fn sipi_vector(&self) -> u8 {
        1
    }
}

#[test]
fn scripted_vcpus_keep_the_contract() {
    contract::check_all(&Scripts);
}
