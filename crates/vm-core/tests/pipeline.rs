// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Components come up in order and go down in exact reverse, from every failure and from destroy.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use common::{DESTROY, Log, Machine, busy, note, spec, taken};
use vm_core::{Component, Emt, Outcome, Round, Vm, VmError};
use vm_state::State;

/// Records; fails at what it is told to.
struct Probe {
    name: String,
    log: Log,
    fails: Option<&'static str>,
}

impl Component for Probe {
    fn name(&self) -> &str {
        &self.name
    }
    fn init(&mut self, _: &mut Emt) -> Outcome {
        note(&self.log, format!("{} init", self.name));
        if self.fails == Some("init") {
            Err("no".into())
        } else {
            Ok(())
        }
    }
    fn init_completed(&mut self, _: &mut Emt, round: Round) -> Outcome {
        if round == Round::Frozen {
            note(&self.log, format!("{} frozen", self.name));
        }
        if self.fails == Some("frozen") && round == Round::Frozen {
            Err("no".into())
        } else {
            Ok(())
        }
    }
    fn term(&mut self, _: &mut Emt) {
        note(&self.log, format!("{} term", self.name));
    }
}

fn create(count: usize, fails: Option<(usize, &'static str)>) -> (Log, Result<Vm, VmError>) {
    let machine = Machine::new(busy());
    let log = Log::default();
    let mut parts = machine.parts();
    for k in 0..count {
        parts.extra.push(Box::new(Probe {
            name: format!("c{k}"),
            log: log.clone(),
            fails: fails.filter(|(at, _)| *at == k).map(|(_, what)| what),
        }));
    }
    let vm = Vm::create(spec(2), parts);
    (log, vm)
}

#[test]
fn sd_v01_a_failure_at_step_k_takes_down_exactly_the_steps_before_it_in_reverse() {
    for k in 0..5 {
        let (log, vm) = create(5, Some((k, "init")));
        let error = vm.expect_err("the probe fails");
        assert!(error.to_string().contains(&format!("c{k}")), "{error}");
        let expected: Vec<String> = (0..=k)
            .map(|i| format!("c{i} init"))
            .chain((0..k).rev().map(|i| format!("c{i} term")))
            .collect();
        assert_eq!(taken(&log), expected, "failure at {k}");
    }
}

#[test]
fn a_failure_at_completion_takes_down_everything() {
    let (log, vm) = create(3, Some((1, "frozen")));
    assert!(vm.is_err());
    assert_eq!(
        taken(&log),
        [
            "c0 init",
            "c1 init",
            "c2 init",
            "c0 frozen",
            "c1 frozen",
            "c2 term",
            "c1 term",
            "c0 term"
        ]
    );
}

#[test]
fn sd_v02_destroy_is_the_exact_reverse_of_create() {
    let (log, vm) = create(3, None);
    let vm = vm.unwrap();
    taken(&log);
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
    assert_eq!(taken(&log), ["c2 term", "c1 term", "c0 term"]);
    assert_eq!(vm.state(), State::Terminated);
}

#[test]
fn a_vm_dropped_while_running_is_taken_down_all_the_same() {
    let (log, vm) = create(2, None);
    let vm = vm.unwrap();
    vm.power_on().unwrap();
    let cell = vm.state_cell().clone();
    taken(&log);
    drop(vm);
    assert_eq!(taken(&log), ["c1 term", "c0 term"]);
    assert_eq!(cell.read(), State::Terminated);
}

#[test]
fn a_spec_that_cannot_be_is_refused_by_field_before_any_thread_starts() {
    let machine = Machine::new(busy());
    for (vcpus, memory, field) in [
        (0, 4096, "cpus"),
        (65, 4096, "cpus"),
        (1, 0, "memory"),
        (1, 4097, "memory"),
    ] {
        let mut spec = spec(vcpus);
        spec.memory_bytes = memory;
        let result = Vm::create(spec, machine.parts());
        assert!(matches!(result, Err(VmError::Spec { field: f, .. }) if f == field));
    }
    assert!(taken(&machine.log).is_empty());
}
