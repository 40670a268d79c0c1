// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask proof fuzz`: millions of inputs to every target of `fuzz/`, by cargo-fuzz. What was
//! found interesting stays under the target directory and is where the next run begins, besides
//! `fuzz/seeds`.
//!
//! Most inputs go to a program that is instrumented for coverage alone: nearly all code under test is
//! safe, so a fault is a panic, of an overflow too. A tenth as many, beginning with what those found,
//! go to one with AddressSanitizer that also shows libFuzzer what is compared with what, which takes
//! several times as long.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Extent;
use super::nightly;
use super::report::Found;
use super::step::{self, End};
use crate::workspace;

const LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
const INSTALL: &str = "cargo-fuzz is missing: `cargo install cargo-fuzz --locked`";

/// Bytes of an input, at most, where libFuzzer's own 4096 are only more of the same: 32 acts of 12
/// bytes; a kernel's headers and a little that they can point to.
const SHORT: [(&str, u32); 5] = [
    ("console", 384),
    ("devices", 384),
    ("elf", 512),
    ("multiboot", 512),
    ("virtqueue", 384),
];

/// How the targets are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    Plain,
    Address,
}

impl Build {
    const ALL: [Self; 2] = [Self::Plain, Self::Address];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Address => "address",
        }
    }

    /// Of cargo-fuzz.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["--sanitizer=none", "--no-trace-compares"],
            Self::Address => &["--sanitizer=address"],
        }
    }

    fn inputs(self, extent: &Extent) -> u64 {
        match self {
            Self::Plain => extent.count(20_000, 10_000_000),
            Self::Address => extent.count(20_000, 1_000_000),
        }
    }
}

/// Runs the targets one after the other, first all of them plain.
pub(super) fn run(extent: &Extent) -> Result<Found> {
    workspace::run(nightly::cargo()?.args(["fuzz", "--version"])).context(INSTALL)?;
    let mut found = Found {
        seed: Some(extent.seed),
        ..Found::default()
    };
    let targets = targets()?;
    for build in Build::ALL {
        for target in &targets {
            let name = format!("{target} {}", build.name());
            if extent.wants(&name) {
                one(target, build, &name, extent, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// Runs a target of a build, here called `name`.
fn one(target: &str, build: Build, name: &str, extent: &Extent, found: &mut Found) -> Result<()> {
    let corpus = workspace::target().join("fuzz/corpus").join(target);
    let artifacts = workspace::target().join("fuzz/artifacts").join(target);
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let seeds = workspace::root().join("fuzz/seeds").join(target);
    let runs = build.inputs(extent);
    let mut cargo = command(target, build)?;
    cargo
        .arg(&corpus)
        .args(Some(seeds).filter(|seeds| seeds.exists()))
        .args([
            "--".to_owned(),
            format!("-runs={runs}"),
            format!("-seed={}", u32::try_from(extent.seed).unwrap_or(1)),
            format!("-artifact_prefix={}/", artifacts.display()),
            "-print_final_stats=1".to_owned(),
        ]);
    if let Some((_, bytes)) = SHORT.iter().find(|(short, _)| *short == target) {
        // All lengths from the first input on.
        cargo.args([format!("-max_len={bytes}"), "-len_control=0".to_owned()]);
    }
    let done = step::run("fuzz", name, &mut cargo, LIMIT)?;
    let replay = format!(
        "cargo +nightly fuzz run {target} FILE (the input is the newest one in {})",
        artifacts.display()
    );
    found.failures.extend(done.failure(name, &replay)?);
    if done.end == End::Well {
        let executed = executed(&done.said()?).unwrap_or(runs);
        let seconds = done.took.as_secs();
        found
            .what
            .push(format!("{executed} inputs to {name} in {seconds} s"));
    }
    Ok(())
}

fn command(target: &str, build: Build) -> Result<Command> {
    let mut cargo = nightly::cargo()?;
    let directory = workspace::target().join("fuzz").join(build.name());
    cargo
        .args(["fuzz", "run"])
        .args(build.options())
        .arg("--target-dir")
        .arg(directory)
        .arg(target);
    Ok(cargo)
}

fn targets() -> Result<Vec<String>> {
    workspace::stems("fuzz/fuzz_targets", "rs")
}

/// How many inputs libFuzzer says it tried.
fn executed(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_fuzz_workspace_is_run() {
        let manifest = std::fs::read_to_string(workspace::root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
        }
    }

    #[test]
    fn seeds_and_limits_are_of_targets_that_there_are() {
        let targets = targets().unwrap();
        let seeds = workspace::root().join("fuzz/seeds");
        let seeded = std::fs::read_dir(seeds).unwrap();
        let seeded = seeded.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in seeded.chain(SHORT.map(|(name, _)| name.to_owned())) {
            assert!(targets.contains(&name), "{name}");
        }
    }

    #[test]
    fn the_inputs_tried_are_read_from_the_final_figures() {
        let said = "Done 5 runs\nstat::number_of_executed_units: 12\nstat::average_exec: 3\n";
        assert_eq!(executed(said), Some(12));
        assert_eq!(executed("Done"), None);
    }
}
