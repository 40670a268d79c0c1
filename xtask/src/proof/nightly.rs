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
    /// Which of their tests not.
    skipped: &'static [&'static str],
}

/// For the interpreter, which takes 100 to 1000 times as long; the slice is the first.
const MIRI: [Tests; 5] = [
    Tests {
        package: "vm-emt",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-req",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-rendezvous",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-state",
        programs: &["--lib", "--test=cell", "--test=observers", "--test=waiting"],
        skipped: &[],
    },
    Tests {
        package: "vm-cpu-kvm",
        programs: &["--lib"],
        skipped: &[],
    },
];

/// With ThreadSanitizer; the slice is the first.
const TSAN: [Tests; 5] = [
    Tests {
        package: "vm-emt",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-req",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-rendezvous",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-state",
        programs: &["--lib", "--tests"],
        skipped: &[],
    },
    Tests {
        package: "vm-core",
        programs: &["--test=stress", "--test=lifecycle", "--test=running"],
        skipped: &[],
    },
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

/// The tests under the interpreter.
pub(super) fn miri(extent: &Extent) -> Result<Found> {
    workspace::run(cargo()?.args(["miri", "--version"])).context(INSTALL)?;
    each("miri", &MIRI, extent, || {
        let mut run = cargo()?;
        // Clocks and files are the host's.
        run.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        // A property takes as long as a whole program of tests.
        run.env("PROPTEST_CASES", "8");
        run.env("CARGO_TARGET_DIR", workspace::target().join("miri"));
        run.args(["miri", "test"]);
        Ok(run)
    })
}

/// The tests with ThreadSanitizer in them, and in the standard library.
pub(super) fn tsan(extent: &Extent) -> Result<Found> {
    each("tsan", &TSAN, extent, || {
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
    let sets = if extent.quick {
        sets.get(..1).unwrap_or_default()
    } else {
        sets
    };
    for tests in sets.iter().filter(|tests| extent.wants(tests.package)) {
        let mut run = command()?;
        run.args(["--package", tests.package])
            .args(tests.programs)
            .arg("--");
        run.args(tests.skipped.iter().flat_map(|name| ["--skip", name]));
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
