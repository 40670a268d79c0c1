// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The contract suite on KVM, with guests in 16-bit real mode, which every KVM runs.

use std::sync::Arc;

use vm_cpu::contract::{self, Fixture, MMIO_BASE, Op, VECTOR_PORT};
use vm_cpu::{CpuError, Engine, IrqMode, Machine, MachineSpec, RamLayout, Vcpu};
use vm_cpu_kvm::KvmEngine;
use vm_memory::{Bytes, GuestAddress};

/// Where things are. The program is on a page of its own, so that a start-up IPI can start it.
const PROGRAM: u16 = 0x1000;
const HANDLERS: u16 = 0x2000;
const HANDLER_BYTES: u16 = 32;
const STRINGS: u16 = 0x5000;
const LAST_READ: u16 = 0x6000;
const BUFFER: u16 = 0x6010;
const NO_IDT: u16 = 0x6030;
const STACK: u64 = 0x8000;
const LAPIC: u64 = 0xfee0_0000;

struct Assembler {
    code: Vec<u8>,
    strings: Vec<u8>,
}

impl Assembler {
    fn put(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn put_word(&mut self, opcode: &[u8], word: u16) {
        self.put(opcode);
        self.put(&word.to_le_bytes());
    }

    /// `in` or `out`, by their 8-bit opcode, with the port in DX.
    fn port(&mut self, byte_opcode: u8, port: u16, size: u8) {
        self.put_word(&[0xba], port);
        match size {
            1 => self.put(&[byte_opcode]),
            2 => self.put(&[byte_opcode + 1]),
            _ => self.put(&[0x66, byte_opcode + 1]),
        }
    }

    /// `mov` between EAX and FS:offset, by its 8-bit opcode. FS begins at `MMIO_BASE`.
    fn mmio(&mut self, byte_opcode: u8, addr: u64, size: u8) {
        let offset = u16::try_from(addr - MMIO_BASE).expect("the suite stays in 64 KiB");
        match size {
            1 => self.put_word(&[0x64, byte_opcode], offset),
            2 => self.put_word(&[0x64, byte_opcode + 1], offset),
            _ => self.put_word(&[0x66, 0x64, byte_opcode + 1], offset),
        }
    }

    fn load_eax(&mut self, value: u32) {
        self.put(&[0x66, 0xb8]);
        self.put(&value.to_le_bytes());
    }

    fn keep_eax(&mut self) {
        self.put_word(&[0x66, 0xa3], LAST_READ);
    }

    fn op(&mut self, op: &Op) {
        match *op {
            Op::Out { port, size, value } => {
                self.load_eax(value);
                self.port(0xee, port, size);
            }
            Op::In { port, size } => {
                self.load_eax(0);
                self.port(0xec, port, size);
                self.keep_eax();
            }
            Op::Echo { port, size } => {
                self.put_word(&[0x66, 0xa1], LAST_READ);
                self.port(0xee, port, size);
            }
            Op::OutString { port, bytes } => {
                let at = STRINGS + u16::try_from(self.strings.len()).expect("short");
                self.strings.extend_from_slice(bytes);
                self.put_word(&[0xbe], at);
                self.put_word(&[0xb9], u16::try_from(bytes.len()).expect("short"));
                self.put_word(&[0xba], port);
                self.put(&[0xf3, 0x6e]);
            }
            Op::InString { port, count } => {
                self.put_word(&[0xbf], BUFFER);
                self.put_word(&[0xb9], count.into());
                self.put_word(&[0xba], port);
                self.put(&[0xf3, 0x6c]);
                self.load_eax(0);
                self.put_word(&[0xa0], BUFFER + u16::from(count) - 1);
                self.keep_eax();
            }
            Op::MmioWrite { addr, size, value } => {
                self.load_eax(value);
                self.mmio(0xa2, addr, size);
            }
            Op::MmioRead { addr, size } => {
                self.load_eax(0);
                self.mmio(0xa0, addr, size);
                self.keep_eax();
            }
            Op::InterruptsOn => self.put(&[0xfb]),
            Op::InterruptsOff => self.put(&[0xfa]),
            Op::Halt => self.put(&[0xf4]),
            Op::Spin => self.put(&[0xeb, 0xfe]),
            Op::TripleFault => {
                // Protected mode with an empty IDT (`lidt [NO_IDT]`), then `ud2`.
                self.put_word(&[0x0f, 0x01, 0x1e], NO_IDT);
                self.put(&[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x0b]);
            }
        }
    }
}

/// `push eax; mov al, vector; out VECTOR_PORT, al; [EOI;] pop eax; iret`. GS begins at the LAPIC.
fn handler(irq: IrqMode, vector: u8) -> Vec<u8> {
    let port = VECTOR_PORT.to_le_bytes()[0];
    let mut code = vec![0x66, 0x50, 0xb0, vector, 0xe6, port];
    if irq == IrqMode::Split {
        code.extend_from_slice(&[0x66, 0x31, 0xc0, 0x65, 0x66, 0xa3, 0xb0, 0x00]);
    }
    code.extend_from_slice(&[0x66, 0x58, 0xcf]);
    code
}

struct OnKvm(KvmEngine);

impl Fixture for OnKvm {
    fn machine(
        &self,
        irq: IrqMode,
        vcpus: u32,
        program: &[Op],
    ) -> Result<Arc<dyn Machine>, CpuError> {
        let ram = RamLayout { bytes: 0x1_0000 }.allocate()?;
        let write = |at: u16, bytes: &[u8]| {
            ram.write_slice(bytes, GuestAddress(at.into()))
                .expect("inside guest memory");
        };
        let mut assembler = Assembler {
            code: Vec::new(),
            strings: Vec::new(),
        };
        program.iter().for_each(|op| assembler.op(op));
        write(PROGRAM, &assembler.code);
        write(STRINGS, &assembler.strings);
        for vector in 0..=255_u8 {
            let at = HANDLERS + u16::from(vector) * HANDLER_BYTES;
            write(at, &handler(irq, vector));
            write(u16::from(vector) * 4, &at.to_le_bytes());
        }
        let spec = MachineSpec {
            vcpus,
            irq,
            ..MachineSpec::default()
        };
        self.0.create(&spec, &ram)
    }

    fn start(&self, irq: IrqMode, vcpu: &mut dyn Vcpu) -> Result<(), CpuError> {
        let mut settled = vcpu.settled()?;
        let mut state = settled.state()?;
        (state.system.cs.base, state.system.cs.selector) = (0, 0);
        state.system.fs.base = MMIO_BASE;
        state.system.gs.base = LAPIC;
        state.gprs.rip = PROGRAM.into();
        state.gprs.rsp = STACK;
        state.activity = vm_cpu::x86::Activity::Running;
        if let (IrqMode::Split, Some(page)) = (irq, &mut state.lapic) {
            // Spurious interrupt vector register: software enable.
            page[0xf0..0xf4].copy_from_slice(&0x1ff_u32.to_le_bytes());
        }
        settled.set_state(&state)
    }

    fn sipi_vector(&self) -> u8 {
        (PROGRAM >> 12).to_le_bytes()[0]
    }
}

#[test]
fn vcpus_in_kvm_keep_the_contract() {
    match KvmEngine::open() {
        Ok(engine) => contract::check_all(&OnKvm(engine)),
        Err(why) => eprintln!("skipped: {why}"),
    }
}
