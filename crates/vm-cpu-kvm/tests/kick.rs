// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kicks on KVM: none is lost, wherever it lands, and the test that shows it can tell.
#![expect(
    clippy::print_stderr,
    reason = "a test that needs KVM says when it is skipped"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use vm_cpu::x86::Start;
use vm_cpu::{Entry, Exit, IrqMode, MachineSpec, RamLayout, Vcpu};
use vm_cpu_kvm::{KvmEngine, KvmVcpu};
use vm_emt::Kick;
use vm_memory::{Bytes, GuestAddress};

/// How long an entry may last before the watchdog takes it for stuck. Kicks that work take
/// microseconds, so this only bounds a failure.
const STUCK: Duration = Duration::from_secs(10);

fn engine() -> Option<KvmEngine> {
    KvmEngine::open()
        .inspect_err(|why| eprintln!("skipped: {why}"))
        .ok()
}

/// A vCPU whose guest is `jmp .`.
fn spinning(engine: &KvmEngine) -> KvmVcpu {
    let ram = RamLayout { bytes: 0x2000 }
        .allocate()
        .expect("the host has two pages");
    ram.write_slice(b"\xeb\xfe", GuestAddress(0x1000))
        .expect("inside");
    let spec = MachineSpec {
        vcpus: 1,
        irq: IrqMode::None,
        ..MachineSpec::default()
    };
    let machine = engine.machine(&spec, &ram).expect("KVM makes a machine");
    let mut vcpu = machine.vcpu(0).expect("KVM makes a vCPU");
    let mut settled = vcpu.settled().expect("new");
    settled.set_start(&Start::real_mode(0x1000)).expect("valid");
    vcpu
}

/// Kicks properly when it is not fed for `patience`; counts how often it had to.
fn watchdog(food: &Receiver<()>, kick: &dyn Kick, patience: Duration) -> u64 {
    let mut rescues = 0;
    loop {
        match food.recv_timeout(patience) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                rescues += 1;
                kick.kick();
            }
            Err(RecvTimeoutError::Disconnected) => return rescues,
        }
    }
}

/// Enters `times`, with `kick` made by the hook between publication and KVM_RUN. Returns how many
/// entries only the watchdog ended.
fn entries_that_missed_their_kick(
    vcpu: &mut KvmVcpu,
    kick: Arc<dyn Kick>,
    times: u32,
    patience: Duration,
) -> u64 {
    let backstop = vcpu.kicker().expect("a kicker");
    vcpu.set_entry_hook(Some(Box::new(move || kick.kick())));
    let (feed, food): (Sender<()>, _) = channel();
    std::thread::scope(|scope| {
        let dog = scope.spawn(move || watchdog(&food, &*backstop, patience));
        for _ in 0..times {
            assert_eq!(vcpu.run(Entry::Go).expect("entered"), Exit::Kicked);
            feed.send(()).expect("the watchdog listens");
        }
        drop(feed);
        dog.join().expect("the watchdog ends")
    })
}

#[test]
fn t_m03_a_hundred_thousand_kicks_between_the_check_and_the_entry_are_all_seen() {
    let Some(engine) = engine() else { return };
    let mut vcpu = spinning(&engine);
    let kick = vcpu.kicker().expect("a kicker");
    assert_eq!(
        entries_that_missed_their_kick(&mut vcpu, kick, 100_000, STUCK),
        0
    );
}

#[test]
fn a_kick_that_only_signals_is_caught_by_the_same_test() {
    let Some(engine) = engine() else { return };
    let mut vcpu = spinning(&engine);
    let broken = Arc::new(vcpu.signal_only());
    let missed = entries_that_missed_their_kick(&mut vcpu, broken, 3, Duration::from_millis(100));
    assert!(missed >= 3, "only {missed} of 3 lost kicks were noticed");
}

#[test]
fn kicks_from_another_thread_at_any_moment_are_all_seen() {
    let Some(engine) = engine() else { return };
    let mut vcpu = spinning(&engine);
    let kick = vcpu.kicker().expect("a kicker");
    let backstop = Arc::clone(&kick);
    let (feed, food) = channel();
    let (seen, asked) = (AtomicU64::new(0), AtomicU64::new(0));
    let rounds = 2_000;
    let rescues = std::thread::scope(|scope| {
        let dog = scope.spawn(move || watchdog(&food, &*backstop, STUCK));
        scope.spawn(|| {
            for round in 1..=rounds {
                asked.store(round, SeqCst);
                kick.kick();
                // The next kick comes as soon as this one is seen, so it hits every phase of `run`.
                while seen.load(SeqCst) < round {
                    std::thread::yield_now();
                }
            }
        });
        while seen.load(SeqCst) < rounds {
            assert_eq!(vcpu.run(Entry::Go).expect("entered"), Exit::Kicked);
            seen.store(asked.load(SeqCst), SeqCst);
            feed.send(()).expect("the watchdog listens");
        }
        drop(feed);
        dog.join().expect("the watchdog ends")
    });
    assert_eq!(rescues, 0);
}

#[test]
fn a_vcpu_moves_between_threads_while_it_is_kicked_and_each_thread_ends() {
    let Some(engine) = engine() else { return };
    let mut vcpu = spinning(&engine);
    let kick = vcpu.kicker().expect("a kicker");
    let over = AtomicBool::new(false);
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            while !over.load(SeqCst) {
                kick.kick();
            }
        });
        start.wait();
        for _ in 0..200 {
            // Ends right behind `run`, while kicks go on: nobody may still hold its number.
            let back = scope.spawn(move || {
                assert_eq!(vcpu.run(Entry::Go).expect("entered"), Exit::Kicked);
                vcpu
            });
            vcpu = back.join().expect("the thread ends");
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn a_kick_of_a_destroyed_vcpu_does_nothing() {
    let Some(engine) = engine() else { return };
    let mut vcpu = spinning(&engine);
    let kick = vcpu.kicker().expect("a kicker");
    drop(vcpu);
    kick.kick();
    assert_eq!(Arc::strong_count(&kick), 1);
}
