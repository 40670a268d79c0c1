// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the search over the lifecycle found: an operation that fails or loses leaves nothing behind.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use common::{Machine, busy, spec, until};
use vm_core::{BoxError, Built, Cancel, Closing, Emt, Intent, Parts, Saver, Vm, VmError, Vote};
use vm_cpu::script::{Script, ScriptEngine};
use vm_pdm::{BusBuilder, Devices, Effect, IoCtx, IoHandler};
use vm_state::{State, SuspendReason};

/// A saver with one live pass; `act` runs in it.
struct OnePass<'a> {
    act: &'a (dyn Fn() + Sync),
    finish: Result<(), &'static str>,
}

impl Saver for OnePass<'_> {
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
    fn pass(&mut self, _: u32, _: &Cancel) -> Result<Vote, BoxError> {
        (self.act)();
        Ok(Vote::Done)
    }
    fn finish(&mut self, _: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        self.finish.map_err(Into::into)
    }
    fn close(&mut self, _: Closing) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn a_live_save_that_a_device_refuses_to_suspend_for_leaves_the_vm_running() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    *machine.fails.lock().unwrap() = Some("suspend");
    let mut saver = OnePass {
        act: &|| {},
        finish: Ok(()),
    };
    assert!(vm.save(&mut saver, Intent::Snapshot).is_err());
    assert_eq!(vm.state(), State::Running, "a suspend that is refused does");
}

#[test]
fn a_suspend_that_a_device_refuses_during_a_live_save_leaves_the_vm_running() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    let suspend = || {
        *machine.fails.lock().unwrap() = Some("suspend");
        assert!(vm.suspend(SuspendReason::User).is_err());
        *machine.fails.lock().unwrap() = None;
    };
    let mut saver = OnePass {
        act: &suspend,
        finish: Ok(()),
    };
    let _ = vm.save(&mut saver, Intent::Snapshot);
    assert!(!vm.state().is_failed(), "{}", vm.state());
}

#[test]
fn a_teleport_of_a_suspended_vm_that_fails_leaves_no_mark() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    let mut saver = OnePass {
        act: &|| {},
        finish: Err("disk full"),
    };
    assert!(vm.save(&mut saver, Intent::Teleport).is_err());
    assert!(!vm.teleported(), "it is here");
}

/// Powers off at the first write, and lets the guest wait in it.
struct Once {
    arrived: Arc<AtomicBool>,
    writes: Arc<AtomicU32>,
    go: Arc<AtomicBool>,
}

impl IoHandler for Once {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, _: u64) {
        if self.writes.fetch_add(1, SeqCst) == 0 {
            self.arrived.store(true, SeqCst);
            until("leave to go on", || self.go.load(SeqCst));
            cx.raise(Effect::PowerOff);
        }
    }
}

#[test]
fn a_power_off_that_the_old_machine_asked_for_is_void_after_a_reset() {
    const PORT: u16 = 0x600;
    for _ in 0..20 {
        let (arrived, go, writes) = (Arc::default(), Arc::default(), Arc::default());
        let engine = ScriptEngine::new(busy())
            .vcpu(1, Script::new().pio_write(PORT, 1, 1).work(50).forever());
        let mut parts = Parts::bare(Arc::new(engine));
        let once = Arc::new(Once {
            arrived: Arc::clone(&arrived),
            writes: Arc::clone(&writes),
            go: Arc::clone(&go),
        });
        parts.board = Box::new(move |_| {
            let mut buses = BusBuilder::new();
            buses.pio("once", PORT..=PORT, once.clone())?;
            Ok(Built {
                devices: Devices::new(),
                buses: buses.build(),
                eoi: None,
            })
        });
        let vm = Vm::create(spec(2), parts).unwrap();
        vm.power_on().unwrap();
        until("the guest asks", || arrived.load(SeqCst));
        let meet = || {
            vm.meet(vm_rendezvous::How::together(), |_| {
                Ok(vm_emt::Flow::Continue)
            })
            .unwrap();
        };
        let reset = std::thread::scope(|scope| {
            scope.spawn(meet);
            let reset = scope.spawn(|| {
                (0..200).for_each(|_| std::thread::yield_now());
                vm.reset()
            });
            (0..2000).for_each(|_| std::thread::yield_now());
            go.store(true, SeqCst);
            reset.join().unwrap()
        });
        // Whatever waited for its turn has had it after these.
        if reset.is_ok() {
            meet();
            meet();
            assert_eq!(vm.state(), State::Running, "nobody asked this machine");
        }
    }
}

#[test]
fn an_operation_is_not_refused_because_of_one_that_has_failed_before_it() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    *machine.fails.lock().unwrap() = Some("suspend");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                assert!(vm.suspend(SuspendReason::User).is_err());
            }
        });
        let refused = (0..300).map(|_| vm.reset()).find_map(Result::err);
        done.store(true, SeqCst);
        assert!(
            !matches!(refused, Some(VmError::Refused { .. })),
            "{refused:?}"
        );
    });
}
