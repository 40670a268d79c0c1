// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Machines on KVM come and go without a trace. Alone in its process, because it counts what the
//! whole process has.

use vm_cpu::{Engine, Entry, Exit, IrqMode, MachineSpec, RamLayout};
use vm_cpu_kvm::KvmEngine;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("procfs is there")
        .count()
}

/// Run pages, by the name the kernel gives their file, and all mappings.
fn mappings() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs is there");
    (maps.matches("kvm-vcpu").count(), maps.lines().count())
}

fn cycle(engine: &KvmEngine, irq: IrqMode) {
    let ram = RamLayout { bytes: 1 << 20 }
        .allocate()
        .expect("the host has a MiB");
    let machine = engine.create(
        &MachineSpec {
            vcpus: 4,
            irq,
            ..MachineSpec::default()
        },
        &ram,
    );
    let machine = machine.expect("KVM makes a machine");
    let mut vcpus: Vec<_> = (0..4)
        .map(|id| machine.create_vcpu(id).expect("a vCPU"))
        .collect();
    for vcpu in &mut vcpus {
        vcpu.kicker().expect("a kick").kick();
        assert_eq!(vcpu.run(Entry::Go).expect("enters"), Exit::Kicked);
    }
}

#[test]
fn a_hundred_machines_leave_no_file_and_no_mapping_behind() {
    let engine = match KvmEngine::open() {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    // The first one makes the allocator and the signal handler do what they do once.
    cycle(&engine, IrqMode::Split);
    let (files, (_, all)) = (open_files(), mappings());
    for round in 0..100 {
        cycle(
            &engine,
            if round % 2 == 0 {
                IrqMode::None
            } else {
                IrqMode::Split
            },
        );
    }
    let (run_pages, all_after) = mappings();
    assert_eq!((open_files(), run_pages), (files, 0));
    // Guest memory: one mapping a machine. The allocator may split or join a few of its own.
    assert!(
        all_after < all + 50,
        "{all} mappings before, {all_after} after"
    );
}
