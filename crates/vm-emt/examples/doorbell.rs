// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU loop that is not ours, given a doorbell: a device thread rings it asleep and in the guest.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::{Arc, atomic::AtomicBool, atomic::AtomicU32, atomic::Ordering::SeqCst};
use vm_emt::{Bells, Kick, Phase};

/// Stands for KVM's `immediate_exit` and the signal that goes with it.
#[derive(Debug, Default)]
struct LeaveGuest(AtomicBool);

impl Kick for LeaveGuest {
    fn kick(&self) {
        self.0.store(true, SeqCst);
    }
}
/// Stands for KVM_RUN on a guest that never exits by itself.
fn run_guest(leave: &LeaveGuest) {
    while !leave.0.swap(false, SeqCst) {
        std::thread::yield_now();
    }
}

fn main() {
    let bells = Bells::new(1);
    // What the device says, published before each ring. 1: start the guest; 2: end.
    let message = Arc::new(AtomicU32::new(0));

    let emt = std::thread::Builder::new().name("emt-0".into()).spawn({
        let (bells, message) = (bells.clone(), message.clone());
        move || {
            let bell = bells.enroll(0).expect("vCPU 0 is free");
            let leave = Arc::new(LeaveGuest::default());
            bell.install_kick(leave.clone());
            loop {
                bell.clear(); // clear first, look second
                match message.load(SeqCst) {
                    0 => drop(bell.park(None)),
                    1 => {
                        if let Some(_guest) = bell.enter() {
                            run_guest(&leave);
                            bell.note_exit(10, 0xfff0);
                        }
                    }
                    _ => break,
                }
            }
        }
    });

    wait_for(&bells, Phase::Parked);
    message.store(1, SeqCst);
    bells.ring(0); // wakes it: one futex call
    wait_for(&bells, Phase::InGuest);
    message.store(2, SeqCst);
    bells.ring(0); // kicks it out of the guest
    emt.map(|thread| thread.join())
        .expect("it was started")
        .expect("it ended");
    let counts = bells.counts(0);
    println!("two rings: {} wake, {} kick", counts.wakes, counts.kicks);
    println!(
        "last exit {:x?}; the EMT is {}",
        bells.last_exit(0),
        bells.word(0)
    );
}

fn wait_for(bells: &Bells, phase: Phase) {
    while !bells.live(0) || bells.word(0).phase() != phase {
        std::thread::yield_now();
    }
    println!("the EMT is {}", bells.word(0));
}
