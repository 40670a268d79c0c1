// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What only a nightly compiler can do: `proof miri` (an interpreter that sees undefined behaviour
//! and races) and `proof tsan` (ThreadSanitizer, which sees races at nearly full speed). Which tests
//! cannot run there, and why, is in `docs/proof.md`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Extent;
use super::report::Found;
use super::step::{self, End};
use crate::workspace;

const HOST: &str = "x86_64-unknown-linux-gnu";
const INSTALL: &str =
    "`rustup toolchain install nightly --profile minimal --component miri --component rust-src`";
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Tests of a crate that can run there.
struct Tests {
    package: &'static str,
    /// Which programs, as words for `cargo test`.
    programs: &'static [&'static str],
    /// What only the tests to be run have in their names; all if empty.
    named: &'static str,
    /// Which of those not.
    skipped: &'static [&'static str],
}

/// All tests of these programs.
const fn whole(package: &'static str, programs: &'static [&'static str]) -> Tests {
    Tests {
        package,
        programs,
        named: "",
        skipped: &[],
    }
}

impl Tests {
    /// The command, which runs tests, for these.
    fn of(&self, mut run: Command) -> Command {
        run.args(["--package", self.package])
            .args(self.programs)
            .arg("--")
            .args(Some(self.named).filter(|named| !named.is_empty()))
            .args(self.skipped.iter().flat_map(|name| ["--skip", name]));
        run
    }
}

/// What every change runs under the interpreter, where it is installed: the system call, a bell that
/// is served, and the lists whose nodes are on their callers' stacks.
const MIRI_SLICE: [Tests; 2] = [
    whole("vm-emt", &["--test=futex", "--test=serving"]),
    whole("vm-req", &["--lib"]),
];

/// The kit's own tests have loops that are wrong on purpose, found by what they do in time.
const ALL_BUT_THE_KIT: &[&str] = &[
    "--lib",
    "--test=initiators",
    "--test=rendezvous",
    "--test=sleepers",
];

/// vm-state's other tests are searches on one thread.
const THREADS_OF_STATE: &[&str] = &["--lib", "--test=cell", "--test=observers", "--test=waiting"];

const EMT: Tests = whole("vm-emt", &["--lib", "--tests"]);
const REQ: Tests = whole("vm-req", &["--lib", "--tests"]);
const RENDEZVOUS: Tests = whole("vm-rendezvous", ALL_BUT_THE_KIT);

/// For the interpreter, which takes 100 to 1000 times as long.
const MIRI: [Tests; 5] = [
    EMT,
    REQ,
    RENDEZVOUS,
    Tests {
        package: "vm-state",
        programs: THREADS_OF_STATE,
        named: "",
        skipped: &["an_observer_that_does_not_return_costs_changes_but_no_memory"],
    },
    Tests {
        package: "vm-cpu-kvm",
        programs: &["--lib"],
        named: "run_page",
        skipped: &[],
    },
];

/// With ThreadSanitizer; the slice is the first.
const TSAN: [Tests; 5] = [
    EMT,
    REQ,
    RENDEZVOUS,
    whole("vm-state", THREADS_OF_STATE),
    whole(
        "vm-core",
        &["--test=stress", "--test=lifecycle", "--test=running"],
    ),
];

/// The nightly cargo. Ours would not understand `+nightly`: it is not rustup's.
pub(super) fn cargo() -> Result<Command> {
    let mut ask = Command::new("rustup");
    workspace::run(ask.args(["run", "nightly", "cargo", "--version"])).context(INSTALL)?;
    let mut cargo = Command::new("rustup");
    cargo
        .current_dir(workspace::root())
        .args(["run", "nightly", "cargo"]);
    Ok(cargo)
}

fn has_miri() -> Result<()> {
    workspace::run(cargo()?.args(["miri", "--version"])).context(INSTALL)?;
    Ok(())
}

/// The slice under the interpreter that every change runs; where it is not installed, a word on that.
pub(crate) fn miri_slice() -> Result<String> {
    if has_miri().is_err() {
        return Ok(format!("skipped: no nightly with Miri: {INSTALL}"));
    }
    let mut passed = 0;
    for tests in &MIRI_SLICE {
        passed += step::passed(&workspace::run_within(
            &mut tests.of(interpreter()?),
            LIMIT,
        )?);
    }
    Ok(format!("{passed} tests"))
}

/// The tests under the interpreter.
pub(super) fn miri(extent: &Extent) -> Result<Found> {
    has_miri()?;
    let sets = if extent.quick { &MIRI_SLICE[..] } else { &MIRI };
    each("miri", sets, extent, interpreter)
}

/// `cargo miri test`.
fn interpreter() -> Result<Command> {
    let mut run = cargo()?;
    // Isolated, time is counted in steps: the same run again, whatever the machine's load.
    // proptest asks for files and does without. Its cases take as long as whole programs elsewhere.
    run.env(
        "MIRIFLAGS",
        "-Zmiri-isolation-error=hide -Zmiri-env-forward=PROPTEST_CASES",
    );
    run.env("PROPTEST_CASES", "8");
    run.env("CARGO_TARGET_DIR", workspace::target().join("miri"));
    run.args(["miri", "test", "--no-fail-fast"]);
    Ok(run)
}

/// The tests with ThreadSanitizer in them, and in the standard library.
pub(super) fn tsan(extent: &Extent) -> Result<Found> {
    let sets = if extent.quick { &TSAN[..1] } else { &TSAN };
    each("tsan", sets, extent, || {
        let mut run = cargo()?;
        run.env("RUSTFLAGS", "-Zsanitizer=thread");
        run.env("TSAN_OPTIONS", "halt_on_error=1");
        run.env("CARGO_TARGET_DIR", workspace::target().join("tsan"));
        run.args(["test", "-Zbuild-std", "--target", HOST]);
        Ok(run)
    })
}

fn each(
    verb: &str,
    sets: &[Tests],
    extent: &Extent,
    command: impl Fn() -> Result<Command>,
) -> Result<Found> {
    let mut found = Found::default();
    for tests in sets.iter().filter(|tests| extent.wants(tests.package)) {
        let mut run = tests.of(command()?);
        let done = step::run(verb, tests.package, &mut run, LIMIT)?;
        let replay = format!("cargo xtask proof {verb} --only {}", tests.package);
        found.failures.extend(done.failure(tests.package, &replay)?);
        if done.end == End::Well {
            let passed = done.passed()?;
            found
                .what
                .push(format!("{passed} tests of {}", tests.package));
        }
    }
    Ok(found)
}
