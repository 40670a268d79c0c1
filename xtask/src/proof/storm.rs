// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whole VMs on real threads: `proof stress` and `proof metamorphic`, the tests of vm-core of these
//! names with more to do.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::Extent;
use super::report::Found;
use super::step::{self, End};
use crate::workspace;

const LIMIT: Duration = Duration::from_secs(6 * 60 * 60);

/// What is stressed, and the test that does it.
const STORMS: [(&str, &str); 2] = [
    (
        "scripted vCPUs",
        "eight_threads_of_random_operations_neither_hang_nor_break_a_scripted_vm",
    ),
    (
        "KVM",
        "eight_threads_of_random_operations_neither_hang_nor_break_a_vm_on_kvm",
    ),
];

/// An optimised test program of vm-core, without whole-program optimisation, which costs more than it
/// saves here.
fn test(name: &str) -> Command {
    let mut cargo = workspace::cargo();
    cargo
        .env("CARGO_TARGET_DIR", step::directory())
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .args(["test", "--release", "--package", "vm-core", "--test", name]);
    cargo
}

/// Eight threads of random operations, on scripted vCPUs and, where it opens, on KVM.
pub(super) fn stress(extent: &Extent) -> Result<Found> {
    let operations = extent.count(20_000, 1_000_000);
    let mut found = Found::default();
    for (on, name) in STORMS.iter().filter(|(on, _)| extent.wants(on)) {
        let mut cargo = test("stress");
        cargo.env("VM_STRESS_OPS", operations.to_string());
        cargo.args(["--", "--nocapture", "--exact", name]);
        let done = step::run("stress", on, &mut cargo, LIMIT)?;
        let replay = format!(
            "VM_STRESS_OPS={operations} cargo test --release -p vm-core --test stress -- --exact \
             {name} (the operations are the same, the order of the threads is the machine's)"
        );
        found.failures.extend(done.failure(on, &replay)?);
        let said = done.said()?;
        let skipped = said.lines().find_map(|line| line.strip_prefix("skipped: "));
        match skipped {
            Some(why) => found.skipped.push(why.to_owned()),
            None if done.end == End::Well => found.what.push(format!(
                "{operations} operations of 8 threads on {on} in {} s",
                done.took.as_secs()
            )),
            None => {}
        }
    }
    Ok(found)
}

/// A guest computes the same whatever is done to its VM, for more seeds.
pub(super) fn metamorphic(extent: &Extent) -> Result<Found> {
    let guests = extent.count(2000, 100_000);
    let seed = extent.seed;
    let mut cargo = test("metamorphic");
    cargo.env("VM_METAMORPHIC_GUESTS", guests.to_string());
    cargo.env("VM_METAMORPHIC_SEED", seed.to_string());
    cargo.args(["--", "--nocapture"]);
    let done = step::run("metamorphic", "guests", &mut cargo, LIMIT)?;
    let replay = format!(
        "VM_METAMORPHIC_GUESTS={guests} VM_METAMORPHIC_SEED={seed} cargo test --release -p vm-core \
         --test metamorphic (or the guest's own seed, which it prints, and one guest)"
    );
    Ok(Found {
        what: vec![format!("{guests} guests disturbed")],
        seed: Some(seed),
        failures: done.failure("the guests", &replay)?.into_iter().collect(),
        ..Found::default()
    })
}
