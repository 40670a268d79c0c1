// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest under test: entries with a limit, and the answers that its reads get.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use vm_emt::Kick;

use super::{Fixture, Op};
use crate::x86::VcpuState;
use crate::{Entry, Exit, IrqMode, Machine, Vcpu};

/// How long an entry may last that something is to end. Only bounds a failure.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Guest {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) kick: Arc<dyn Kick>,
}

impl Guest {
    /// vCPU 0 of a machine with one, at the start of the program.
    pub(super) fn new(fixture: &dyn Fixture, irq: IrqMode, program: &[Op]) -> Self {
        let machine = fixture
            .machine(irq, 1, program)
            .expect("the fixture makes a machine");
        let mut guest = Self::of(machine, 0);
        fixture
            .start(irq, &mut *guest.vcpu)
            .expect("the fixture starts the program");
        guest
    }

    /// A vCPU in its power-on state.
    pub(super) fn of(machine: Arc<dyn Machine>, id: u32) -> Self {
        let mut vcpu = machine.create_vcpu(id).expect("the machine makes the vCPU");
        let kick = vcpu.kicker().expect("the vCPU gives its kick");
        Self {
            machine,
            vcpu,
            kick,
        }
    }

    /// Enters; something is to end it within the limit.
    pub(super) fn enter(&mut self, entry: Entry) -> Exit {
        let over = (Mutex::new(false), Condvar::new());
        let (kick, vcpu) = (&self.kick, &mut self.vcpu);
        let (exit, late) = std::thread::scope(|scope| {
            let dog = scope.spawn(|| {
                let waiting = over.0.lock().unwrap_or_else(PoisonError::into_inner);
                let (waiting, result) = over
                    .1
                    .wait_timeout_while(waiting, LIMIT, |over| !*over)
                    .unwrap_or_else(PoisonError::into_inner);
                drop(waiting);
                if result.timed_out() {
                    kick.kick();
                }
                result.timed_out()
            });
            let exit = vcpu.run(entry);
            *over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            over.1.notify_all();
            (exit, dog.join().expect("the watchdog ends"))
        });
        assert!(
            !late,
            "nothing ended the entry in {LIMIT:?}; it would be {exit:?}"
        );
        exit.expect("the entry succeeds")
    }

    pub(super) fn go(&mut self) -> Exit {
        self.enter(Entry::Go)
    }

    /// Settles what needs no data.
    pub(super) fn settle(&mut self) {
        let more = self.vcpu.settle(Entry::Go).expect("settling succeeds");
        assert_eq!(more, None, "a whole access has no further part");
    }

    pub(super) fn state(&mut self) -> VcpuState {
        let settled = self.vcpu.settled().expect("the vCPU is settled");
        settled.state().expect("the state is readable")
    }

    /// Fails unless the state is `expected`, but for what passes by itself.
    pub(super) fn assert_state(&mut self, expected: &VcpuState) {
        let differences = timeless(self.state()).differences(&timeless(expected.clone()));
        assert!(
            differences.is_empty(),
            "the state differs in {differences:?}"
        );
    }

    pub(super) fn set_state(&mut self, state: &VcpuState) {
        let mut settled = self.vcpu.settled().expect("the vCPU is settled");
        settled.set_state(state).expect("the state fits");
    }

    /// The next `count` exits; reads are answered with `answer`.
    pub(super) fn exits(&mut self, count: usize, answer: u64) -> Vec<Exit> {
        let mut entry = Entry::Go;
        let mut exits = Vec::with_capacity(count);
        for _ in 0..count {
            let exit = self.enter(entry);
            let reads = matches!(exit, Exit::PioRead { .. } | Exit::MmioRead { .. });
            entry = if reads {
                Entry::Data(answer)
            } else {
                Entry::Go
            };
            exits.push(exit);
        }
        exits
    }
}

/// The state without the TSC, which passes by itself, and without XSTATE_BV (Intel SDM vol. 1, section
/// 13.4.2), which may say of a component in its initial state that it is or that it is not.
fn timeless(mut state: VcpuState) -> VcpuState {
    state.tsc.value = 0;
    if let Some(bv) = state.xsave.get_mut(512..520) {
        bv.fill(0);
    }
    state
}

/// The exit that [`Op::Out`] gives.
pub(super) fn out(port: u16, size: u8, value: u32) -> Exit {
    Exit::PioWrite { port, size, value }
}
