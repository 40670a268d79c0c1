// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No time passes for the guest of a suspended VM, whatever was tried meanwhile.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "common/hooked.rs"]
mod hooked;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{DESTROY, Log, Machine, busy, note, spec, taken};
use hooked::{Hooked, Hooks};
use vm_core::{BoxError, Cancel, Closing, Emt, Intent, Saver, Vm, VmError, Vote};
use vm_cpu::CpuError;
use vm_state::{ResumeReason, State, SuspendReason};

/// What the machine is told about time is in the log of the devices, and fails if its name is among
/// `fails`.
#[derive(Debug, Default)]
struct With {
    log: Log,
    fails: Mutex<Vec<&'static str>>,
    machine: Mutex<Option<Arc<dyn vm_cpu::Machine>>>,
}

impl With {
    fn told(&self, what: &'static str) -> Result<(), CpuError> {
        note(&self.log, what);
        if self.fails.lock().unwrap().contains(&what) {
            return Err(CpuError::Invalid {
                what: what.into(),
                why: "refused".into(),
            });
        }
        Ok(())
    }
}

impl Hooks for With {
    fn hold_time(&self) -> Result<(), CpuError> {
        self.told("hold")
    }
    fn let_time_go(&self) -> Result<(), CpuError> {
        self.told("go")
    }
    fn created(&self, machine: &Arc<dyn vm_cpu::Machine>) {
        *self.machine.lock().unwrap() = Some(Arc::clone(machine));
    }
}

/// A VM that runs, and what to look at.
struct Guest {
    machine: Machine,
    with: Arc<With>,
    vm: Vm,
}

impl Guest {
    fn new() -> Self {
        let machine = Machine::new(busy());
        let with = Arc::new(With {
            log: Arc::clone(&machine.log),
            ..With::default()
        });
        let mut parts = machine.parts();
        parts.engine = Arc::new(Hooked {
            inner: Arc::clone(&machine.engine),
            hooks: Arc::clone(&with),
        });
        let vm = Vm::create(spec(2), parts).unwrap();
        vm.power_on().unwrap();
        taken(&machine.log);
        Self { machine, with, vm }
    }

    fn log(&self) -> Vec<String> {
        taken(&self.machine.log)
    }

    fn fail(&self, what: &[&'static str]) {
        *self.with.fails.lock().unwrap() = what.to_vec();
    }

    fn fail_device(&self, hook: Option<&'static str>) {
        *self.machine.fails.lock().unwrap() = hook;
    }

    fn suspend(&self) -> Result<(), VmError> {
        self.vm.suspend(SuspendReason::User)
    }

    fn resume(&self) -> Result<(), VmError> {
        self.vm.resume(ResumeReason::User)
    }

    /// The guest's clock.
    fn clock(&self) -> u64 {
        let machine = self.with.machine.lock().unwrap().clone().unwrap();
        machine.clock_ns().unwrap()
    }

    /// What the guest's clock says, twice, with some time in between.
    fn stands(&self) -> bool {
        let (begun, first) = (Instant::now(), self.clock());
        while begun.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        self.clock() == first
    }
}

#[test]
fn sd_m01_no_time_passes_for_the_guest_of_a_suspended_vm() {
    let guest = Guest::new();
    assert!(!guest.stands());
    guest.suspend().unwrap();
    assert_eq!(guest.log(), ["hold", "second suspend", "first suspend"]);
    assert!(guest.stands());
    let (before, begun) = (guest.clock(), Instant::now());
    guest.resume().unwrap();
    assert_eq!(guest.log(), ["first resume", "second resume", "go"]);
    let passed = u128::from(guest.clock() - before);
    assert!(passed <= begun.elapsed().as_nanos(), "{passed} ns passed");
    assert!(!guest.stands());
}

#[test]
fn for_the_guest_no_time_passes_in_a_resume_that_fails() {
    let guest = Guest::new();
    guest.suspend().unwrap();
    let before = guest.clock();
    guest.fail_device(Some("resume"));
    guest.resume().unwrap_err();
    assert_eq!(guest.vm.state(), State::Suspended);
    assert_eq!(guest.clock(), before);
    guest.fail_device(None);
    guest.log();
    guest.fail(&["go"]);
    let failed = guest.resume().unwrap_err();
    assert!(failed.to_string().contains("resume"), "{failed}");
    assert_eq!(guest.vm.state(), State::Suspended);
    assert_eq!(
        guest.log(),
        [
            "first resume",
            "second resume",
            "go",
            "second suspend",
            "first suspend"
        ]
    );
    assert_eq!(guest.clock(), before);
    guest.fail(&[]);
    guest.resume().unwrap();
    assert!(!guest.stands());
}

#[test]
fn a_resume_whose_devices_do_not_get_quiet_again_ends_in_guru_meditation() {
    let guest = Guest::new();
    guest.suspend().unwrap();
    guest.fail(&["go"]);
    guest.fail_device(Some("suspend"));
    let failed = guest.resume().unwrap_err();
    assert!(matches!(failed, VmError::NotUndone { .. }), "{failed}");
    assert_eq!(guest.vm.state(), State::GuruMeditation);
}

#[test]
fn a_suspend_that_cannot_hold_time_disturbs_no_device() {
    let guest = Guest::new();
    guest.fail(&["hold"]);
    guest.suspend().unwrap_err();
    assert_eq!(guest.vm.state(), State::Running);
    assert_eq!(guest.log(), ["hold"]);
    assert!(!guest.stands());
}

#[test]
fn time_goes_on_after_a_suspend_that_fails() {
    let guest = Guest::new();
    guest.fail_device(Some("suspend"));
    guest.suspend().unwrap_err();
    assert_eq!(guest.vm.state(), State::Running);
    assert_eq!(guest.log(), ["hold", "second suspend", "go"]);
    assert!(!guest.stands());
}

#[test]
fn a_suspend_that_fails_and_cannot_let_time_go_ends_in_guru_meditation() {
    let guest = Guest::new();
    guest.fail_device(Some("suspend"));
    guest.fail(&["go"]);
    let failed = guest.suspend().unwrap_err();
    let text = failed.to_string();
    assert!(matches!(failed, VmError::NotUndone { .. }), "{text}");
    assert!(text.contains("suspend refused"), "{text}");
    assert_eq!(guest.vm.state(), State::GuruMeditation);
}

#[test]
fn time_stays_held_over_the_resets_of_a_suspended_vm() {
    let guest = Guest::new();
    guest.suspend().unwrap();
    let before = guest.clock();
    guest.vm.reset().unwrap();
    guest.vm.soft_reset().unwrap();
    assert_eq!(guest.vm.state(), State::Suspended);
    assert_eq!(guest.clock(), before);
    guest.resume().unwrap();
    assert!(!guest.stands());
    guest.vm.reset().unwrap();
    assert!(!guest.stands(), "it runs on");
}

#[test]
fn nobody_lets_time_go_where_nobody_is_left_to_read_a_clock() {
    let guest = Guest::new();
    guest.suspend().unwrap();
    guest.vm.power_off().unwrap();
    guest.vm.destroy(DESTROY).unwrap();
    assert!(!guest.log().contains(&"go".to_owned()));
}

/// A live save of one pass, in which `act` runs; the VM does not run at its end.
struct OnePass<'a> {
    guest: &'a Guest,
    act: &'a (dyn Fn(&Vm) + Sync),
    stood: bool,
    fails: Option<&'static str>,
}

impl Saver for OnePass<'_> {
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
    fn pass(&mut self, _: u32, _: &Cancel) -> Result<Vote, BoxError> {
        (self.act)(&self.guest.vm);
        Ok(Vote::Done)
    }
    fn finish(&mut self, _: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        self.stood = self.guest.stands();
        self.fails.map_or(Ok(()), |why| Err(why.into()))
    }
    fn close(&mut self, _: Closing) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn a_live_save_writes_its_end_while_time_is_held_and_leaves_it_so() {
    let nothing = |_: &Vm| {};
    let resets = |vm: &Vm| vm.reset().unwrap();
    let suspends = |vm: &Vm| vm.suspend(SuspendReason::User).unwrap();
    let acts: [&(dyn Fn(&Vm) + Sync); 3] = [&nothing, &resets, &suspends];
    for (act, fails) in acts
        .into_iter()
        .flat_map(|act| [(act, None), (act, Some("full"))])
    {
        let guest = Guest::new();
        let mut saver = OnePass {
            guest: &guest,
            act,
            stood: false,
            fails,
        };
        let saved = guest.vm.save(&mut saver, Intent::Snapshot);
        assert_eq!(saved.is_err(), fails.is_some(), "{saved:?}");
        assert!(saver.stood, "time passes while the end is written");
        assert_eq!(guest.vm.state(), State::Suspended);
        assert!(guest.stands());
        guest.resume().unwrap();
        assert!(!guest.stands());
    }
}
