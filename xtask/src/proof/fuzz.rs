// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask proof fuzz`: millions of inputs to every target of `fuzz/`, by cargo-fuzz. What was
//! found interesting stays under the target directory and is where the next run begins.

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

/// Runs the targets one after the other.
pub(super) fn run(extent: &Extent) -> Result<Found> {
    workspace::run(nightly::cargo()?.args(["fuzz", "--version"])).context(INSTALL)?;
    let runs = extent.count(20_000, 10_000_000);
    let mut found = Found {
        seed: Some(extent.seed),
        ..Found::default()
    };
    for target in targets()?.iter().filter(|target| extent.wants(target)) {
        let corpus = workspace::target().join("fuzz/corpus").join(target);
        let artifacts = workspace::target().join("fuzz/artifacts").join(target);
        for dir in [&corpus, &artifacts] {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let mut cargo = command(target)?;
        cargo.arg(&corpus).args([
            "--".to_owned(),
            format!("-runs={runs}"),
            format!("-seed={}", u32::try_from(extent.seed).unwrap_or(1)),
            format!("-artifact_prefix={}/", artifacts.display()),
            "-print_final_stats=1".to_owned(),
        ]);
        let done = step::run("fuzz", target, &mut cargo, LIMIT)?;
        let replay = format!(
            "cargo +nightly fuzz run {target} FILE (the input is the newest one in {})",
            artifacts.display()
        );
        found.failures.extend(done.failure(target, &replay)?);
        if done.end == End::Well {
            let executed = executed(&done.said()?).unwrap_or(runs);
            let seconds = done.took.as_secs();
            found
                .what
                .push(format!("{executed} inputs to {target} in {seconds} s"));
        }
    }
    Ok(found)
}

fn command(target: &str) -> Result<Command> {
    let mut cargo = nightly::cargo()?;
    cargo
        .args(["fuzz", "run", "--target-dir"])
        .arg(workspace::target().join("fuzz/build"))
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
    fn the_inputs_tried_are_read_from_the_final_figures() {
        let said = "Done 5 runs\nstat::number_of_executed_units: 12\nstat::average_exec: 3\n";
        assert_eq!(executed(said), Some(12));
        assert_eq!(executed("Done"), None);
    }
}
