// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guests of a few bytes on KVM, for the tests of the whole composition.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at what it did not expect, and says what it skipped"
)]

use std::sync::Arc;
use std::time::Duration;

use vm_core::{BoxError, Built, Parts, Vm, VmError, VmSpec};
use vm_cpu::IrqMode;
use vm_cpu::x86::Start;
use vm_cpu_kvm::KvmEngine;
use vm_devices::{DebugExit, PostPort};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{BusBuilder, Devices};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const CODE: u64 = 0x1000;
const STACK: u64 = 0x8000;
/// `cli; 1: jmp 1b`: never leaves on its own.
pub(crate) const SPIN: &[u8] = &[0xfa, 0xeb, 0xfe];

pub(crate) fn engine() -> Option<Arc<KvmEngine>> {
    match KvmEngine::open() {
        Ok(engine) => Some(Arc::new(engine)),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

pub(crate) fn create(engine: &Arc<KvmEngine>, code: &'static [u8], irq: IrqMode, vcpus: u32) -> Vm {
    let spec = VmSpec {
        vcpus,
        memory_bytes: 1 << 20,
        irq,
        ..VmSpec::default()
    };
    build(engine, code, spec).unwrap()
}

pub(crate) fn build(
    engine: &Arc<KvmEngine>,
    code: &'static [u8],
    spec: VmSpec,
) -> Result<Vm, VmError> {
    let mut parts = Parts::bare(engine.clone());
    parts.board = Box::new(|_| {
        let (mut bus, mut devices) = (BusBuilder::new(), Devices::new());
        let (exit, post) = (DebugExit::new(0xf4), PostPort::new());
        exit.attach(&mut bus)?;
        post.attach(&mut bus)?;
        devices.add(exit)?;
        devices.add(post)?;
        Ok(Built {
            devices,
            buses: bus.build(),
            eoi: None,
        })
    });
    parts.firmware = Box::new(move |ram| {
        ram.write_slice(code, GuestAddress(CODE))
            .map_err(|e| Box::new(e) as BoxError)?;
        let mut start = Start::real_mode(CODE);
        start.gprs.rsp = STACK;
        Ok(Some(start))
    });
    Vm::create(spec, parts)
}
