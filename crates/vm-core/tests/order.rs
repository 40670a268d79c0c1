// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The order of the components is frozen in `golden/components.txt`: a change of it shows as a change
//! of that file. A program of one test, since it reads the log of the whole process.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::OnceLock;

use common::{DESTROY, Log, Machine, busy, note, spec, taken};
use vm_core::{Component, Emt, Outcome, Round, Vm};
use vm_pdm::ResetKind;

static LOG: OnceLock<Log> = OnceLock::new();

/// Notes what components say when they are up and down.
struct Components;

impl log::Log for Components {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if let Some(log) = LOG.get().filter(|_| record.target() == "vm.component") {
            note(log, record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// What an embedder adds.
struct Extra(Log);

impl Component for Extra {
    fn name(&self) -> &'static str {
        "extra"
    }
    fn init(&mut self, _: &mut Emt) -> Outcome {
        Ok(())
    }
    fn init_completed(&mut self, _: &mut Emt, round: Round) -> Outcome {
        note(&self.0, format!("extra completes: {round:?}"));
        Ok(())
    }
    fn reset(&mut self, _: &mut Emt, kind: ResetKind) -> Outcome {
        note(&self.0, format!("extra reset: {kind:?}"));
        Ok(())
    }
}

#[test]
fn sd_v02_sd_v04_the_order_of_components_is_the_one_that_is_written_down() {
    let machine = Machine::new(busy());
    assert!(LOG.set(machine.log.clone()).is_ok());
    log::set_logger(&Components).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let mut parts = machine.parts();
    parts.extra.push(Box::new(Extra(machine.log.clone())));
    let mut order = String::new();
    let mut show = |what: &str| {
        order.push_str(&format!("{what}\n"));
        for line in taken(&machine.log) {
            order.push_str(&format!("    {line}\n"));
        }
    };
    let vm = Vm::create(spec(2), parts).unwrap();
    show("create");
    vm.power_on().unwrap();
    show("power on");
    vm.reset().unwrap();
    show("hard reset");
    vm.soft_reset().unwrap();
    show("soft reset");
    vm.power_off().unwrap();
    show("power off");
    vm.destroy(DESTROY).unwrap();
    show("destroy");
    let golden = include_str!("golden/components.txt");
    let golden: Vec<&str> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(
        order, golden,
        "if it is meant, write this into golden/components.txt:\n{order:#?}"
    );
}
