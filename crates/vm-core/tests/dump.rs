// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a power-off logs. In a test program of its own, since a program has one logger.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::{DESTROY, Machine, busy};
use vm_cpu::script::{Fault, Script, ScriptEngine};
use vm_state::State;

struct Kept(Mutex<Vec<String>>);

impl log::Log for Kept {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "vm.dump"
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

fn dumped() -> Vec<String> {
    std::mem::take(&mut KEPT.0.lock().unwrap())
}

#[test]
fn sd_d03_a_power_off_logs_each_vcpu_and_the_timers_once_and_nothing_after_a_guru() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let vm = Machine::new(busy()).create(2);
    vm.power_on().unwrap();
    assert!(dumped().is_empty());
    vm.power_off().unwrap();
    let pages = dumped();
    let begins = ["vCPU 1:", "vCPU 0:", "the virtual clock runs at "];
    assert_eq!(pages.len(), begins.len(), "{pages:?}");
    for (page, begin) in pages.iter().zip(begins) {
        assert!(page.starts_with(begin), "{page}");
    }
    assert!(pages[0].contains("rip "), "{}", pages[0]);
    vm.destroy(DESTROY).unwrap();

    let dies = Script::new().work(1).fault(Fault::Shutdown);
    let vm = Machine::with(ScriptEngine::new(busy()).vcpu(1, dies)).create(2);
    vm.power_on().unwrap();
    let limit = Some(Duration::from_secs(60));
    vm.wait_until(|s| s == State::GuruMeditation, limit)
        .unwrap();
    vm.power_off().unwrap();
    assert!(dumped().is_empty());
}
