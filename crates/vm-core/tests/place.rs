// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is attached to a device while its VM is there.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DESTROY, Log, Machine, busy, note, spec, taken};
use vm_core::{BoardCx, Built, Vm, VmError};
use vm_pdm::{
    Begun, BusBuilder, Change, Device, DeviceError, Devices, Place, PlaceError, ResetKind,
};
use vm_state::{ResumeReason, State, SuspendReason};

/// A device with a place for a number, which records what it hears, and that nothing else is under
/// way meanwhile.
#[derive(Default)]
struct Shelf {
    log: Log,
    number: Mutex<Option<u32>>,
    in_call: AtomicBool,
    is_late: AtomicBool,
}

impl Shelf {
    fn call<T>(&self, what: &str, call: impl FnOnce() -> T) -> T {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default().to_owned();
        assert!(matches!(name.as_str(), "emt" | "emt-0"), "{what} on {name}");
        let inside = self.in_call.swap(true, Ordering::SeqCst);
        assert!(!inside, "{what} inside another call");
        note(
            &self.log,
            format!("{what} {:?}", *self.number.lock().unwrap()),
        );
        std::thread::yield_now();
        let result = call();
        self.in_call.store(false, Ordering::SeqCst);
        result
    }
}

impl Device for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.call("suspend", || Ok(()))
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.call("resume", || Ok(()))
    }
    fn reset(&self, _: ResetKind) -> Result<(), DeviceError> {
        self.call("reset", || Ok(()))
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        self.call("power_off", || Ok(()))
    }
}

impl Place<u32> for Shelf {
    fn device(&self) -> &'static str {
        "shelf"
    }
    fn attached(&self) -> Option<String> {
        self.number.lock().unwrap().map(|n| n.to_string())
    }
    fn begin(&self, change: Change<u32>) -> Result<Begun, PlaceError> {
        self.call(change.name(), || {
            let mut number = self.number.lock().unwrap();
            if matches!(change, Change::Detach) && number.is_none() {
                return Err(PlaceError::Empty {
                    device: "shelf".into(),
                });
            }
            *number = change.into_backend();
            Ok(Begun(1))
        })
    }
    fn settle(&self, _: Begun, limit: Duration) -> Result<(), PlaceError> {
        let name = std::thread::current().name().map(str::to_owned);
        assert!(!name.is_some_and(|name| name.starts_with("emt")));
        if self.is_late.load(Ordering::SeqCst) {
            let device = "shelf".into();
            return Err(PlaceError::Late { device, limit });
        }
        Ok(())
    }
}

fn create() -> (Vm, Arc<Shelf>) {
    let machine = Machine::new(busy());
    let shelf = Arc::new(Shelf::default());
    let mut parts = machine.parts();
    let device = Arc::clone(&shelf);
    parts.board = Box::new(move |_: BoardCx<'_>| {
        let mut devices = Devices::new();
        devices.add(Arc::clone(&device) as _)?;
        Ok(Built {
            devices,
            buses: BusBuilder::new().build(),
            eoi: None,
        })
    });
    (Vm::create(spec(2), parts).unwrap(), shelf)
}

fn end(vm: &Vm) {
    if vm.state() != State::Off {
        vm.power_off().unwrap();
    }
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn what_is_attached_may_change_while_created_running_or_suspended() {
    let (vm, shelf) = create();
    vm.change(&*shelf, Change::Attach(1)).unwrap();
    assert_eq!(vm.state(), State::Created);
    vm.power_on().unwrap();
    vm.change(&*shelf, Change::Replace(2)).unwrap();
    assert_eq!(vm.state(), State::Running);
    vm.suspend(SuspendReason::User).unwrap();
    vm.change(&*shelf, Change::Detach).unwrap();
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(shelf.attached(), None);
    end(&vm);
}

#[test]
fn elsewhere_a_change_is_refused_with_the_states_name_and_the_device_hears_nothing() {
    let (vm, shelf) = create();
    vm.power_on().unwrap();
    vm.fail().unwrap();
    taken(&shelf.log);
    let refused = vm.change(&*shelf, Change::Attach(1)).unwrap_err();
    assert!(matches!(refused, VmError::Refused { .. }), "{refused}");
    for part in ["attach refused", "FATAL_ERROR", "CREATED, RUNNING"] {
        assert!(refused.to_string().contains(part), "{part}: {refused}");
    }
    vm.power_off().unwrap();
    taken(&shelf.log);
    let refused = vm.change(&*shelf, Change::Detach).unwrap_err();
    assert!(refused.to_string().contains("the VM is OFF"), "{refused}");
    assert!(taken(&shelf.log).is_empty());
    vm.destroy(DESTROY).unwrap();
    let gone = vm.change(&*shelf, Change::Detach).unwrap_err();
    assert!(
        matches!(gone, VmError::Gone { .. } | VmError::Refused { .. }),
        "{gone}"
    );
}

#[test]
fn sd_p12_a_device_hears_of_a_suspend_with_what_was_attached_while_the_vm_ran() {
    let (vm, shelf) = create();
    vm.power_on().unwrap();
    vm.change(&*shelf, Change::Attach(7)).unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    let heard = taken(&shelf.log);
    assert_eq!(heard, ["attach None", "suspend Some(7)", "resume Some(7)"]);
    end(&vm);
}

#[test]
fn sd_p04_what_a_device_refuses_or_is_late_with_is_the_callers_error_and_the_vm_runs_on() {
    let (vm, shelf) = create();
    vm.power_on().unwrap();
    let empty = vm.change(&*shelf, Change::Detach).unwrap_err();
    assert!(
        matches!(empty, VmError::Place(PlaceError::Empty { .. })),
        "{empty}"
    );
    assert_eq!(empty.to_string(), "shelf has nothing attached");
    shelf.is_late.store(true, Ordering::SeqCst);
    let late = vm.change(&*shelf, Change::Attach(1)).unwrap_err();
    let limit = spec(2).quiesce_limit;
    assert!(
        matches!(late, VmError::Place(PlaceError::Late { limit: l, .. }) if l == limit),
        "{late}"
    );
    assert_eq!(vm.state(), State::Running);
    assert_eq!(vm.errors().vm_errors, 2);
    end(&vm);
}

#[test]
fn a_change_from_where_it_would_wait_for_itself_is_refused() {
    let (vm, shelf) = create();
    vm.power_on().unwrap();
    let (inner, place) = (vm.clone(), Arc::clone(&shelf));
    let refused = vm
        .on_emt(1, common::LIMIT, move |_| {
            inner.change(&*place, Change::Attach(1))
        })
        .unwrap();
    let refused = refused.unwrap_err();
    assert!(matches!(refused, VmError::WouldBlock { .. }), "{refused}");
    assert_eq!(shelf.attached(), None);
    end(&vm);
}

/// The others may have been faster, or be under way.
fn tried(result: Result<(), VmError>) {
    match result {
        Ok(()) | Err(VmError::Place(_) | VmError::Refused { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_change_never_meets_a_walk_over_the_devices() {
    const ROUNDS: u32 = 60;
    let (vm, shelf) = create();
    vm.power_on().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (vm, shelf) = (&vm, &shelf);
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    let change = match n % 3 {
                        0 => Change::Detach,
                        _ => Change::Replace(n),
                    };
                    tried(vm.change(&**shelf, change));
                }
            });
        }
        let vm = &vm;
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                tried(vm.suspend(SuspendReason::User));
                tried(vm.resume(ResumeReason::User));
            }
        });
        scope.spawn(move || (0..ROUNDS).for_each(|_| tried(vm.reset())));
    });
    let heard = taken(&shelf.log);
    for what in ["replace", "suspend", "reset"] {
        assert!(heard.iter().any(|line| line.starts_with(what)), "no {what}");
    }
    end(&vm);
}
