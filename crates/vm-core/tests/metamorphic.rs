// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is done to a VM from outside leaves no trace in its guest: a deterministic guest computes
//! the same with and without suspends, requests, rendezvous, kicks and operations that fail.
//!
//! `VM_METAMORPHIC_GUESTS` is the number of guests (a slice if it is not set), `VM_METAMORPHIC_SEED`
//! the seed of the first; the next have the next ones. A failure names the seed.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use common::{LIMIT, Machine, PORT_DEBUG_EXIT};
use vm_core::{Ending, Vm};
use vm_cpu::script::{Script, Step};
use vm_emt::Flow;
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, SuspendReason};

/// Guests, for a second or two.
const SLICE: u64 = 39;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// Works, reads and writes ports one by one and in strings, and ends by a debug exit.
fn guest(rounds: u64) -> Script {
    Script::new()
        .work(7)
        .pio_write(0x80, 1, 0x42)
        .pio_read(0x1234, 2)
        .then(Step::PioWriteEach {
            port: 0x80,
            size: 1,
            values: (0..9).collect(),
        })
        .then(Step::PioReadEach {
            port: 0x1234,
            size: 4,
            count: 5,
        })
        .mmio_write(0xd000_0000, 8, 0x1122_3344)
        .mmio_read(0xd000_0010, 4)
        .repeat(rounds)
        .pio_write(PORT_DEBUG_EXIT, 1, 5)
}

/// A stream of numbers that is the same for the same seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// One thing done to the VM; a refusal is as good as an effect.
fn meddle(vm: &Vm, machine: &Machine, numbers: &mut Numbers) {
    match numbers.next(7) {
        0 => {
            if vm.suspend(SuspendReason::User).is_ok() {
                let _ = vm.resume(ResumeReason::User);
            }
        }
        1 => drop(vm.on_emt(0, LIMIT, |_| ())),
        2 => drop(vm.on_emt(0, LIMIT, |emt| {
            emt.settled().and_then(|s| s.state()).map(drop)
        })),
        3 => drop(vm.meet(How::together(), |_| Ok(Flow::Look))),
        4 => (0..20).for_each(|_| vm.bells().ring(0)),
        5 => {
            *machine.fails.lock().unwrap() = Some("suspend");
            assert!(
                vm.suspend(SuspendReason::User).is_err(),
                "the device refuses"
            );
            *machine.fails.lock().unwrap() = None;
        }
        _ => drop(vm.power_on()),
    }
}

/// Runs the guest to its end; gives the hash of everything it did.
fn run(rounds: u64, seed: Option<u64>) -> u64 {
    let machine = Machine::new(guest(rounds));
    let vm = machine.create(1);
    let over = AtomicBool::new(false);
    vm.power_on().unwrap();
    thread::scope(|scope| {
        if let Some(seed) = seed {
            let (vm, machine, over) = (&vm, &machine, &over);
            scope.spawn(move || {
                let mut numbers = Numbers(seed);
                while !over.load(SeqCst) {
                    meddle(vm, machine, &mut numbers);
                }
            });
        }
        vm.wait_until(|s| s == State::Off, LIMIT).unwrap();
        over.store(true, SeqCst);
    });
    assert_eq!(vm.ending(), Some(Ending::DebugExit(5)));
    let state = vm.on_emt(0, LIMIT, |emt| emt.settled().and_then(|s| s.state()));
    let gprs = state.unwrap().unwrap().gprs;
    gprs.rax
}

#[test]
fn a_guest_computes_the_same_whatever_is_done_to_its_vm() {
    let undisturbed = run(300, None);
    assert_eq!(run(300, None), undisturbed, "the guest is deterministic");
    assert_ne!(run(301, None), undisturbed, "the hash tells guests apart");
    let first = number("VM_METAMORPHIC_SEED").unwrap_or(1);
    let guests = number("VM_METAMORPHIC_GUESTS").unwrap_or(SLICE);
    for n in 0..guests {
        let seed = first.wrapping_add(n);
        let disturbed = run(300, Some(seed.wrapping_mul(0x9e37_79b9).max(1)));
        assert_eq!(disturbed, undisturbed, "seed {seed}");
        if n % 100 == 99 {
            println!("{} guests", n + 1);
        }
    }
}
