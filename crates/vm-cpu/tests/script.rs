// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What scripted vCPUs add to the contract: work that can be counted, faults, deaf stretches.

use std::sync::Arc;

use vm_cpu::script::{Fault, Gate, MISMATCH, Script, ScriptEngine, Step};
use vm_cpu::x86::{Gprs, Start};
use vm_cpu::{
    CpuError, Engine, Entry, Exit, GuestRam, IrqMode, Machine, MachineSpec, RamLayout, Vcpu,
};
use vm_memory::{Bytes, GuestAddress};

const END: Exit = Exit::Halt {
    interruptible: false,
};

fn bare() -> MachineSpec {
    MachineSpec {
        vcpus: 2,
        irq: IrqMode::None,
        ..MachineSpec::default()
    }
}

fn ram() -> GuestRam {
    RamLayout { bytes: 4096 }
        .allocate()
        .expect("the host has a page")
}

fn machine(engine: &ScriptEngine) -> Arc<dyn Machine> {
    engine.create(&bare(), &ram()).expect("a machine")
}

fn vcpu(engine: &ScriptEngine) -> Box<dyn Vcpu> {
    machine(engine).create_vcpu(0).expect("a vCPU")
}

fn hash(vcpu: &mut dyn Vcpu) -> u64 {
    vcpu.settled()
        .expect("settled")
        .start()
        .expect("readable")
        .gprs
        .rax
}

#[test]
fn work_is_counted_and_hashed_the_same_each_time() {
    let script = Script::new().work(10).repeat(2).deaf(5);
    let (one, two) = (ScriptEngine::new(script.clone()), ScriptEngine::new(script));
    let (mut first, mut second) = (vcpu(&one), vcpu(&two));
    assert_eq!(first.run(Entry::Go).expect("runs"), END);
    assert_eq!(second.run(Entry::Go).expect("runs"), END);
    // Three times ten units; two jumps back, the step that ends the repeats; five units, their step.
    assert_eq!(one.progress(0).work(), 30 + 2 + 1 + 5 + 1);
    assert_eq!(hash(&mut *first), hash(&mut *second));
}

#[test]
fn an_interrupted_run_computes_what_an_uninterrupted_one_does() {
    let script = Script::new().work(50).pio_write(1, 1, 2).work(50);
    let (whole, parts) = (ScriptEngine::new(script.clone()), ScriptEngine::new(script));
    let (mut straight, mut kicked) = (vcpu(&whole), vcpu(&parts));
    assert!(matches!(straight.run(Entry::Go), Ok(Exit::PioWrite { .. })));
    assert_eq!(straight.run(Entry::Go).expect("runs"), END);
    let kick = kicked.kicker().expect("a kick");
    kick.kick();
    assert_eq!(kicked.run(Entry::Go).expect("runs"), Exit::Kicked);
    assert!(matches!(kicked.run(Entry::Go), Ok(Exit::PioWrite { .. })));
    kick.kick();
    assert_eq!(kicked.run(Entry::Go).expect("runs"), Exit::Kicked);
    assert_eq!(kicked.run(Entry::Go).expect("runs"), END);
    assert_eq!(hash(&mut *straight), hash(&mut *kicked));
    assert_eq!(parts.progress(0).kicks(), 2);
}

#[test]
fn each_vcpu_runs_its_own_script() {
    let engine = ScriptEngine::new(Script::new().pio_write(1, 1, 1))
        .vcpu(1, Script::new().pio_write(2, 1, 2));
    let machine = machine(&engine);
    let mut second = machine.create_vcpu(1).expect("a vCPU");
    let exit = second.run(Entry::Go).expect("runs");
    assert_eq!(
        exit,
        Exit::PioWrite {
            port: 2,
            size: 1,
            value: 2
        }
    );
    assert_eq!(
        (engine.progress(0).entries(), engine.progress(1).entries()),
        (0, 1)
    );
}

#[test]
fn a_vcpu_at_a_gate_ignores_kicks_until_it_opens() {
    let gate = Gate::new();
    let engine = ScriptEngine::new(Script::new().never_leave(&gate).work(1));
    let mut vcpu = vcpu(&engine);
    let kick = vcpu.kicker().expect("a kick");
    let progress = engine.progress(0);
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| vcpu.run(Entry::Go).expect("runs"));
        gate.wait_for_arrivals(1);
        kick.kick();
        assert!(progress.in_guest(), "the kick did not end the entry");
        gate.release();
        assert_eq!(inside.join().expect("leaves"), Exit::Kicked);
    });
    assert!(!progress.in_guest());
    assert_eq!(vcpu.run(Entry::Go).expect("runs"), END);
}

#[test]
fn faults_come_as_the_script_says_and_stay() {
    let faults = [
        (Fault::Shutdown, Exit::Shutdown),
        (
            Fault::InternalError(3),
            Exit::InternalError {
                suberror: 3,
                data: 0,
            },
        ),
        (Fault::FailEntry(7), Exit::FailEntry { reason: 7 }),
        (
            Fault::MemoryFault(0x1000),
            Exit::MemoryFault { addr: Some(0x1000) },
        ),
    ];
    for (fault, exit) in faults {
        let mut vcpu = vcpu(&ScriptEngine::new(Script::new().fault(fault)));
        for _ in 0..2 {
            assert_eq!(vcpu.run(Entry::Go).expect("runs"), exit);
        }
    }
}

#[test]
fn a_host_error_comes_once_and_the_guest_goes_on() {
    let mut vcpu = vcpu(&ScriptEngine::new(Script::new().fault(Fault::Host).work(1)));
    let failure = vcpu.run(Entry::Go);
    assert!(
        matches!(failure, Err(CpuError::Host { vcpu: Some(0), .. })),
        "{failure:?}"
    );
    assert_eq!(vcpu.run(Entry::Go).expect("runs"), END);
}

#[test]
fn a_read_that_differs_from_the_scripts_is_an_internal_error() {
    let mut vcpu = vcpu(&ScriptEngine::new(Script::new().pio_expect(0x60, 1, 5)));
    assert!(matches!(vcpu.run(Entry::Go), Ok(Exit::PioRead { .. })));
    let exit = vcpu.run(Entry::Data(6)).expect("runs");
    assert_eq!(
        exit,
        Exit::InternalError {
            suberror: MISMATCH,
            data: 6
        }
    );
}

#[test]
fn stores_reach_guest_memory_and_fault_outside() {
    let engine = ScriptEngine::new(Script::new().store(0x100, 0xfeed).store(0x1_0000, 1));
    let ram = ram();
    let machine = engine.create(&bare(), &ram).expect("a machine");
    let mut vcpu = machine.create_vcpu(0).expect("a vCPU");
    assert_eq!(
        vcpu.run(Entry::Go).expect("runs"),
        Exit::MemoryFault {
            addr: Some(0x1_0000)
        }
    );
    assert_eq!(
        ram.read_obj::<u64>(GuestAddress(0x100)).expect("inside"),
        0xfeed
    );
}

#[test]
fn a_start_beyond_the_script_is_refused_by_name() {
    let mut vcpu = vcpu(&ScriptEngine::new(Script::new().work(1)));
    let gprs = Gprs {
        rip: 2,
        ..Gprs::default()
    };
    let refusal = vcpu.settled().expect("settled").set_start(&Start {
        gprs,
        ..Start::default()
    });
    assert!(matches!(refusal, Err(CpuError::Invalid { what, .. }) if what == "gprs.rip"));
}

#[test]
fn a_string_of_no_items_is_no_exit() {
    let nothing = Step::PioWriteEach {
        port: 1,
        size: 1,
        values: Vec::new(),
    };
    let mut vcpu = vcpu(&ScriptEngine::new(Script::new().then(nothing)));
    assert_eq!(vcpu.run(Entry::Go).expect("runs"), END);
}

#[test]
fn a_machine_without_vcpus_or_with_too_many_is_refused() {
    let engine = ScriptEngine::new(Script::new());
    for vcpus in [0, 1025, u32::MAX] {
        let refusal = engine.create(&MachineSpec { vcpus, ..bare() }, &ram());
        assert!(matches!(refusal, Err(CpuError::Invalid { what, .. }) if what == "vcpus"));
    }
}
