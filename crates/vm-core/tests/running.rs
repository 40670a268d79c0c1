// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The loop of a running VM: what takes a vCPU out of the guest, in which order it is served, and
//! what wakes a halt.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::{Arc, Barrier, Mutex};

use common::{LIMIT, Machine, busy, note, taken, until};
use vm_cpu::Msi;
use vm_cpu::script::{ApStart, Script, ScriptEngine};
use vm_emt::{Flow, Phase};
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, SuspendReason};

/// Vector 0x40 to the vCPU with this APIC id, fixed, edge (Intel SDM vol. 3, section 11.11).
fn msi(apic: u64) -> Msi {
    Msi {
        addr: 0xfee0_0000 | apic << 12,
        data: 0x40,
    }
}

#[test]
fn t_e07_an_interrupt_does_not_wake_a_suspended_emt() {
    let machine = Machine::new(Script::new().work(3).halt().work(5));
    let vm = machine.create(1);
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    until("at rest", || vm.bells().word(0).phase() == Phase::Parked);
    let engine = vm
        .on_emt(0, LIMIT, |emt| emt.machine().cloned())
        .unwrap()
        .unwrap();
    until("at rest again", || {
        vm.bells().word(0).phase() == Phase::Parked
    });
    let (counts, work) = (vm.bells().counts(0), machine.engine.progress(0).work());
    engine.deliver_msi(msi(0)).unwrap();
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!(vm.bells().counts(0), counts);
    assert_eq!(machine.engine.progress(0).work(), work);
    vm.resume(ResumeReason::User).unwrap();
    until("the interrupt is taken on resume", || {
        machine.engine.progress(0).interrupts() == 1
    });
}

#[test]
fn t_e08_no_wake_up_is_lost_between_a_ring_and_a_park() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    for round in 0..20_000_u32 {
        let answer = vm.on_emt(round % 2, LIMIT, move |_| round);
        assert_eq!(answer.unwrap(), round);
    }
}

#[test]
fn t_e09_an_interrupt_ends_a_halt_with_interrupts_on() {
    let machine = Machine::new(Script::new().work(3).halt().work(5).halt_for_good());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    let progress = machine.engine.progress(0);
    until("halted", || progress.work() >= 3);
    let engine = vm
        .on_emt(0, LIMIT, |emt| emt.machine().cloned())
        .unwrap()
        .unwrap();
    let before = progress.work();
    engine.deliver_msi(msi(0)).unwrap();
    until("the halt ends", || progress.work() >= before + 5);
    assert_eq!(progress.interrupts(), 1);
}

#[test]
fn t_m01_flows_merge_to_the_most_urgent_in_any_order() {
    let all = [Flow::Continue, Flow::Look, Flow::Stop];
    for a in all {
        assert_eq!(a.max(Flow::Continue), a, "Continue is neutral");
        for b in all {
            assert_eq!(a.max(b), b.max(a));
            for c in all {
                assert_eq!(a.max(b).max(c), a.max(b.max(c)));
            }
        }
    }
}

#[test]
fn t_m04_requests_that_wait_behind_a_suspend_run_all_the_same() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    let ran = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (vm, ran) = (&vm, Arc::clone(&ran));
            scope.spawn(move || {
                vm.on_emt(1, LIMIT, move |_| ran.lock().unwrap().push(number))
                    .unwrap();
            });
        }
        vm.suspend(SuspendReason::User).unwrap();
    });
    let mut ran = ran.lock().unwrap().clone();
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2]);
    assert_eq!(vm.state(), State::Suspended);
}

#[test]
fn t_m05_a_rendezvous_is_served_before_requests_that_came_earlier() {
    let machine = Machine::new(busy());
    // Not powered on: EMT 1 rests until the rendezvous holds it.
    let vm = machine.create(2);
    until("EMT 1 rests", || {
        vm.bells().word(1).phase() == Phase::Parked
    });
    taken(&machine.log);
    let (inside, go) = (Barrier::new(2), Barrier::new(2));
    let log = common::Log::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            vm.on_emt(0, LIMIT, |_| {
                inside.wait();
                go.wait();
            })
            .unwrap();
        });
        inside.wait();
        scope.spawn(|| vm.on_emt(0, LIMIT, |_| note(&log, "request")).unwrap());
        until("the request waits", || vm.bells().word(0).pending());
        scope.spawn(|| {
            vm.meet(How::descending().into(), |emt| {
                note(&log, format!("callback {}", emt.id()));
                Ok(Flow::Continue)
            })
            .unwrap();
        });
        until("the rendezvous holds EMT 1", || {
            vm.bells().word(1).phase() == Phase::Idle
        });
        go.wait();
    });
    assert_eq!(taken(&log), ["callback 1", "callback 0", "request"]);
}

#[test]
fn t_m09_a_vcpu_that_waits_for_its_start_up_still_waits_after_suspend_and_resume() {
    let machine = Machine::with(ScriptEngine::new(busy()).aps(ApStart::AfterSipi));
    let vm = machine.create(2);
    vm.power_on().unwrap();
    until("vCPU 0 works", || machine.engine.progress(0).work() > 0);
    for _ in 0..10 {
        vm.suspend(SuspendReason::User).unwrap();
        vm.resume(ResumeReason::User).unwrap();
    }
    assert_eq!(machine.engine.progress(1).work(), 0);
}

#[test]
fn t_m16_each_source_alone_takes_a_spinning_guest_out() {
    let machine = Machine::new(busy());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    let progress = machine.engine.progress(0);
    let spinning = || {
        let before = progress.work();
        until("guest work", || progress.work() > before);
    };
    spinning();
    vm.on_emt(0, LIMIT, |_| ()).unwrap();
    spinning();
    vm.meet(How::once(), |_| Ok(Flow::Continue)).unwrap();
    spinning();
    vm.report(LIMIT.unwrap()).unwrap();
    spinning();
    vm.reset().unwrap();
    spinning();
    vm.suspend(SuspendReason::User).unwrap();
    vm.resume(ResumeReason::User).unwrap();
    spinning();
    vm.fail().unwrap();
    until("at rest", || vm.bells().word(0).phase() == Phase::Parked);
}

#[test]
fn t_r18_a_rendezvous_works_whether_emts_run_rest_or_are_off() {
    let machine = Machine::new(busy());
    let vm = machine.create(3);
    let meet = |state| {
        assert_eq!(vm.state(), state);
        let seen = Mutex::new(Vec::new());
        vm.meet(How::descending().into(), |emt| {
            seen.lock().unwrap().push(emt.id());
            Ok(Flow::Continue)
        })
        .unwrap();
        assert_eq!(seen.into_inner().unwrap(), [2, 1, 0], "{state}");
    };
    meet(State::Created);
    vm.power_on().unwrap();
    meet(State::Running);
    vm.suspend(SuspendReason::User).unwrap();
    meet(State::Suspended);
    vm.power_off().unwrap();
    meet(State::Off);
}
