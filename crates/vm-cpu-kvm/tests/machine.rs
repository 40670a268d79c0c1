// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What making a machine on KVM refuses, and what the engine tells about its host.
#![expect(
    clippy::print_stderr,
    reason = "a test that needs KVM says when it is skipped"
)]

use vm_cpu::x86::Start;
use vm_cpu::{
    Baseline, CpuError, CpuModel, CpuSpec, CpuidRegister, Engine, Entry, Exit, Feature, Features,
    IrqMode, MachineSpec, Msi, RamLayout,
};
use vm_cpu_kvm::{KvmEngine, Need};
use vm_memory::{Bytes, GuestAddress};

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
    let made = engine.host().check(IrqMode::Split).is_ok();
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

/// What a guest reads with CPUID: EAX, EBX, ECX and EDX of subleaf 0.
fn cpuid_in_a_guest(engine: &KvmEngine, cpu: CpuSpec, leaf: u32) -> [u32; 4] {
    const AT: u64 = 0x1000;
    let ram = RamLayout { bytes: 1 << 16 }
        .allocate()
        .expect("the host has 64 KiB");
    let [a, b, c, d] = leaf.to_le_bytes();
    // mov eax, leaf; xor ecx, ecx; cpuid; out 0x10, eax; then each other: mov eax, reg; out 0x10, eax.
    let mut code = vec![
        0x66, 0xb8, a, b, c, d, 0x66, 0x31, 0xc9, 0x0f, 0xa2, 0x66, 0xe7, 0x10,
    ];
    code.extend([0x66, 0x89, 0xd8, 0x66, 0xe7, 0x10]);
    code.extend([0x66, 0x89, 0xc8, 0x66, 0xe7, 0x10]);
    code.extend([0x66, 0x89, 0xd0, 0x66, 0xe7, 0x10, 0xf4]);
    ram.write_slice(&code, GuestAddress(AT)).expect("it fits");
    let spec = MachineSpec {
        vcpus: 1,
        irq: IrqMode::None,
        cpu,
    };
    let machine = engine.create(&spec, &ram).expect("a machine");
    let mut vcpu = machine.create_vcpu(0).expect("a vCPU");
    let mut settled = vcpu.settled().expect("nothing is pending");
    settled.set_start(&Start::real_mode(AT)).expect("real mode");
    let mut next = || match vcpu.run(Entry::Go) {
        Ok(Exit::PioWrite { value, .. }) => value,
        other => panic!("expected a write, found {other:?}"),
    };
    [next(), next(), next(), next()]
}

#[test]
fn a_guest_of_a_baseline_sees_its_features_and_no_more() {
    let Some(engine) = engine() else { return };
    let fits = |b: &Baseline| engine.try_cpu(CpuModel::Baseline(*b).into()).is_ok();
    for baseline in Baseline::ALL.into_iter().filter(fits) {
        for leaf in [1, 7, 0x8000_0001] {
            let cpu = CpuModel::Baseline(baseline).into();
            let [_, seen @ ..] = cpuid_in_a_guest(&engine, cpu, leaf);
            let mask = |register, of: &mut dyn Iterator<Item = Feature>| {
                of.filter(|f| f.leaf == leaf && f.register == register)
                    .fold(0, |mask, f| mask | f.mask())
            };
            // The processor repeats CR4.OSXSAVE in leaf 1, and AMD leaf 1 in 0x80000001.
            let repeated = match leaf {
                1 => [0, 1 << 27, 0],
                7 => [0, 0, 0],
                _ => [0, 0, 0x0183_f3ff],
            };
            let registers = [CpuidRegister::Ebx, CpuidRegister::Ecx, CpuidRegister::Edx];
            for ((seen, register), repeated) in seen.into_iter().zip(registers).zip(repeated) {
                // Leaf 1's EBX and 0x80000001's hold no features.
                if register == CpuidRegister::Ebx && leaf != 7 {
                    continue;
                }
                let must = mask(register, &mut baseline.features());
                let may = must | repeated | mask(register, &mut Baseline::system());
                let name = baseline.name();
                assert_eq!(seen & must, must, "{name} lacks in {leaf:#x} {register:?}");
                assert_eq!(seen & !may, 0, "{name} has more in {leaf:#x} {register:?}");
            }
        }
    }
}

/// On a host whose KVM shows guests the processor's own leaves it is refused, and says so.
#[test]
fn a_guest_does_not_see_a_feature_that_was_taken_away() {
    let Some(engine) = engine() else { return };
    let seen = |cpu: CpuSpec, feature: Feature| {
        let [eax, ebx, ecx, edx] = cpuid_in_a_guest(&engine, cpu, feature.leaf);
        let register = match feature.register {
            CpuidRegister::Eax => eax,
            CpuidRegister::Ebx => ebx,
            CpuidRegister::Ecx => ecx,
            CpuidRegister::Edx => edx,
        };
        register & feature.mask() != 0
    };
    for name in ["sse4_2", "mmx", "avx2", "kvm_pv_eoi", "kvmclock"] {
        let cpu = CpuSpec {
            model: CpuModel::Host,
            without: Features::named(name).expect("it has that name"),
        };
        if let Err(error) = engine.try_cpu(cpu) {
            let text = error.to_string();
            assert!(text.contains("whatever it is told"), "{name}: {text}");
            continue;
        }
        for feature in cpu.without.iter() {
            assert!(!seen(cpu, feature), "{name} is still there");
        }
        let other = Features::named("cx16").expect("it has that name");
        assert!(
            other.iter().all(|other| seen(cpu, other)),
            "without {name} more is gone"
        );
    }
}

#[test]
fn the_hosts_own_model_is_always_there_and_a_baseline_or_why_not() {
    let Some(engine) = engine() else { return };
    engine
        .try_cpu(CpuModel::Host.into())
        .expect("what the host has");
    for baseline in Baseline::ALL {
        if let Err(error) = engine.try_cpu(CpuModel::Baseline(baseline).into()) {
            let text = error.to_string();
            assert!(text.starts_with(&format!("CPU model {}: this host", baseline.name())));
        }
    }
}

#[test]
fn what_the_host_counts_of_each_vcpu_and_of_the_vm_is_read_while_they_live() {
    let Some(engine) = engine() else { return };
    let host = KvmEngine::probe().expect("it opened just now");
    let counts = host
        .capabilities
        .iter()
        .any(|cap| cap.name == "KVM_CAP_BINARY_STATS_FD" && cap.present());
    if !counts {
        eprintln!("skipped: this host's KVM does not count (KVM_CAP_BINARY_STATS_FD)");
        return;
    }
    let ram = RamLayout { bytes: 4096 }
        .allocate()
        .expect("the host has a page");
    let spec = MachineSpec {
        vcpus: 2,
        ..MachineSpec::default()
    };
    let machine = engine.create(&spec, &ram).expect("a machine");
    let of = |vcpu| {
        let all = machine.statistics();
        all.iter().filter(|s| s.vcpu == vcpu).count()
    };
    assert!(of(None) > 0);
    assert_eq!(of(Some(0)), 0, "it does not exist yet");
    let vcpus = [0, 1].map(|id| machine.create_vcpu(id).expect("a vCPU"));
    assert!(of(Some(0)) > 0);
    assert_eq!(of(Some(0)), of(Some(1)));
    drop(vcpus);
    assert!(machine.statistics().iter().any(|s| s.name == "exits"));
}
