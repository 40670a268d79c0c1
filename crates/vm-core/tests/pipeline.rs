// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Components come up in order and go down in exact reverse, from every failure and from destroy.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::Arc;

use common::{DESTROY, Log, Machine, busy, note, spec, taken};
use vm_core::{Component, Emt, Outcome, Round, Vm, VmError};
use vm_pdm::{Device, Devices};
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
        let round = match round {
            Round::Constructed => "constructed",
            Round::Frozen => "frozen",
        };
        note(&self.log, format!("{} {round}", self.name));
        if self.fails == Some(round) {
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

/// A hook of each component, in order.
fn each(hook: &str, components: impl Iterator<Item = usize>) -> Vec<String> {
    components.map(|k| format!("c{k} {hook}")).collect()
}

#[test]
fn sd_v03_the_rounds_come_when_all_are_up_one_after_the_other_in_order() {
    let (log, vm) = create(3, None);
    let rounds = ["init", "constructed", "frozen"];
    let expected = rounds.map(|round| each(round, 0..3)).concat();
    assert_eq!(taken(&log), expected);
    drop(vm);
}

#[test]
fn sd_v01_sd_v03_the_first_failure_of_a_round_ends_it_and_takes_down_everything() {
    for fails in ["constructed", "frozen"] {
        for k in 0..3 {
            let (log, vm) = create(3, Some((k, fails)));
            assert!(vm.is_err());
            let mut expected = each("init", 0..3);
            if fails == "frozen" {
                expected.extend(each("constructed", 0..3));
            }
            expected.extend(each(fails, 0..=k));
            expected.extend(each("term", (0..3).rev()));
            assert_eq!(taken(&log), expected, "{fails} of c{k}");
        }
    }
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

/// A device that tells when it is destroyed.
struct Tells(&'static str, Log);

impl Device for Tells {
    fn name(&self) -> &str {
        self.0
    }
}

impl Drop for Tells {
    fn drop(&mut self) {
        note(&self.1, format!("{} gone", self.0));
    }
}

#[test]
fn sd_p02_a_device_that_cannot_be_made_takes_those_before_it_down_in_reverse() {
    let machine = Machine::new(busy());
    let log = Log::default();
    let into = log.clone();
    let mut parts = machine.parts();
    parts.board = Box::new(move |_| {
        let mut devices = Devices::new();
        for name in ["disk", "net"] {
            devices.add(Arc::new(Tells(name, into.clone())))?;
        }
        Err("console: no terminal".into())
    });
    let error = Vm::create(spec(1), parts).expect_err("the board fails");
    let VmError::Component(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.component, "board");
    assert_eq!(error.source.to_string(), "console: no terminal");
    assert_eq!(taken(&log), ["net gone", "disk gone"]);
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
