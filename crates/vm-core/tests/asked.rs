// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What devices ask of their VM besides power-off and reset, and which reset they get.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use common::{
    LIMIT, Log, Machine, PORT_RESET, PORT_SOFT_RESET, PORT_SUSPEND, busy, note, spec, taken, until,
};
use vm_core::{BoxError, Cancel, Closing, Emt, Ending, OnReset, Parts, Saver, Vm, Vote};
use vm_cpu::script::{Script, ScriptEngine, Step};
use vm_pdm::{BusBuilder, Device, DeviceError, Devices, Effect, IoCtx, IoHandler, ResetKind};
use vm_state::{ResumeReason, State, SuspendReason};

fn wait_state(vm: &Vm, wanted: State) {
    vm.wait_until(|state| state == wanted, LIMIT).unwrap();
}

#[test]
fn t_p10_hard_and_soft_resets_are_counted_apart() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    for (hard, times) in [(true, 2), (false, 3)] {
        for _ in 0..times {
            if hard { vm.reset() } else { vm.soft_reset() }.unwrap();
        }
    }
    let status = vm.status();
    assert_eq!((status.hard_resets, status.soft_resets), (2, 3));
}

/// Notes which resets it is told of.
struct Resets(Log);

impl Device for Resets {
    fn name(&self) -> &'static str {
        "resets"
    }
    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        note(&self.0, format!("{kind:?}"));
        Ok(())
    }
}

/// Asks for what the written value says, all in one access.
struct AskTwice;

impl IoHandler for AskTwice {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, _: u64) {
        cx.raise(Effect::Reset(ResetKind::Soft));
        cx.raise(Effect::Reset(ResetKind::Hard));
    }
}

fn with_resets(script: Script, vcpus: u32) -> (Log, Vm) {
    let machine = Machine::with(ScriptEngine::new(busy()).vcpu(0, script));
    let mut parts = machine.parts();
    let log = Log::default();
    let into = Arc::clone(&log);
    parts.board = Box::new(move |_| {
        let mut devices = Devices::new();
        devices.add(Arc::new(Resets(Arc::clone(&into))))?;
        let mut buses = BusBuilder::new();
        buses.pio("twice", 0x700..=0x700, Arc::new(AskTwice))?;
        Ok(vm_core::Built {
            devices,
            buses: buses.build(),
            eoi: None,
        })
    });
    (log, Vm::create(spec(vcpus), parts).unwrap())
}

#[test]
fn t_p11_sd_p15_a_device_that_asks_for_a_soft_reset_gets_one_and_devices_hear_which() {
    let script = Script::new()
        .pio_write(PORT_SOFT_RESET, 1, 1)
        .work(1)
        .forever();
    let machine = Machine::new(script);
    let vm = machine.create(1);
    taken(&machine.log);
    vm.power_on().unwrap();
    until("soft resets", || vm.status().soft_resets >= 3);
    vm.power_off().unwrap();
    assert_eq!(vm.status().hard_resets, 0);
    let log = taken(&machine.log);
    assert!(
        !log.contains(&"firmware".to_owned()),
        "nothing is loaded anew"
    );
}

#[test]
fn of_two_resets_in_one_access_the_first_counts() {
    let (log, vm) = with_resets(Script::new().pio_write(0x700, 1, 1).work(1).forever(), 2);
    vm.power_on().unwrap();
    until("soft resets", || vm.status().soft_resets >= 3);
    vm.power_off().unwrap();
    assert_eq!(vm.status().hard_resets, 0);
    assert!(taken(&log).iter().all(|kind| kind == "Soft"));
}

/// Answers how often it was read, and has the VM suspended before the answer is taken.
struct Count(Arc<AtomicU64>);

impl IoHandler for Count {
    fn read(&self, cx: &mut IoCtx, _: u64, _: u8) -> u64 {
        cx.raise(Effect::Suspend);
        self.0.fetch_add(1, SeqCst) + 1
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, _: u64) {
        cx.raise(Effect::DebugExit(7));
    }
}

#[test]
fn sd_i07_a_read_that_a_suspend_finds_unfinished_is_completed_once() {
    const READS: u64 = 20;
    // The guest dies of an answer that is not the next one.
    let script = (1..=READS).fold(Script::new(), |script, count| {
        script.then(Step::MmioRead {
            addr: 0xd000_0000,
            size: 8,
            expect: Some(count),
        })
    });
    let machine = Machine::new(script.mmio_write(0xd000_0000, 8, 0));
    let mut parts = machine.parts();
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::new(Count(Arc::clone(&count)));
    parts.board = Box::new(move |_| {
        let mut buses = BusBuilder::new();
        buses.mmio("count", 0xd000_0000..=0xd000_0007, counter.clone())?;
        Ok(vm_core::Built {
            devices: Devices::new(),
            buses: buses.build(),
            eoi: None,
        })
    });
    let vm = Vm::create(spec(1), parts).unwrap();
    vm.power_on().unwrap();
    for reads in 1..=READS {
        wait_state(&vm, State::Suspended);
        assert_eq!(count.load(SeqCst), reads);
        // What a saver takes, and what a loader would put there.
        let reloaded = vm.on_emt(0, LIMIT, |emt| {
            let mut vcpu = emt.settled()?;
            let state = vcpu.state()?;
            vcpu.set_state(&state)
        });
        reloaded.unwrap().unwrap();
        vm.resume(ResumeReason::User).unwrap();
    }
    wait_state(&vm, State::Off);
    assert_eq!(vm.ending(), Some(Ending::DebugExit(7)));
    assert_eq!(count.load(SeqCst), READS);
}

#[test]
fn t_p14_sd_p15_where_a_reset_is_to_halt_the_vcpu_that_asks_halts_and_nothing_is_reset() {
    let engine = ScriptEngine::new(busy()).vcpu(
        1,
        Script::new()
            .work(5)
            .pio_write(PORT_RESET, 1, 1)
            .work(100)
            .forever(),
    );
    let machine = Machine::with(engine);
    let mut spec = spec(2);
    spec.on_reset = OnReset::Halt;
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    let halted = machine.engine.progress(1);
    until("it asks", || halted.work() == 6);
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    let other = machine.engine.progress(0);
    let before = other.work();
    until("the other vCPU works", || other.work() > before + 500);
    assert_eq!(halted.work(), 6);
    let status = vm.status();
    assert_eq!((status.hard_resets, status.soft_resets), (0, 0));
    // The owner can still reset the machine.
    vm.reset().unwrap();
    until("it begins anew and asks again", || halted.work() == 12);
}

#[test]
fn a_device_that_asks_for_a_suspend_gets_it_before_its_vcpu_goes_on() {
    for vcpu in 0..2 {
        let script = Script::new()
            .pio_write(PORT_SUSPEND, 1, 0)
            .work(100)
            .forever();
        let machine = Machine::with(ScriptEngine::new(busy()).vcpu(vcpu, script));
        let vm = machine.create(2);
        vm.power_on().unwrap();
        wait_state(&vm, State::Suspended);
        assert_eq!(machine.engine.progress(vcpu).work(), 1);
        let last = vm.state_cell().snapshot().last_suspend;
        assert_eq!(last, Some(SuspendReason::Vm));
        vm.resume(ResumeReason::User).unwrap();
        until("it goes on", || machine.engine.progress(vcpu).work() > 1);
    }
}

/// Saves nothing, and notes what it is told; fails when told to.
struct Quick {
    log: Log,
    fails: Arc<AtomicBool>,
}

impl Saver for Quick {
    fn open(&mut self) -> Result<(), BoxError> {
        note(&self.log, "open");
        Ok(())
    }
    fn pass(&mut self, _: u32, _: &Cancel) -> Result<Vote, BoxError> {
        note(&self.log, "pass");
        Ok(Vote::Done)
    }
    fn finish(&mut self, emt: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        note(&self.log, format!("finish on {}", emt.id()));
        if self.fails.load(SeqCst) {
            return Err("disk full".into());
        }
        Ok(())
    }
    fn close(&mut self, closing: Closing) -> Result<(), BoxError> {
        note(&self.log, format!("{closing:?}"));
        Ok(())
    }
}

fn saves(parts: &mut Parts) -> (Log, Arc<AtomicBool>) {
    let (log, fails) = (Log::default(), Arc::<AtomicBool>::default());
    let (into, told) = (Arc::clone(&log), Arc::clone(&fails));
    parts.saver = Some(Arc::new(move || {
        Ok(Box::new(Quick {
            log: Arc::clone(&into),
            fails: Arc::clone(&told),
        }))
    }));
    (log, fails)
}

fn asks_to_be_saved(vcpu: u32) -> (Machine, Parts) {
    let script = Script::new()
        .pio_write(PORT_SUSPEND, 1, 1)
        .work(100)
        .forever();
    let machine = Machine::with(ScriptEngine::new(busy()).vcpu(vcpu, script));
    let parts = machine.parts();
    (machine, parts)
}

#[test]
fn t_p21_a_device_that_asks_has_the_vm_suspended_saved_and_powered_off() {
    for vcpu in 0..2 {
        let (machine, mut parts) = asks_to_be_saved(vcpu);
        let (log, _) = saves(&mut parts);
        let vm = Vm::create(spec(2), parts).unwrap();
        let states = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&states);
        let _watch = vm.observe(move |change| into.lock().unwrap().push(change.new));
        vm.power_on().unwrap();
        wait_state(&vm, State::Off);
        assert_eq!(taken(&log), ["open", "finish on 0", "Keep"]);
        assert_eq!(vm.ending(), Some(Ending::GuestPowerOff));
        assert_eq!(machine.engine.progress(vcpu).work(), 1);
        let expected = [
            State::Suspending,
            State::Suspended,
            State::Saving,
            State::Suspended,
            State::PoweringOff,
            State::Off,
        ];
        until("observers are told", || states.lock().unwrap().len() >= 8);
        assert_eq!(states.lock().unwrap()[2..], expected);
    }
}

#[test]
fn t_p21_if_the_save_fails_the_vm_stays_suspended_and_its_owner_hears_why() {
    let (_machine, mut parts) = asks_to_be_saved(1);
    let (log, fails) = saves(&mut parts);
    fails.store(true, SeqCst);
    let vm = Vm::create(spec(2), parts).unwrap();
    vm.power_on().unwrap();
    until("the save fails", || vm.errors().vm_errors == 1);
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(taken(&log), ["open", "finish on 0", "Drop"]);
    let text = vm.errors().last.unwrap().to_string();
    assert!(text.contains("disk full"), "{text}");
    vm.resume(ResumeReason::User).unwrap();
}

#[test]
fn t_p21_without_a_saver_the_vm_runs_on_and_its_owner_hears_of_it() {
    let (machine, parts) = asks_to_be_saved(0);
    let vm = Vm::create(spec(2), parts).unwrap();
    vm.power_on().unwrap();
    until("the guest goes on", || {
        machine.engine.progress(0).work() > 1
    });
    assert_eq!(vm.state(), State::Running);
    let text = vm.errors().last.unwrap().to_string();
    assert!(text.contains("saver"), "{text}");
}

#[test]
fn t_p17_a_suspend_that_fails_leaves_the_last_reason_alone() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    *machine.fails.lock().unwrap() = Some("suspend");
    assert!(vm.suspend(SuspendReason::HostSuspend).is_err());
    let last = vm.state_cell().snapshot().last_suspend;
    assert_eq!(last, Some(SuspendReason::User));
}
