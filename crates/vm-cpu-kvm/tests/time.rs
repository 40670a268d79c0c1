// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Time that is held, as a guest sees it: in 16-bit real mode, which every KVM runs.
#![expect(
    clippy::print_stderr,
    reason = "a test that needs KVM says when it is skipped"
)]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use vm_cpu::x86::VcpuState;
use vm_cpu::{Engine, Entry, Exit, Held, IrqMode, Machine, MachineSpec, RamLayout, Vcpu};
use vm_cpu_kvm::KvmEngine;
use vm_memory::{Bytes, GuestAddress};

const PROGRAM: u16 = 0x1000;
const HANDLER: u16 = 0x2000;
const PORT: u16 = 0x20;
/// Of the timer's interrupt, which the guest writes to [`VECTOR_PORT`].
const VECTOR: u8 = 0x40;
const VECTOR_PORT: u16 = 0x11;
/// Only bounds a failure.
const LIMIT: Duration = Duration::from_secs(20);

/// How far ahead a deadline is: much longer than an entry takes.
const AHEAD_MS: u64 = 50;
const TSC_DEADLINE: u32 = 0x6e0;
/// Registers of the LAPIC (Intel SDM vol. 3, section 11.4.1): the spurious interrupt vector, which
/// enables it, and the timer's entry.
const SPURIOUS: usize = 0xf0;
const LVT_TIMER: usize = 0x320;
/// The timer goes by the TSC deadline.
const DEADLINE_MODE: u32 = 2 << 17;

/// `1: rdtsc; out 0x20, eax; mov eax, edx; out 0x20, eax; jmp 1b`.
const READS_TSC: &[u8] = &[
    0x0f, 0x31, 0x66, 0xe7, 0x20, 0x66, 0x89, 0xd0, 0x66, 0xe7, 0x20, 0xeb, 0xf3,
];
/// `sti; 1: jmp 1b`.
const WAITS: &[u8] = &[0xfb, 0xeb, 0xfe];
/// `mov al, VECTOR; out VECTOR_PORT, al; iret`.
const SAYS_VECTOR: &[u8] = &[0xb0, VECTOR, 0xe6, 0x11, 0xcf];

/// `lidt [0x3000]; int3`: an empty table, so that the machine shuts down.
const FAULTS: &[u8] = &[0x0f, 0x01, 0x1e, 0x00, 0x30, 0xcc];

struct Guest {
    machine: Arc<dyn Machine>,
    vcpu: Box<dyn Vcpu>,
}

impl Guest {
    /// None, and why, without a KVM that can hold a TSC.
    fn new(program: &[u8]) -> Option<Self> {
        let engine = match KvmEngine::open() {
            Ok(engine) => engine,
            Err(why) => {
                eprintln!("skipped: {why}");
                return None;
            }
        };
        let ram = RamLayout { bytes: 0x1_0000 }
            .allocate()
            .expect("guest memory");
        for (at, bytes) in [
            (PROGRAM, program),
            (HANDLER, SAYS_VECTOR),
            (u16::from(VECTOR) * 4, &HANDLER.to_le_bytes()),
        ] {
            ram.write_slice(bytes, GuestAddress(at.into()))
                .expect("inside guest memory");
        }
        let spec = MachineSpec {
            vcpus: 1,
            irq: IrqMode::Split,
            ..MachineSpec::default()
        };
        let machine = engine.create(&spec, &ram).expect("a machine");
        let vcpu = machine.create_vcpu(0).expect("a vCPU");
        let held = machine.hold_time().expect("time can be held");
        machine.let_time_go().expect("time goes on");
        if held == Held::ClockOnly {
            eprintln!("skipped: this KVM hands the host's TSC through");
            return None;
        }
        let mut guest = Self { machine, vcpu };
        guest.go_to(0);
        Some(guest)
    }

    /// To the instruction that many bytes into the program.
    fn go_to(&mut self, at: usize) {
        let mut settled = self.vcpu.settled().expect("settled");
        let mut start = settled.start().expect("the state can be read");
        (start.system.cs.base, start.system.cs.selector) = (0, 0);
        start.gprs.rip = u64::from(PROGRAM) + at as u64;
        start.gprs.rsp = 0x8000;
        settled.set_start(&start).expect("the state fits");
    }

    fn state(&mut self) -> VcpuState {
        let settled = self.vcpu.settled().expect("settled");
        settled.state().expect("the state can be read")
    }

    fn set_state(&mut self, state: &VcpuState) {
        let mut settled = self.vcpu.settled().expect("settled");
        settled.set_state(state).expect("the state fits");
    }

    /// The guest's write to `port`; it comes within the limit.
    fn written(&mut self, port: u16) -> u32 {
        let kick = self.vcpu.kicker().expect("a kick");
        let (done, over) = channel::<()>();
        let exit = std::thread::scope(|scope| {
            scope.spawn(move || {
                if over.recv_timeout(LIMIT).is_err() {
                    kick.kick();
                }
            });
            let exit = self.vcpu.run(Entry::Go);
            // Nobody listens if it came too late.
            let _ = done.send(());
            exit
        });
        let more = self.vcpu.settle(Entry::Go).expect("settles");
        assert_eq!(more, None);
        let exit = exit.expect("enters");
        let Exit::PioWrite {
            port: at, value, ..
        } = exit
        else {
            panic!("no write to a port, but {exit:?}");
        };
        assert_eq!(at, port);
        value
    }

    /// What the guest reads.
    fn rdtsc(&mut self) -> u64 {
        let low = self.written(PORT);
        u64::from(self.written(PORT)) << 32 | u64::from(low)
    }

    fn hold(&self) {
        self.machine.hold_time().expect("time can be held");
    }

    fn let_go(&self) {
        self.machine.let_time_go().expect("time goes on");
    }
}

fn wait(how_long: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < how_long {
        std::thread::yield_now();
    }
}

#[test]
fn sd_m01_what_a_guest_reads_with_rdtsc_goes_on_from_where_time_was_held() {
    let Some(mut guest) = Guest::new(READS_TSC) else {
        return;
    };
    let before = guest.rdtsc();
    for _ in 0..3 {
        guest.hold();
        let state = guest.state();
        assert!(before <= state.tsc.value);
        wait(Duration::from_millis(50));
        let begun = Instant::now();
        guest.let_go();
        let after = guest.rdtsc();
        let passed = after.checked_sub(state.tsc.value).expect("never back");
        // In units of 1 us; how fast a TSC is, is known to some parts in a thousand.
        let us = u64::try_from(begun.elapsed().as_micros()).expect("short") + 1;
        let most = us * u64::from(state.tsc.khz) / 990;
        assert!(passed <= most, "{passed} ticks passed, {most} at most");
    }
}

#[test]
fn a_deadline_that_the_hosts_clock_passed_while_time_was_held_comes_when_the_guests_tsc_has_it() {
    let Some(mut guest) = Guest::new(WAITS) else {
        return;
    };
    for _ in 0..2 {
        guest.hold();
        let mut state = guest.state();
        state.gprs.rip = PROGRAM.into();
        let deadline = state.tsc.value + AHEAD_MS * u64::from(state.tsc.khz);
        let page = state.lapic.as_mut().expect("a LAPIC");
        let timer = DEADLINE_MODE | u32::from(VECTOR);
        page[SPURIOUS..SPURIOUS + 4].copy_from_slice(&0x1ff_u32.to_le_bytes());
        page[LVT_TIMER..LVT_TIMER + 4].copy_from_slice(&timer.to_le_bytes());
        // The last one's interrupt was not acknowledged.
        page[0x100..0x180].fill(0);
        let msrs = &mut state.msrs;
        let msr = msrs.iter_mut().find(|msr| msr.index == TSC_DEADLINE);
        msr.expect("KVM lists it").value = deadline;
        guest.set_state(&state);
        wait(Duration::from_millis(3 * AHEAD_MS));
        guest.let_go();
        assert_eq!(guest.written(VECTOR_PORT), u32::from(VECTOR));
        guest.hold();
        let now = guest.state().tsc.value;
        guest.let_go();
        assert!(now >= deadline, "{} ticks too early", deadline - now);
    }
}

#[test]
fn a_guest_that_was_reset_after_a_triple_fault_reads_the_tsc_that_its_timers_go_by() {
    let program = [READS_TSC, FAULTS].concat();
    let Some(mut guest) = Guest::new(&program) else {
        return;
    };
    for _ in 0..3 {
        guest.go_to(READS_TSC.len());
        let exit = guest.vcpu.run(Entry::Go).expect("enters");
        assert!(matches!(exit, Exit::Shutdown), "{exit:?}");
        guest.vcpu.reset().expect("resets");
        guest.go_to(0);
        let before = guest.state().tsc.value;
        let read = guest.rdtsc();
        let after = guest.state().tsc.value;
        assert!((before..=after).contains(&read), "{before} {read} {after}");
    }
}
