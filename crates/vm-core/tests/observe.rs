// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM counts, and the pages about its parts.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use common::{DESTROY, Machine, busy, spec, until};
use vm_core::{Built, Parts, Vm};
use vm_cpu::script::{Gate, Script, ScriptEngine};
use vm_emt::Phase;
use vm_pdm::info::{InfoError, Page};
use vm_pdm::stats::{Counter, Pattern, Scope, StatError, Unit, Value};
use vm_pdm::{BusBuilder, Device, Devices};
use vm_state::{ResumeReason, State, SuspendReason};

const LONG: Duration = Duration::from_secs(60);

/// What the counter or profile at `path` counted.
fn count(vm: &Vm, path: &str) -> u64 {
    let snapshot = vm.stats().snapshot(&path.parse().unwrap());
    match snapshot.get(path) {
        Some(Value::Counter(n) | Value::Profile { count: n, .. }) => n,
        other => panic!("{path}: {other:?}"),
    }
}

fn page(vm: &Vm, name: &str, args: &str) -> String {
    vm.infos().run(name, args, LONG).unwrap()
}

#[test]
fn exits_are_counted_by_kind_and_vcpu() {
    let gate = Gate::new();
    let script = Script::new().pio_write(0x500, 1, 0).pio_write(0x500, 1, 0);
    let script = script.pio_read(0x500, 1).mmio_write(0xd000_0000, 4, 1);
    let engine = ScriptEngine::new(busy()).vcpu(1, script.never_leave(&gate));
    let machine = Machine::with(engine);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    gate.wait_for_arrivals(1);
    let exits = |v, kind| count(&vm, &format!("/emt/{v}/exits/{kind}"));
    assert_eq!(exits(1, "pio-write"), 2);
    assert_eq!(exits(1, "pio-read"), 1);
    assert_eq!(exits(1, "mmio-write"), 1);
    assert_eq!(exits(0, "pio-write"), 0);
    assert_eq!(count(&vm, "/bus/pio/unassigned-writes"), 2);
    assert_eq!(count(&vm, "/bus/pio/unassigned-reads"), 1);
    assert_eq!(count(&vm, "/bus/mmio/unassigned-writes"), 1);
    gate.release();
}

#[test]
fn operations_are_counted_with_those_that_failed() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    vm.power_on().unwrap();
    for _ in 0..2 {
        vm.suspend(SuspendReason::User).unwrap();
        vm.suspend(SuspendReason::User).unwrap_err();
        vm.resume(ResumeReason::User).unwrap();
    }
    vm.reset().unwrap();
    vm.soft_reset().unwrap();
    for (path, expected) in [
        ("power-on/took", 1),
        ("suspend/took", 2),
        ("suspend/failed", 2),
        ("resume/took", 2),
        ("resume/failed", 0),
        ("hard-reset/took", 1),
        ("soft-reset/took", 1),
        ("power-off/took", 0),
    ] {
        assert_eq!(count(&vm, &format!("/vm/ops/{path}")), expected, "{path}");
    }
    // Each EMT had its part in each of those that began.
    for v in 0..2 {
        assert_eq!(count(&vm, &format!("/emt/{v}/parts")), 7);
    }
}

#[test]
fn sd_t05_a_reset_of_the_vm_leaves_the_counters_as_they_are() {
    let machine = Machine::new(Script::new().pio_write(0x500, 1, 0).halt_for_good());
    let vm = machine.create(1);
    vm.power_on().unwrap();
    until("the write", || count(&vm, "/emt/0/exits/pio-write") == 1);
    vm.reset().unwrap();
    until("the write after the reset", || {
        count(&vm, "/emt/0/exits/pio-write") == 2
    });
    vm.suspend(SuspendReason::User).unwrap();
    let before = count(&vm, "/bus/pio/unassigned-writes");
    vm.reset().unwrap();
    assert_eq!(count(&vm, "/bus/pio/unassigned-writes"), before);
    assert_eq!(count(&vm, "/vm/ops/suspend/took"), 1);
}

#[test]
fn requests_and_kicks_are_counted_for_their_emt() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    for _ in 0..3 {
        vm.on_emt(1, Some(LONG), |_| ()).unwrap();
    }
    // A request is counted after its answer; who sleeps has counted them all.
    let sleep = |v| until("asleep", || vm.bells().word(v).phase() == Phase::Parked);
    sleep(0);
    sleep(1);
    let other = count(&vm, "/emt/0/requests");
    assert!(count(&vm, "/emt/1/requests") >= 3);
    vm.on_emt(1, Some(LONG), |_| ()).unwrap();
    sleep(1);
    assert_eq!(count(&vm, "/emt/0/requests"), other);
    let kicks = |v| vm.bells().counts(v).kicks;
    assert_eq!(count(&vm, "/emt/1/kicks"), kicks(1));
    assert!(count(&vm, "/emt/1/parks") > 0);
}

/// A device that counts, and whose page is as it is told.
struct Talker {
    page: fn(u64, &mut Page) -> fmt::Result,
    count: Arc<Counter>,
}

impl Device for Talker {
    fn name(&self) -> &'static str {
        "talker"
    }
    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        scope.part("said", Unit::Count, "", &self.count, |c| c)?;
        Ok(())
    }
    fn info(&self, page: &mut Page) -> fmt::Result {
        (self.page)(self.count.get(), page)
    }
}

fn with_talker(page: fn(u64, &mut Page) -> fmt::Result) -> Vm {
    let mut parts = Parts::bare(Arc::new(ScriptEngine::new(busy())));
    parts.board = Box::new(move |_| {
        let count = Arc::new(Counter::new());
        count.add(7);
        let mut devices = Devices::new();
        devices.add(Arc::new(Talker { page, count }))?;
        Ok(Built {
            devices,
            buses: BusBuilder::new().build(),
            eoi: None,
        })
    });
    let vm = Vm::create(spec(2), parts).unwrap();
    vm.power_on().unwrap();
    vm
}

#[test]
fn sd_d04_a_devices_page_and_statistics_are_there_while_it_is() {
    let vm = with_talker(|n, page| writeln!(page, "said {n}"));
    assert_eq!(count(&vm, "/device/talker/said"), 7);
    assert_eq!(page(&vm, "talker", ""), "said 7\n");
    assert!(page(&vm, "help", "").contains("talker"));
    vm.power_off().unwrap();
    assert_eq!(page(&vm, "talker", ""), "said 7\n", "it is still there");
    vm.destroy(DESTROY).unwrap();
    let gone = vm.infos().run("talker", "", LONG);
    assert!(matches!(gone, Err(InfoError::NotFound { .. })));
    assert_eq!(page(&vm, "help", ""), "");
    let rest = vm.stats().snapshot(&"/device/*|/bus/*".parse().unwrap());
    assert!(rest.samples.is_empty());
}

#[test]
fn sd_d02_a_devices_page_that_panics_leaves_the_vm_as_it_was() {
    let vm = with_talker(|_, _| panic!("on purpose"));
    let error = vm.infos().run("talker", "", LONG).unwrap_err();
    assert!(matches!(error, InfoError::Panicked { .. }), "{error}");
    assert_eq!(vm.state(), State::Running);
    vm.suspend(SuspendReason::User).unwrap();
}

#[test]
fn the_pages_of_the_machine_tell_of_cpu_interrupts_memory_bus_and_timers() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    for state in ["created", "running", "suspended"] {
        match state {
            "running" => vm.power_on().unwrap(),
            "suspended" => vm.suspend(SuspendReason::User).unwrap(),
            _ => {}
        }
        let cpu = page(&vm, "cpu", "");
        assert!(cpu.contains("vCPU 0:") && cpu.contains("vCPU 1:"), "{cpu}");
        assert!(cpu.contains("rip "), "{cpu}");
        let one = page(&vm, "cpu", " 1 ");
        assert!(!one.contains("vCPU 0:") && one.contains("vCPU 1:"), "{one}");
        let irq = page(&vm, "irq", "0");
        assert!(irq.contains("in service: none"), "{irq}");
    }
    assert_eq!(page(&vm, "cpu", "2"), "the vCPUs are 0 to 1\n");
    assert_eq!(
        page(&vm, "irq", "-"),
        "interrupt controllers: Split\nthe vCPUs are 0 to 1\n"
    );
    assert_eq!(
        page(&vm, "memory", ""),
        "1048576 bytes of guest memory\n0x0000000000000000 - 0x00000000000fffff\n"
    );
    assert!(page(&vm, "bus", "").contains("ports     0x0600 - 0x0600  power\n"));
    assert!(page(&vm, "timers", "").starts_with("the virtual clock is held at "));
    assert_eq!(page(&vm, "first", ""), "first has nothing to show\n");
}

#[test]
fn the_page_of_an_emt_that_does_not_answer_says_so_and_comes_in_time() {
    let gate = Gate::new();
    let engine = ScriptEngine::new(busy()).vcpu(1, Script::new().never_leave(&gate));
    let machine = Machine::with(engine);
    let vm = machine.create(2);
    vm.power_on().unwrap();
    gate.wait_for_arrivals(1);
    let limit = Duration::from_secs(4);
    let text = vm.infos().run("cpu", "1", limit).unwrap();
    assert!(text.starts_with("vCPU 1: in the guest"), "{text}");
    assert!(text.contains("its EMT does not answer"), "{text}");
    assert!(page(&vm, "cpu", "0").contains("rip "));
    gate.release();
}

#[test]
fn what_the_engine_counts_is_shown_while_there_is_a_machine() {
    let engine = match vm_cpu_kvm::KvmEngine::open() {
        Ok(engine) => engine,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let vm = Vm::create(spec(2), Parts::bare(Arc::new(engine))).unwrap();
    let all = || vm.stats().snapshot(&"/engine/*".parse().unwrap());
    let counts = all();
    assert!(counts.samples.is_empty() || counts.get("/engine/vcpu/1/exits").is_some());
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert!(all().samples.is_empty());
}

#[test]
fn everything_that_a_vm_counts_has_a_unit_and_a_valid_openmetrics_form() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    let snapshot = vm.stats().snapshot(&Pattern::default());
    assert!(snapshot.samples.len() > 50);
    let text = snapshot.openmetrics();
    assert!(text.contains("# TYPE vm_emt_kicks counter\n"));
    assert!(text.contains("vm_emt_exits_halt_total{emt=\"1\",path=\"/emt/1/exits/halt\"} 0\n"));
    assert!(text.ends_with("# EOF\n"));
}
