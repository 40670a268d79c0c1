// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Models whose threads a checker schedules: `proof shuttle` at random, `proof loom` in every way
//! within a number of preemptions.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Extent;
use super::report::Found;
use super::step::{self, End};
use crate::check::models_for;
use crate::{product, workspace};

const SHUTTLE_LIMIT: Duration = Duration::from_secs(6 * 60 * 60);
/// For the bound that a model has in every check, which it has to end within.
const OWN_LIMIT: Duration = Duration::from_secs(30 * 60);
/// For each bound above it: who does not end there is left at the bound before.
const MORE_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Of an execution: higher bounds take longer paths than loom's own limit of 1000.
const BRANCHES: &str = "100000";
/// Their models have no bound: every interleaving is looked at in every check.
const UNBOUNDED: [&str; 1] = ["vm-state"];

/// A cargo command for programs under `cfg(tool)`, optimised, but for whole-program optimisation.
fn cargo(tool: &str) -> Command {
    let mut cargo = workspace::cargo();
    cargo
        .env("RUSTFLAGS", format!("--cfg {tool}"))
        .env("CARGO_TARGET_DIR", workspace::target().join(tool))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .args(["test", "--release"]);
    cargo
}

/// Whole lives of a VM in random schedules.
pub(super) fn shuttle(extent: &Extent) -> Result<Found> {
    let lives = extent.count(5_000, 100_000);
    let seed = extent.seed;
    let mut found = Found {
        seed: Some(seed),
        ..Found::default()
    };
    for (package, test) in models_for("shuttle")? {
        let mut cargo = cargo("shuttle");
        cargo.env("VM_SHUTTLE_ITERATIONS", lives.to_string());
        cargo.env("VM_SHUTTLE_SEED", seed.to_string());
        cargo.args(["--package", &package, "--test", &test, "--"]);
        cargo.args(extent.only.iter());
        let done = step::run("shuttle", &package, &mut cargo, SHUTTLE_LIMIT)?;
        let replay = format!(
            "cargo xtask proof shuttle --seed {seed} --count {lives}; or only the schedule in the \
             log: what is between its quotes into FILE, then VM_SHUTTLE_REPLAY=/abs/FILE RUSTFLAGS=\
             '--cfg shuttle' CARGO_TARGET_DIR=target/shuttle cargo test --release -p {package} \
             --test {test} NAME-OF-THE-TEST"
        );
        found.failures.extend(done.failure(&package, &replay)?);
        if done.end == End::Well {
            let tests = done.passed()?;
            found
                .what
                .push(format!("{tests} tests of {package}, {lives} lives each"));
        }
    }
    Ok(found)
}

/// How many preemptions a model's interleavings have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    /// What the model has in every check.
    Own,
    At(u8),
    /// More than an execution has.
    None,
}

impl Bound {
    fn apply(self, command: &mut Command) {
        let preemptions = match self {
            Self::Own => return,
            Self::At(bound) => bound,
            Self::None => u8::MAX,
        };
        command.env("LOOM_MAX_PREEMPTIONS", preemptions.to_string());
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("at their own bound"),
            Self::At(bound) => write!(f, "up to {bound} preemptions"),
            Self::None => f.write_str("without a bound"),
        }
    }
}

/// Every model at its own bound, then at higher ones as long as it ends.
pub(super) fn loom(extent: &Extent) -> Result<Found> {
    let mut found = Found::default();
    let mut reached = BTreeMap::<Bound, u64>::new();
    for (package, test) in models_for("loom")? {
        let mut build = cargo("loom");
        build.args(["--package", &package, "--test", &test, "--no-run"]);
        let program = product::programs(&mut build)?.pop();
        let program = program
            .with_context(|| format!("cargo built no {test} of {package}"))?
            .path;
        let listed = workspace::run(Command::new(&program).args(["--list", "--format", "terse"]))?;
        let names = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"));
        for name in names.filter(|name| extent.wants(name) || extent.wants(&package)) {
            let model = |bound: Bound| {
                let mut model = Command::new(&program);
                model.current_dir(workspace::root().join("crates").join(&package));
                model
                    .env("LOOM_MAX_BRANCHES", BRANCHES)
                    .args(["--exact", name]);
                bound.apply(&mut model);
                model
            };
            let replay = format!(
                "RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test --release -p \
                 {package} --test {test} -- --exact {name}"
            );
            let highest = explore(&package, name, extent, model, |done, bound| {
                let what = format!("{package}: {name} ({bound})");
                let mut again = Command::new("env");
                bound.apply(&mut again);
                let env: Vec<_> = again
                    .get_envs()
                    .filter_map(|(key, value)| {
                        Some(format!("{}={} ", key.to_str()?, value?.to_str()?))
                    })
                    .collect();
                let replay = format!("{}{replay}", env.concat());
                found.failures.extend(done.failure(&what, &replay)?);
                Ok(())
            })?;
            if let Some(bound) = highest {
                *reached.entry(bound).or_default() += 1;
            }
        }
    }
    let models: u64 = reached.values().sum();
    found.what.push(format!("{models} models"));
    found.what.extend(
        reached
            .iter()
            .map(|(bound, count)| format!("{count} {bound}")),
    );
    Ok(found)
}

/// Runs one model at higher and higher bounds; the highest it passed, or nothing if it failed.
fn explore(
    package: &str,
    name: &str,
    extent: &Extent,
    model: impl Fn(Bound) -> Command,
    mut fail: impl FnMut(&step::Done, Bound) -> Result<()>,
) -> Result<Option<Bound>> {
    let mut highest = None;
    for bound in bounds(package, extent) {
        let limit = if bound == Bound::Own {
            OWN_LIMIT
        } else {
            MORE_LIMIT
        };
        let step = format!("{package} {name}");
        let done = step::run("loom", &step, &mut model(bound), limit)?;
        match done.end {
            End::Well => highest = Some(bound),
            // A bound above its own is a wish.
            End::Late if bound != Bound::Own => {
                eprintln!(
                    "loom: {step}: does not end within {} s {bound}",
                    limit.as_secs()
                );
                break;
            }
            End::Late | End::Badly => {
                fail(&done, bound)?;
                return Ok(None);
            }
        }
    }
    let own = UNBOUNDED.contains(&package) && highest == Some(Bound::Own);
    Ok(if own { Some(Bound::None) } else { highest })
}

fn bounds(package: &str, extent: &Extent) -> Vec<Bound> {
    if extent.quick || UNBOUNDED.contains(&package) {
        vec![Bound::Own]
    } else {
        vec![
            Bound::Own,
            Bound::At(3),
            Bound::At(4),
            Bound::At(5),
            Bound::None,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    fn extent() -> Extent {
        Extent {
            quick: false,
            count: None,
            seed: 1,
            only: None,
        }
    }

    #[test]
    fn a_model_is_looked_at_without_a_bound_if_it_ends_at_every_one_before() {
        let all = |_| shell("true");
        let highest = explore("vm-none", "ends", &extent(), all, |_, _| Ok(()));
        assert_eq!(highest.unwrap(), Some(Bound::None));
    }

    #[test]
    fn a_model_that_fails_at_a_higher_bound_is_told_with_the_bound() {
        let model = |bound| {
            shell(if bound == Bound::At(4) {
                "false"
            } else {
                "true"
            })
        };
        let mut told = Vec::new();
        let highest = explore("vm-none", "fails", &extent(), model, |_, bound| {
            told.push(bound);
            Ok(())
        });
        assert_eq!((highest.unwrap(), told), (None, vec![Bound::At(4)]));
    }

    #[test]
    fn a_bound_is_given_to_loom_in_its_variable_and_its_own_is_left_alone() {
        let variables = |bound: Bound| {
            let mut command = Command::new("true");
            bound.apply(&mut command);
            let values = command.get_envs().filter_map(|(_, value)| value);
            values
                .map(|value| value.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert!(variables(Bound::Own).is_empty());
        assert_eq!(variables(Bound::At(3)), ["3"]);
        assert_eq!(variables(Bound::None), ["255"]);
    }
}
