// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask check`: everything a change must pass besides the lab, step by step.

mod docs;
pub(crate) mod graph;
mod package;
mod tidy;

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use crate::{api, conformance, product, proof, workspace};

const PORTABLE_TARGET: &str = "aarch64-unknown-linux-gnu";
/// No cargo step of ours takes half as long on two cores.
const STEP_LIMIT: Duration = Duration::from_secs(20 * 60);
const EXAMPLE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only these steps
    #[arg(long, value_enum)]
    only: Vec<Step>,
    /// Not these steps
    #[arg(long, value_enum)]
    skip: Vec<Step>,
}

/// The steps, the quickest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    Fmt,
    Graph,
    Docs,
    Tidy,
    Clippy,
    Rustdoc,
    Api,
    Tests,
    /// Behind the tests, whose programs it asks
    Conformance,
    Examples,
    Portable,
    Package,
    Loom,
    Shuttle,
    /// Only where a nightly compiler has it
    Miri,
}

/// Runs the steps, all of them even if one fails; status 1 when one did.
pub(crate) fn main(args: &Args) -> Result<u8> {
    let mut failed = Vec::new();
    for step in Step::value_variants() {
        if args.skip.contains(step) || !(args.only.is_empty() || args.only.contains(step)) {
            continue;
        }
        print!("{:<11} ", format!("{step:?}").to_lowercase());
        std::io::stdout().flush()?;
        let start = Instant::now();
        let done = step.run();
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(what) => println!("ok     {seconds:6.1} s  {what}"),
            Err(error) => {
                println!("FAILED {seconds:6.1} s\n{error:#}");
                failed.push(format!("{step:?}").to_lowercase());
            }
        }
    }
    if !failed.is_empty() {
        println!(
            "failed: {} (again with `cargo xtask check --only STEP`)",
            failed.join(", ")
        );
    }
    Ok(u8::from(!failed.is_empty()))
}

impl Step {
    /// What was looked at, in a few words.
    fn run(self) -> Result<String> {
        match self {
            Self::Fmt => cargo(&["fmt", "--all", "--check"], &[]),
            Self::Graph => graph::check(),
            Self::Docs => docs::check(),
            Self::Tidy => tidy::check(),
            Self::Clippy => cargo(
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ],
                &[],
            ),
            Self::Rustdoc => cargo(
                &[
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ],
                &[("RUSTDOCFLAGS", "-D warnings")],
            ),
            Self::Api => api::check(),
            Self::Tests => cargo(&["test", "--workspace"], &[]),
            Self::Conformance => conformance::check(),
            Self::Examples => examples(),
            Self::Portable => portable(),
            Self::Package => package::check(),
            Self::Loom => models("loom"),
            Self::Shuttle => models("shuttle"),
            Self::Miri => proof::miri_slice(),
        }
    }
}

fn cargo(words: &[&str], env: &[(&str, &str)]) -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(words).envs(env.iter().copied());
    workspace::run_within(&mut cargo, STEP_LIMIT)?;
    Ok(String::new())
}

/// Every example runs to its end, without KVM, and says something.
fn examples() -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--workspace", "--examples"]);
    let examples = product::programs(&mut cargo)?;
    for (n, example) in examples.iter().enumerate() {
        if examples
            .iter()
            .skip(n + 1)
            .any(|other| other.path == example.path)
        {
            bail!(
                "two examples are called {}; one overwrites the other",
                example.name
            );
        }
        let said = workspace::run_within(&mut Command::new(&example.path), EXAMPLE_LIMIT)?;
        if said.trim().is_empty() {
            bail!("example {} prints nothing", example.name);
        }
    }
    Ok(format!("{} examples", examples.len()))
}

/// The crates that know no processor compile for another one.
fn portable() -> Result<String> {
    let crates = graph::Graph::read()?.portable();
    let mut cargo = workspace::cargo();
    cargo.args(["check", "--target", PORTABLE_TARGET]);
    cargo.args(crates.iter().flat_map(|name| ["--package", name]));
    workspace::run_within(&mut cargo, STEP_LIMIT).map_err(|error| {
        error.context(format!("`rustup target add {PORTABLE_TARGET}`, if missing"))
    })?;
    Ok(format!("{} crates for {PORTABLE_TARGET}", crates.len()))
}

/// The models for `tool`: every `tests/TOOL*.rs` of a crate, with `cfg(TOOL)`, in a target directory
/// of their own.
fn models(tool: &str) -> Result<String> {
    let models = models_for(tool)?;
    if models.is_empty() {
        bail!("no crate has a tests/{tool}*.rs");
    }
    for (package, test) in &models {
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--release", "--package", package, "--test", test]);
        cargo.env("RUSTFLAGS", format!("--cfg {tool}"));
        cargo.env("CARGO_TARGET_DIR", workspace::target().join(tool));
        // Whole-program optimisation costs more here than it saves.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        workspace::run_within(&mut cargo, STEP_LIMIT)?;
    }
    let names: Vec<_> = models.iter().map(|(package, _)| package.as_str()).collect();
    Ok(format!("models of: {}", names.join(", ")))
}

/// Which crates have models for `tool`, and the test programs these are.
pub(crate) fn models_for(tool: &str) -> Result<Vec<(String, String)>> {
    let mut models = Vec::new();
    for entry in std::fs::read_dir(workspace::root().join("crates"))? {
        let dir = entry?.path();
        let Ok(tests) = std::fs::read_dir(dir.join("tests")) else {
            continue;
        };
        for test in tests {
            let test = test?.path();
            let (name, package) = (test.file_stem(), dir.file_name());
            let (Some(name), Some(package)) = (name, package) else {
                continue;
            };
            let (name, package) = (name.to_string_lossy(), package.to_string_lossy());
            if name.starts_with(tool) && test.extension().is_some_and(|ending| ending == "rs") {
                models.push((package.into_owned(), name.into_owned()));
            }
        }
    }
    models.sort();
    Ok(models)
}
