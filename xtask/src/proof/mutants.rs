// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask proof mutants`: does a test fail for every small change of the code?
//!
//! cargo-mutants changes one expression at a time and runs the crate's own tests. What they do not
//! notice is shown to the crate's loom models next. What survives both has to be explained in
//! `docs/mutation.md`, one list item each; a survivor that is not explained there fails the proof.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use serde_json::Value;

use super::Extent;
use super::report::{Failure, Found};
use crate::workspace;

/// The crates whose threads meet: a mistake there shows late and far away.
const CRATES: [&str; 4] = ["vm-state", "vm-emt", "vm-req", "vm-rendezvous"];
const EXPLANATIONS: &str = "docs/mutation.md";
const INSTALL: &str = "cargo-mutants is missing: `cargo install cargo-mutants --locked`";
/// Those of a slice: a file that can be judged in minutes.
const SLICE: (&str, &str) = ("vm-state", "observer.rs");
/// For all mutants of one crate: a thousand times what one takes.
const LIMIT: Duration = Duration::from_secs(6 * 60 * 60);
/// Tests a mutant is not shown to: the models have their own turn, and the kit's wrong loops take
/// seconds whatever the code is.
const LEFT_OUT: [&str; 2] = ["loom", "kit"];

#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Of mutants")]
pub(crate) struct Choice {
    /// Only these crates (all: vm-state, vm-emt, vm-req, vm-rendezvous)
    #[arg(long = "package", value_name = "CRATE", value_parser = CRATES)]
    packages: Vec<String>,
    /// Only files of this name, e.g. cell.rs
    #[arg(long = "file", value_name = "NAME")]
    files: Vec<String>,
    /// Seconds after which a mutant's tests count as hung
    #[arg(long, default_value_t = 20)]
    timeout: u32,
}

/// Which tests look at the mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    Tests,
    Models,
}

/// What became of a set of mutants, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    caught: usize,
    timeouts: usize,
    unviable: usize,
    missed: Vec<String>,
}

/// One line of the summary.
#[derive(Debug)]
struct Row {
    package: String,
    tests: Outcomes,
    models: Outcomes,
    unexplained: Vec<String>,
}

impl Row {
    /// For the one line of the result.
    fn summary(&self) -> String {
        let all = self.tests.mutants();
        let left = self.models.missed.len();
        format!("{all} mutants of {}, {left} of which live", self.package)
    }
}

impl Outcomes {
    fn mutants(&self) -> usize {
        self.caught + self.timeouts + self.unviable + self.missed.len()
    }
}

/// Runs the crates one after the other; a survivor that is not explained is a failure.
pub(super) fn run(args: &Choice, extent: &Extent) -> Result<Found> {
    let mut ask = workspace::cargo();
    workspace::run(ask.args(["mutants", "--version"])).context(INSTALL)?;
    let mut args = args.clone();
    if extent.quick && args.packages.is_empty() && args.files.is_empty() {
        args.packages.push(SLICE.0.to_owned());
        args.files.push(SLICE.1.to_owned());
    }
    let explained = explained(&workspace::root().join(EXPLANATIONS))?;
    let mut rows = Vec::new();
    for package in CRATES.iter().filter(|package| extent.wants(package)) {
        if args.packages.is_empty() || args.packages.iter().any(|wanted| wanted == package) {
            rows.push(judge(package, &args, &explained)?);
        }
    }
    eprint!("{}", table(&rows));
    let unexplained = rows.iter().flat_map(|row| &row.unexplained);
    Ok(Found {
        what: rows.iter().map(Row::summary).collect(),
        failures: unexplained.map(|name| survivor(name)).collect(),
        ..Found::default()
    })
}

fn survivor(name: &str) -> Failure {
    let (file, _) = name.split_once(':').unwrap_or((name, ""));
    let file = file.rsplit('/').next().unwrap_or(file);
    Failure {
        what: format!("not noticed and not explained in {EXPLANATIONS}: {name}"),
        replay: format!("cargo xtask proof mutants --file {file}"),
    }
}

/// One crate's mutants, before its tests and then, as far as these miss them, before its models.
fn judge(package: &str, args: &Choice, explained: &[String]) -> Result<Row> {
    eprintln!(
        "mutants: {package}: before the tests; {}/mutants.out/ grows",
        output(package, Judge::Tests).display()
    );
    let mut run = mutants(package, args, Judge::Tests)?;
    run.args(args.files.iter().flat_map(|file| ["--file", file]));
    let tests = outcomes(run, package, Judge::Tests, |_| true)?;
    let mut models = Outcomes::default();
    if !tests.missed.is_empty() {
        eprintln!(
            "mutants: {package}: {} missed, before the models",
            tests.missed.len()
        );
        let mut run = mutants(package, args, Judge::Models)?;
        for name in &tests.missed {
            run.arg("--re").arg(format!("^{}$", escaped(name)));
        }
        // The tool lets some through that were not asked for.
        let wanted = |name: &str| tests.missed.iter().any(|missed| missed == name);
        models = outcomes(run, package, Judge::Models, wanted)?;
    }
    let unexplained = unexplained(&models.missed, explained);
    Ok(Row {
        package: package.to_owned(),
        tests,
        models,
        unexplained,
    })
}

fn output(package: &str, judge: Judge) -> PathBuf {
    let judge = match judge {
        Judge::Tests => "tests",
        Judge::Models => "models",
    };
    workspace::target()
        .join("mutants")
        .join(package)
        .join(judge)
}

/// The command, short of which mutants. Debug information would only cost time.
fn mutants(package: &str, args: &Choice, judge: Judge) -> Result<Command> {
    let mut run = workspace::cargo();
    run.env_remove("CARGO_TARGET_DIR")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_TEST_DEBUG", "0")
        .args(["mutants", "--package", package, "--no-shuffle"])
        // Tests that are left out of the models are no tests to the tool; the kit is tests too.
        .args(["--exclude-re", "(replace|in) tests::"])
        .args(["--exclude", "**/kit/*", "--exclude", "**/kit.rs"])
        .arg("--output")
        .arg(output(package, judge));
    match judge {
        Judge::Tests => run
            .args(["--timeout", &args.timeout.to_string()])
            .arg("--cargo-test-arg=--lib")
            .args(
                tests_of(package)?
                    .iter()
                    .map(|name| format!("--cargo-test-arg=--test={name}")),
            ),
        // Optimised, else each takes minutes; the tool finds out how long they take unchanged.
        Judge::Models => run
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .args(["--profile", "release", "--cargo-test-arg=--test=loom"]),
    };
    Ok(run)
}

/// The names of a crate's integration tests that judge its mutants.
fn tests_of(package: &str) -> Result<Vec<String>> {
    let mut names = workspace::stems(&format!("crates/{package}/tests"), "rs")?;
    names.retain(|name| !LEFT_OUT.contains(&name.as_str()));
    Ok(names)
}

/// Runs it, and counts what became of the mutants that are `wanted`.
fn outcomes(
    mut run: Command,
    package: &str,
    judge: Judge,
    wanted: impl Fn(&str) -> bool,
) -> Result<Outcomes> {
    let dir = output(package, judge);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let done = workspace::end_within(&mut run, LIMIT)?;
    // 2: some were missed; 3: some timed out. Both are results.
    if !matches!(done.status.code(), Some(0 | 2 | 3)) {
        bail!(
            "`{}` failed ({}); do the tests of {package} pass unchanged?\n{}{}",
            workspace::show(&run),
            done.status,
            done.out,
            done.err
        );
    }
    let file = dir.join("mutants.out/outcomes.json");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    tally(&serde_json::from_str(&text)?, wanted)
}

/// Counts what `outcomes.json` says of each mutant that is `wanted`.
fn tally(report: &Value, wanted: impl Fn(&str) -> bool) -> Result<Outcomes> {
    let mut all = Outcomes::default();
    let list = report["outcomes"].as_array();
    for outcome in list.context("outcomes.json has no list of outcomes")? {
        let Some(name) = outcome["scenario"]["Mutant"]["name"].as_str() else {
            continue; // the run without a mutant
        };
        if !wanted(name) {
            continue;
        }
        match outcome["summary"].as_str() {
            Some("CaughtMutant") => all.caught += 1,
            Some("Timeout") => all.timeouts += 1,
            Some("Unviable") => all.unviable += 1,
            Some("MissedMutant") => all.missed.push(name.to_owned()),
            other => bail!("{name}: no outcome is called {other:?}; is cargo-mutants much newer?"),
        }
    }
    Ok(all)
}

/// A mutant's name without line and column, which every edit changes.
fn lasting(name: &str) -> String {
    let Some((file, rest)) = name.split_once(':') else {
        return name.to_owned();
    };
    let what = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    format!("{file}:{what}")
}

/// The list items that begin with a mutant's lasting name in backticks.
fn explained(file: &Path) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let items = text.lines().filter_map(|line| line.strip_prefix("- `"));
    Ok(items
        .filter_map(|item| item.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect())
}

/// Each explanation is good for one survivor.
fn unexplained(survivors: &[String], explained: &[String]) -> Vec<String> {
    let mut left = explained.to_vec();
    let mut without = Vec::new();
    for name in survivors {
        match left.iter().position(|known| *known == lasting(name)) {
            Some(at) => drop(left.swap_remove(at)),
            None => without.push(name.clone()),
        }
    }
    without
}

/// The text as a regular expression that matches only it.
fn escaped(text: &str) -> String {
    let mut regex = String::new();
    for c in text.chars() {
        // Not every sign: `\<` and `\>` have a meaning of their own.
        if r"\.+*?()|[]{}^$".contains(c) {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

/// The summary, as it stands in the explanations' document.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| crate | mutants | unviable | caught by tests | hung | caught by models | survivors |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (tests, models) = (&row.tests, &row.models);
        let mutants = tests.mutants();
        text.push_str(&format!(
            "| {} | {mutants} | {} | {} | {} | {} | {} |\n",
            row.package,
            tests.unviable + models.unviable,
            tests.caught,
            tests.timeouts,
            models.caught + models.timeouts,
            models.missed.len(),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURVIVOR: &str = "crates/a/src/b.rs:12:3: replace > with >= in C<'_>::d";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_mutant_is_shown_to_every_test_of_its_crate_but_the_kit_and_the_models() {
        assert_eq!(
            tests_of("vm-rendezvous").unwrap(),
            ["initiators", "rendezvous", "sleepers"]
        );
    }

    #[test]
    fn a_report_is_counted_by_outcome_and_the_unmutated_run_is_none() {
        let report = serde_json::json!({"outcomes": [
            {"scenario": "Baseline", "summary": "Success"},
            {"scenario": {"Mutant": {"name": "a"}}, "summary": "CaughtMutant"},
            {"scenario": {"Mutant": {"name": "b"}}, "summary": "MissedMutant"},
            {"scenario": {"Mutant": {"name": "c"}}, "summary": "Timeout"},
            {"scenario": {"Mutant": {"name": "d"}}, "summary": "Unviable"},
            {"scenario": {"Mutant": {"name": "not asked for"}}, "summary": "MissedMutant"},
        ]});
        let expected = Outcomes {
            caught: 1,
            timeouts: 1,
            unviable: 1,
            missed: names(&["b"]),
        };
        let asked_for = |name: &str| name.len() == 1;
        assert_eq!(tally(&report, asked_for).unwrap(), expected);
    }

    #[test]
    fn an_outcome_nobody_knows_is_an_error_that_names_the_mutant() {
        let report = serde_json::json!({"outcomes": [
            {"scenario": {"Mutant": {"name": "a.rs:1:1: b"}}, "summary": "Vanished"},
        ]});
        let error = tally(&report, |_| true).unwrap_err().to_string();
        assert!(error.contains("a.rs:1:1: b"), "{error}");
        assert!(tally(&Value::Null, |_| true).is_err());
    }

    #[test]
    fn an_explanation_outlives_edits_and_is_good_for_one_survivor() {
        let known = names(&["crates/a/src/b.rs: replace > with >= in C<'_>::d"]);
        assert_eq!(lasting(SURVIVOR), known[0]);
        assert_eq!(unexplained(&names(&[SURVIVOR]), &known), names(&[]));
        let twice = names(&[SURVIVOR, SURVIVOR]);
        assert_eq!(unexplained(&twice, &known), names(&[SURVIVOR]));
    }

    #[test]
    fn a_name_with_signs_is_asked_for_literally() {
        assert_eq!(escaped("a() -> b|c"), r"a\(\) -> b\|c");
    }

    #[test]
    fn every_explained_survivor_is_in_a_file_of_the_crates_asked() {
        for name in explained(&workspace::root().join(EXPLANATIONS)).unwrap() {
            let (file, _) = name.split_once(": ").expect("a file and what was changed");
            assert!(workspace::root().join(file).is_file(), "{name}");
        }
    }
}
