// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Operations that fail and cannot be undone either: nobody may run that VM again.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::{Arc, Mutex};

use common::{DESTROY, Log, Machine, busy, error, note, spec, taken, until};
use vm_core::{Built, Vm, VmError};
use vm_pdm::{Action, BusBuilder, Device, DeviceError, Devices};
use vm_state::{ResumeReason, State, SuspendReason};

type Fails = Arc<Mutex<Vec<String>>>;

/// Fails the hooks that `fails` names as `hook name`.
struct Faulty {
    name: &'static str,
    fails: Fails,
    log: Log,
}

impl Faulty {
    fn hook(&self, hook: &str) -> Result<(), DeviceError> {
        let entry = format!("{hook} {}", self.name);
        note(&self.log, entry.as_str());
        if self.fails.lock().unwrap().contains(&entry) {
            return Err(DeviceError {
                device: self.name.into(),
                what: format!("{hook} refused"),
            });
        }
        Ok(())
    }
}

impl Device for Faulty {
    fn name(&self) -> &str {
        self.name
    }
    fn power_on(&self) -> Result<(), DeviceError> {
        self.hook("on")
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.hook("suspend")
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.hook("resume")
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        self.hook("off")
    }
}

fn faulty() -> (Vm, Fails, Log) {
    let (fails, log) = (Fails::default(), Log::default());
    let mut parts = Machine::new(busy()).parts();
    let (theirs, into) = (Arc::clone(&fails), Arc::clone(&log));
    parts.board = Box::new(move |_| {
        let mut devices = Devices::new();
        for name in ["a", "b"] {
            devices.add(Arc::new(Faulty {
                name,
                fails: Arc::clone(&theirs),
                log: Arc::clone(&into),
            }))?;
        }
        Ok(Built {
            devices,
            buses: BusBuilder::new().build(),
            eoi: None,
        })
    });
    (Vm::create(spec(2), parts).unwrap(), fails, log)
}

/// The VM is kept for inspection, says both failures, and can only be powered off.
fn is_dead(vm: &Vm, result: Result<(), VmError>, words: [&str; 2]) {
    let failed = result.unwrap_err();
    assert!(matches!(failed, VmError::NotUndone { .. }), "{failed:?}");
    assert_eq!(vm.state(), State::GuruMeditation);
    for text in [failed.to_string(), vm.guru().unwrap().why] {
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let again = vm.resume(ResumeReason::User);
    assert!(matches!(again, Err(VmError::Refused { .. })), "{again:?}");
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}

fn set(fails: &Fails, what: &[&str]) {
    *fails.lock().unwrap() = what.iter().map(|what| (*what).to_owned()).collect();
}

#[test]
fn a_suspend_that_fails_and_cannot_be_undone_ends_in_guru_meditation() {
    let (vm, fails, _) = faulty();
    vm.power_on().unwrap();
    set(&fails, &["suspend a", "resume b"]);
    let words = ["device a: suspend refused", "device b: resume refused"];
    is_dead(&vm, vm.suspend(SuspendReason::User), words);
}

#[test]
fn a_resume_that_fails_and_cannot_be_undone_ends_in_guru_meditation() {
    let (vm, fails, _) = faulty();
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    set(&fails, &["resume b", "suspend a"]);
    let words = ["device b: resume refused", "device a: suspend refused"];
    is_dead(&vm, vm.resume(ResumeReason::User), words);
}

#[test]
fn a_power_on_that_fails_and_cannot_be_undone_ends_in_guru_meditation() {
    let (vm, fails, _) = faulty();
    set(&fails, &["on b", "off a"]);
    let words = ["device b: on refused", "device a: off refused"];
    is_dead(&vm, vm.power_on(), words);
}

#[test]
fn a_runtime_error_whose_suspend_cannot_be_undone_ends_in_guru_meditation() {
    let (vm, fails, _) = faulty();
    vm.power_on().unwrap();
    set(&fails, &["suspend a", "resume b"]);
    vm.raise(error(Action::Suspend));
    until("it is dead", || vm.state() == State::GuruMeditation);
    until("it is told", || vm.errors().vm_errors == 1);
    assert!(vm.guru().unwrap().why.contains("resume refused"));
}

#[test]
fn no_device_hears_of_a_resume_after_a_fatal_error() {
    let (vm, _, log) = faulty();
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    vm.fail().unwrap();
    taken(&log);
    let result = vm.resume(ResumeReason::User);
    assert!(matches!(result, Err(VmError::Fatal { .. })), "{result:?}");
    assert_eq!(vm.state(), State::GuruMeditation);
    assert!(taken(&log).is_empty());
}
