// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices that cannot finish at once: the VM waits, serves what cannot wait, and names who is late.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{DESTROY, LIMIT, busy, spec, until};
use vm_core::{Built, Parts, Vm, VmError, VmSpec};
use vm_cpu::script::ScriptEngine;
use vm_pdm::{BusBuilder, Device, DeviceError, Devices, Link, ResetKind, Waker};
use vm_state::{Cause, State, SuspendReason};

/// Pending from a hook that it is told to be slow in, until it is finished from outside.
#[derive(Default)]
struct Slow {
    pending: AtomicBool,
    slow: AtomicBool,
    waker: Mutex<Option<Waker>>,
    suspends: AtomicU32,
    resumes: AtomicU32,
    /// Suspends of the device beside it, which takes no time.
    beside: AtomicU32,
}

/// Constructed before the slow one, so suspended after it.
struct Prompt(Arc<Slow>);

impl Device for Prompt {
    fn name(&self) -> &'static str {
        "prompt"
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.0.beside.fetch_add(1, SeqCst);
        Ok(())
    }
}

impl Slow {
    fn hook(&self) -> Result<(), DeviceError> {
        self.pending.store(self.slow.load(SeqCst), SeqCst);
        Ok(())
    }
    fn finish(&self) {
        self.pending.store(false, SeqCst);
        if let Some(waker) = &*self.waker.lock().unwrap() {
            waker.wake();
        }
    }
}

impl Device for Slow {
    fn name(&self) -> &'static str {
        "slow-disk"
    }
    fn connect(&self, link: &Link) {
        *self.waker.lock().unwrap() = Some(link.waker.clone());
    }
    fn is_pending(&self) -> bool {
        self.pending.load(SeqCst)
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.suspends.fetch_add(1, SeqCst);
        self.hook()
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.resumes.fetch_add(1, SeqCst);
        Ok(())
    }
    fn reset(&self, _: ResetKind) -> Result<(), DeviceError> {
        self.hook()
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        self.hook()
    }
}

fn running(limit: Duration) -> (Arc<Slow>, Vm) {
    let device = Arc::new(Slow::default());
    let mut parts = Parts::bare(Arc::new(ScriptEngine::new(busy())));
    let theirs = Arc::clone(&device);
    parts.board = Box::new(move |_| {
        let mut devices = Devices::new();
        devices.add(Arc::new(Prompt(theirs.clone())))?;
        devices.add(theirs.clone())?;
        Ok(Built {
            devices,
            buses: BusBuilder::new().build(),
            eoi: None,
        })
    });
    let vm = Vm::create(
        VmSpec {
            quiesce_limit: limit,
            ..spec(3)
        },
        parts,
    )
    .unwrap();
    vm.power_on().unwrap();
    device.slow.store(true, SeqCst);
    (device, vm)
}

fn suspend(vm: &Vm) -> JoinHandle<Result<(), VmError>> {
    let vm = vm.clone();
    let run = move || vm.suspend(SuspendReason::User);
    std::thread::Builder::new().spawn(run).unwrap()
}

#[test]
fn t_s33_sd_p06_a_suspend_waits_for_a_pending_device_and_serves_priority_requests_only() {
    let (device, vm) = running(LIMIT.unwrap());
    let done = suspend(&vm);
    until("the device is pending", || device.is_pending());
    assert_eq!(vm.state(), State::Suspending);
    until("the other device is not held up", || {
        device.beside.load(SeqCst) == 1
    });
    let urgent = vm.on_emt_priority(0, LIMIT, |emt| emt.id());
    assert_eq!(urgent.unwrap(), 0);
    let normal = vm.on_emt(0, Some(Duration::from_millis(50)), |_| ());
    assert!(
        matches!(normal, Err(VmError::Late { vcpu: 0, .. })),
        "{normal:?}"
    );
    assert_eq!(vm.state(), State::Suspending, "only the device ends it");
    device.finish();
    done.join().unwrap().unwrap();
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(device.suspends.load(SeqCst), 1, "the hook is called once");
    assert_eq!(device.beside.load(SeqCst), 1, "so is the other's");
    vm.on_emt(0, LIMIT, |_| ()).unwrap();
    device.slow.store(false, SeqCst);
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn t_c12_an_error_is_told_while_a_suspend_waits_for_a_device() {
    let (device, vm) = running(LIMIT.unwrap());
    let told = Arc::new(Mutex::new(Vec::new()));
    let (into, cell) = (Arc::clone(&told), Arc::clone(vm.state_cell()));
    let _listening = vm.observe_errors(move |_| into.lock().unwrap().push(cell.read()));
    let done = suspend(&vm);
    until("the device is pending", || device.is_pending());
    vm.raise(common::error(vm_pdm::Action::Suspend));
    until("it is told", || !told.lock().unwrap().is_empty());
    assert!(vm.destroy(DESTROY).is_err());
    assert_eq!(*told.lock().unwrap(), [State::Suspending; 2]);
    device.finish();
    done.join().unwrap().unwrap();
    device.slow.store(false, SeqCst);
    vm.resume(vm_state::ResumeReason::User).unwrap();
    vm.on_emt(0, LIMIT, |_| ()).unwrap();
    assert_eq!(vm.state(), State::Running, "what was asked for was done");
}

#[test]
fn a_suspend_asked_for_while_another_fails_is_done_after_it() {
    let (device, vm) = running(Duration::from_millis(30));
    let done = suspend(&vm);
    until("the device is pending", || device.is_pending());
    vm.raise(common::error(vm_pdm::Action::Suspend));
    // The first stays pending, the next does not.
    device.slow.store(false, SeqCst);
    assert!(done.join().unwrap().is_err());
    until("the other suspend", || vm.state() == State::Suspended);
    assert_eq!(device.suspends.load(SeqCst), 2);
}

#[test]
fn sd_p08_a_device_that_never_finishes_is_named_and_the_vm_runs_on() {
    let (device, vm) = running(Duration::from_millis(30));
    let result = vm.suspend(SuspendReason::User);
    assert!(matches!(&result, Err(VmError::Pending { devices, .. }) if devices == "slow-disk"));
    assert!(result.unwrap_err().to_string().contains("slow-disk"));
    assert_eq!(vm.state(), State::Running);
    assert_eq!(device.resumes.load(SeqCst), 1, "what was begun is undone");
    device.slow.store(false, SeqCst);
    device.finish();
    vm.suspend(SuspendReason::User).unwrap();
    assert_eq!(vm.state(), State::Suspended);
}

#[test]
fn t_s31_a_guru_raised_while_a_device_is_pending_wins_over_suspended() {
    let (device, vm) = running(LIMIT.unwrap());
    let done = suspend(&vm);
    until("the device is pending", || device.is_pending());
    vm.state_cell().raise_fatal(Cause::Device("slow-disk"));
    device.finish();
    let result = done.join().unwrap();
    assert!(matches!(
        result,
        Err(VmError::Fatal {
            state: State::GuruMeditation,
            ..
        })
    ));
    assert_eq!(vm.state(), State::GuruMeditation);
    device.slow.store(false, SeqCst);
    vm.power_off().unwrap();
}

#[test]
fn a_reset_waits_for_a_pending_device() {
    let (device, vm) = running(LIMIT.unwrap());
    let other = vm.clone();
    let done = std::thread::Builder::new()
        .spawn(move || other.reset())
        .unwrap();
    until("the device is pending", || device.is_pending());
    assert_eq!(vm.state(), State::Resetting);
    device.finish();
    done.join().unwrap().unwrap();
    assert_eq!(vm.state(), State::Running);
    device.slow.store(false, SeqCst);
}

#[test]
fn a_reset_whose_device_never_finishes_ends_in_guru_meditation() {
    let (device, vm) = running(Duration::from_millis(30));
    let error = vm.reset().unwrap_err();
    assert!(matches!(error, VmError::Component(_)), "{error:?}");
    assert_eq!(vm.state(), State::GuruMeditation);
    device.slow.store(false, SeqCst);
    vm.power_off().unwrap();
}

#[test]
fn a_power_off_goes_on_without_a_device_that_never_finishes() {
    let (device, vm) = running(Duration::from_millis(30));
    vm.power_off().unwrap();
    assert_eq!(vm.state(), State::Off);
    assert!(device.is_pending());
    vm.destroy(DESTROY).unwrap();
}
