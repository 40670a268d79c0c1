// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Wherever the creation of a VM fails, nothing of it stays.
//!
//! One test, since it counts what the whole process holds.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "common/hooked.rs"]
mod hooked;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use common::{DESTROY, Machine, busy, spec};
use hooked::{Hooked, Hooks};
use vm_core::{Component, Emt, Outcome, Parts, Round, Vm, VmError, VmSpec};
use vm_cpu::CpuError;

/// Times each failure is provoked.
const TIMES: u32 = 50;

/// More than any mapping that the process has for other reasons.
const GUEST_BYTES: u64 = 512 << 20;

/// Threads, file descriptors, and mappings as large as the guest's memory.
fn held() -> (usize, usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let bytes = |line: &str| -> Option<u64> {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(address(to)? - address(from)?)
    };
    let large = |line: &&str| bytes(line) >= Some(GUEST_BYTES);
    (
        count("/proc/self/task"),
        count("/proc/self/fd"),
        maps.lines().filter(large).count(),
    )
}

/// Where a creation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nowhere,
    Memory,
    Machine,
    Vcpu(u32),
    Board,
    Init(usize),
    Constructed(usize),
    Frozen(usize),
    Firmware,
}

const VCPUS: u32 = 3;
const EXTRAS: usize = 2;

impl Step {
    fn pass(&self, step: Self) -> Result<(), CpuError> {
        if *self != step {
            return Ok(());
        }
        Err(CpuError::Host {
            op: "KVM_CREATE",
            vcpu: None,
            source: std::io::Error::other("no"),
        })
    }
}

impl Hooks for Step {
    fn machine(&self) -> Result<(), CpuError> {
        self.pass(Self::Machine)
    }
    fn vcpu(&self, id: u32) -> Result<(), CpuError> {
        self.pass(Self::Vcpu(id))
    }
}

/// A component that holds a descriptor and memory while it is up.
struct Holder {
    name: String,
    at: usize,
    step: Step,
    held: Option<(std::fs::File, Vec<u8>)>,
}

impl Holder {
    fn fails(&self, step: Step) -> Outcome {
        if self.step == step {
            return Err("no".into());
        }
        Ok(())
    }
}

impl Component for Holder {
    fn name(&self) -> &str {
        &self.name
    }
    fn init(&mut self, _: &mut Emt) -> Outcome {
        self.fails(Step::Init(self.at))?;
        self.held = Some((std::fs::File::open("/dev/null")?, vec![0; 4096]));
        Ok(())
    }
    fn init_completed(&mut self, _: &mut Emt, round: Round) -> Outcome {
        self.fails(match round {
            Round::Constructed => Step::Constructed(self.at),
            Round::Frozen => Step::Frozen(self.at),
        })
    }
    fn term(&mut self, _: &mut Emt) {
        self.held.take().expect("it is up once");
    }
}

fn create(step: Step) -> Result<Vm, VmError> {
    let machine = Machine::new(busy());
    let mut parts: Parts = machine.parts();
    parts.engine = Arc::new(Hooked {
        inner: Arc::clone(&machine.engine),
        hooks: Arc::new(step),
    });
    if step == Step::Board {
        parts.board = Box::new(|_| Err("no".into()));
    }
    machine.firmware_fails.store(step == Step::Firmware, SeqCst);
    parts.extra.extend((0..EXTRAS).map(|at| {
        Box::new(Holder {
            name: format!("c{at}"),
            at,
            step,
            held: None,
        }) as Box<dyn Component>
    }));
    let memory_bytes = if step == Step::Memory {
        // More than an address can name.
        1 << 60
    } else {
        GUEST_BYTES
    };
    let spec = VmSpec {
        memory_bytes,
        ..spec(VCPUS)
    };
    Vm::create(spec, parts)
}

/// Every step at which a creation can fail, in order.
fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Memory, Step::Machine];
    steps.extend((0..VCPUS).map(Step::Vcpu));
    steps.push(Step::Board);
    steps.extend((0..EXTRAS).map(Step::Init));
    steps.push(Step::Firmware);
    steps.extend((0..EXTRAS).map(Step::Constructed));
    steps.extend((0..EXTRAS).map(Step::Frozen));
    steps
}

#[test]
fn sd_v01_wherever_a_creation_fails_no_thread_descriptor_or_mapping_stays() {
    let life = || {
        let vm = create(Step::Nowhere).unwrap();
        vm.power_on().unwrap();
        vm.power_off().unwrap();
        vm.destroy(DESTROY).unwrap();
    };
    life();
    let before = held();
    assert_eq!(before.2, 0, "mappings of a VM that is gone");
    for step in steps() {
        for _ in 0..TIMES {
            let failed = create(step);
            assert!(
                matches!(failed, Err(VmError::Component(_))),
                "{step:?}: {failed:?}"
            );
        }
        // A thread that was joined may be listed a moment longer.
        let end = Instant::now() + DESTROY;
        while held() != before && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(held(), before, "{step:?}");
    }
    life();
}
