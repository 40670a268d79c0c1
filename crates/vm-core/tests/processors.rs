// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! vCPUs that come and go, and the execution cap.
//!
//! How much CPU time a cap leaves is shown by `cap`'s own tests on a clock of their own; here it is
//! that a capped guest is brought out, and served.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::Arc;

use common::{LIMIT, Machine, busy, spec, until};
use vm_core::{Built, Vm, VmError, VmSpec};
use vm_cpu::Msi;
use vm_cpu::script::{ApStart, Script, ScriptEngine, Step};
use vm_emt::{Flow, Phase};
use vm_pdm::{BusBuilder, Devices, Effect, IoCtx, IoHandler};
use vm_rendezvous::How;
use vm_state::{ResumeReason, SuspendReason};

/// INIT, and a start-up with vector 8, to vCPU 1 (Intel SDM vol. 3, section 11.11 and 11.12).
const INIT: Msi = Msi {
    addr: 0xfee0_1000,
    data: 0x0500,
};
const START_UP: Msi = Msi {
    addr: 0xfee0_1000,
    data: 0x0608,
};

/// Whether vCPU `v` has executed something after a while in which others did.
fn stands_still(machine: &Machine, v: u32) -> bool {
    let before = machine.engine.progress(v).work();
    let others = machine.engine.progress(0).work();
    until("vCPU 0 works", || {
        machine.engine.progress(0).work() > others + 500
    });
    machine.engine.progress(v).work() == before
}

fn works(machine: &Machine, v: u32) {
    let before = machine.engine.progress(v).work();
    until("the vCPU works", || {
        machine.engine.progress(v).work() > before
    });
}

#[test]
fn t_p01_an_unplugged_vcpu_executes_nothing_and_still_comes_to_every_rendezvous() {
    let machine = Machine::new(busy());
    let vm = machine.create(4);
    vm.power_on().unwrap();
    works(&machine, 2);
    vm.unplug(2).unwrap();
    assert!(!vm.is_plugged(2));
    assert!(stands_still(&machine, 2));
    works(&machine, 3);
    let came = std::sync::Mutex::new(Vec::new());
    vm.meet(How::together().limit(LIMIT.unwrap()), |emt| {
        came.lock().unwrap().push(emt.id());
        Ok(Flow::Continue)
    })
    .unwrap();
    let mut came = came.into_inner().unwrap();
    came.sort_unstable();
    assert_eq!(came, [0, 1, 2, 3]);
    assert_eq!(vm.status().plugged, [0, 1, 3]);
}

#[test]
fn t_p02_t_p03_a_vcpu_that_does_not_exist_and_the_first_one_are_refused() {
    let vm = Machine::new(busy()).create(4);
    let why = |result: Result<(), VmError>| match result {
        Err(VmError::Vcpu { vcpu, why }) => (vcpu, why),
        other => panic!("{other:?}"),
    };
    assert!(why(vm.unplug(4)).1.contains("there are 4"));
    assert!(why(vm.plug(u32::MAX)).1.contains("there are 4"));
    assert_eq!(why(vm.unplug(0)).0, 0);
    assert!(why(vm.plug(3)).1.contains("already"));
    vm.unplug(3).unwrap();
    assert!(why(vm.unplug(3)).1.contains("not plugged"));
    assert_eq!(vm.status().plugged, [0, 1, 2]);
}

#[test]
fn t_p04_a_vcpu_unplugged_while_suspended_does_not_execute_after_resume_or_reset() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    vm.unplug(1).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    assert!(stands_still(&machine, 1));
    vm.reset().unwrap();
    assert!(stands_still(&machine, 1));
    vm.plug(1).unwrap();
    works(&machine, 1);
}

#[test]
fn t_p05_a_start_up_sent_to_an_unplugged_vcpu_is_void_and_one_after_plugging_counts() {
    let machine = Machine::with(ScriptEngine::new(busy()).aps(ApStart::AfterSipi));
    let vm = machine.create(2);
    vm.power_on().unwrap();
    vm.unplug(1).unwrap();
    let apic = vm.on_emt(0, LIMIT, |emt| emt.machine().cloned());
    let apic = apic.unwrap().unwrap();
    apic.deliver_msi(INIT).unwrap();
    apic.deliver_msi(START_UP).unwrap();
    assert!(stands_still(&machine, 1));
    vm.plug(1).unwrap();
    assert!(stands_still(&machine, 1), "that start-up is gone");
    apic.deliver_msi(INIT).unwrap();
    apic.deliver_msi(START_UP).unwrap();
    works(&machine, 1);
}

#[test]
fn sd_v10_a_vcpu_that_is_there_later_waits_for_its_start_up_when_it_is_plugged() {
    let machine = Machine::with(ScriptEngine::new(busy()).aps(ApStart::AfterSipi));
    let spec = VmSpec {
        plugged: Some(1),
        ..spec(2)
    };
    let vm = Vm::create(spec, machine.parts()).unwrap();
    vm.power_on().unwrap();
    assert_eq!(vm.status().plugged, [0]);
    assert!(stands_still(&machine, 1));
    assert_eq!(machine.engine.progress(1).entries(), 0);
    vm.plug(1).unwrap();
    assert!(stands_still(&machine, 1));
    let apic = vm.on_emt(0, LIMIT, |emt| emt.machine().cloned());
    let apic = apic.unwrap().unwrap();
    apic.deliver_msi(INIT).unwrap();
    apic.deliver_msi(START_UP).unwrap();
    works(&machine, 1);
}

#[test]
fn a_specification_with_more_plugged_than_there_are_or_none_is_refused() {
    for plugged in [0, 3] {
        let spec = VmSpec {
            plugged: Some(plugged),
            ..spec(2)
        };
        let refused = Vm::create(spec, Machine::new(busy()).parts());
        assert!(matches!(refused, Err(VmError::Spec { field: "cpus", .. })));
    }
}

/// Gives up the vCPU whose number is written.
struct GiveUp;

impl IoHandler for GiveUp {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, value: u64) {
        cx.raise(Effect::Unplug(u32::try_from(value).unwrap_or(u32::MAX)));
    }
}

fn guest_that_gives_up(script: Script, vcpus: u32) -> (Machine, Vm) {
    let machine = Machine::with(ScriptEngine::new(busy()).vcpu(0, script));
    let mut parts = machine.parts();
    parts.board = Box::new(|_| {
        let mut buses = BusBuilder::new();
        buses.pio("ged", 0x618..=0x618, Arc::new(GiveUp))?;
        Ok(Built {
            devices: Devices::new(),
            buses: buses.build(),
            eoi: None,
        })
    });
    let vm = Vm::create(spec(vcpus), parts).unwrap();
    (machine, vm)
}

#[test]
fn a_vcpu_that_the_guest_gives_up_executes_nothing_once_that_access_is_finished() {
    let script = Script::new().work(10).pio_write(0x618, 1, 1);
    let (machine, vm) = guest_that_gives_up(script.then_work(), 2);
    vm.power_on().unwrap();
    // vCPU 0 goes on behind that access, which is a step itself, only when the other one is out of
    // the guest.
    until("given up", || {
        !vm.is_plugged(1) && machine.engine.progress(0).work() > 11
    });
    assert!(stands_still(&machine, 1));
}

#[test]
fn a_guest_that_gives_up_what_it_has_not_or_its_first_vcpu_goes_on() {
    let script = Script::new()
        .pio_write(0x618, 1, 0)
        .pio_write(0x618, 1, 9)
        .work(1);
    let (machine, vm) = guest_that_gives_up(script.then_work(), 2);
    vm.power_on().unwrap();
    works(&machine, 0);
    assert_eq!(vm.status().plugged, [0, 1]);
}

trait ThenWork {
    fn then_work(self) -> Script;
}

impl ThenWork for Script {
    /// Ends in work that does not end, in steps.
    fn then_work(self) -> Script {
        let to = self.len();
        self.work(50).then(Step::Forever { to })
    }
}

#[test]
fn t_p07_a_cap_outside_1_to_100_is_refused_and_the_old_one_stays() {
    let vm = Machine::new(busy()).create(1);
    vm.set_cap(25).unwrap();
    for percent in [0, 101, u32::MAX] {
        assert!(matches!(
            vm.set_cap(percent),
            Err(VmError::Spec { field: "cap", .. })
        ));
    }
    assert_eq!((vm.cap(), vm.status().cap_percent), (25, 25));
}

#[test]
fn t_p09_sd_f09_a_specification_with_such_a_cap_creates_nothing() {
    for cap_percent in [0, 101] {
        let spec = VmSpec {
            cap_percent,
            ..spec(1)
        };
        let refused = Vm::create(spec, Machine::new(busy()).parts());
        assert!(matches!(refused, Err(VmError::Spec { field: "cap", .. })));
    }
}

#[test]
fn t_p06_a_capped_guest_that_never_exits_is_brought_out_parked_and_let_in_again() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    vm.set_cap(1).unwrap();
    vm.power_on().unwrap();
    for _ in 0..3 {
        let kicks = machine.engine.progress(0).kicks();
        until("brought out", || machine.engine.progress(0).kicks() > kicks);
        until("it waits", || vm.bells().word(0).phase() == Phase::Parked);
        works(&machine, 0);
    }
}

#[test]
fn t_p08_a_capped_vcpu_serves_requests_and_suspends_while_it_waits_for_its_slice() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.set_cap(1).unwrap();
    vm.power_on().unwrap();
    until("it waits", || vm.bells().word(1).phase() == Phase::Parked);
    let entries = machine.engine.progress(1).entries();
    assert_eq!(vm.on_emt(1, LIMIT, |emt| emt.id()).unwrap(), 1);
    vm.suspend(SuspendReason::User).unwrap();
    // A slice may have begun meanwhile, and no more than a few.
    assert!(machine.engine.progress(1).entries() <= entries + 20);
    vm.resume(ResumeReason::User).unwrap();
    vm.set_cap(100).unwrap();
    works(&machine, 1);
}
