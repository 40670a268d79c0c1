// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What making a machine on KVM refuses, and what the engine tells about its host.
#![expect(
    clippy::print_stderr,
    reason = "a test that needs KVM says when it is skipped"
)]

use vm_cpu::{CpuError, Engine, MachineSpec, Msi, RamLayout};
use vm_cpu_kvm::{KvmEngine, Need};

fn engine() -> Option<KvmEngine> {
    KvmEngine::open()
        .inspect_err(|why| eprintln!("skipped: {why}"))
        .ok()
}

#[test]
fn more_vcpus_than_the_host_has_room_for_are_refused() {
    let Some(engine) = engine() else { return };
    let ram = RamLayout { bytes: 4096 }
        .allocate()
        .expect("the host has a page");
    for vcpus in [0, 255, u32::MAX] {
        let refusal = engine.create(
            &MachineSpec {
                vcpus,
                ..MachineSpec::default()
            },
            &ram,
        );
        let text = refusal.map_or_else(|e| e.to_string(), |_| "accepted".into());
        assert!(text.starts_with("vcpus: "), "{text}");
    }
}

#[test]
fn more_pins_than_the_ioapic_has_are_refused() {
    let Some(engine) = engine() else { return };
    let ram = RamLayout { bytes: 4096 }
        .allocate()
        .expect("the host has a page");
    let spec = MachineSpec {
        vcpus: 1,
        ..MachineSpec::default()
    };
    let machine = engine.create(&spec, &ram).expect("a machine");
    let pin = Some(Msi {
        addr: 0xfee0_0000,
        data: 0x8030,
    });
    assert!(machine.route_pins(&[pin; 24]).is_ok());
    let refusal = machine.route_pins(&[pin; 25]);
    assert!(
        matches!(refusal, Err(CpuError::Invalid { .. })),
        "{refusal:?}"
    );
}

#[test]
fn a_host_that_opens_has_all_that_every_machine_needs() {
    let Some(engine) = engine() else { return };
    let missing = |cap: &&vm_cpu_kvm::Capability| cap.need != Need::Optional && !cap.present();
    let missing: Vec<_> = engine.host().capabilities.iter().filter(missing).collect();
    let made = engine.host().check(vm_cpu::IrqMode::Split).is_ok();
    assert_eq!(made, missing.is_empty(), "{missing:?}");
}

#[test]
fn the_speed_of_guests_can_be_told() {
    let Some(engine) = engine() else { return };
    let speed = engine.speed_probe();
    assert!(speed.is_ok(), "{speed:?}");
}

#[test]
fn a_signal_that_the_process_handles_is_not_taken() {
    // The runtime handles SIGSEGV, to tell a stack overflow.
    let refusal = KvmEngine::with_signal(11).map(|_| ());
    if KvmEngine::probe().is_ok() {
        let text = refusal.map_or_else(|e| e.to_string(), |()| "accepted".into());
        assert!(text.starts_with("signal 11: "), "{text}");
    }
}
