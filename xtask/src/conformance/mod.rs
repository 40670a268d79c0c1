// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask conformance`: which test shows which case. The page is written from the names of the
//! tests, so it cannot claim what no test does; the check finds cases that nobody shows.

mod cases;
mod devices;
mod ids;
mod listing;
mod page;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use self::cases::{Family, OTHERS};
use self::ids::{Id, List};
use self::listing::Test;
use crate::workspace;

const PAGE: &str = "docs/conformance.md";

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Write nothing: fail if the page is out of date or anything is wrong
    #[arg(long)]
    check: bool,
}

/// Which tests show a case.
type Shown = BTreeMap<Id, Vec<Test>>;

/// Writes the page, or checks it; status 1 when something is wrong.
pub(crate) fn main(args: &Args) -> Result<u8> {
    if args.check {
        println!("{}", check()?);
        return Ok(0);
    }
    let (shown, mut wrong) = collect(&listing::tests()?);
    wrong.extend(unsettled(&shown));
    let path = workspace::root().join(PAGE);
    std::fs::write(&path, page::render(&shown))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{PAGE}: {}", page::sum(&shown));
    for line in &wrong {
        println!("{line}");
    }
    Ok(u8::from(!wrong.is_empty()))
}

/// The check: the page is what the tests say, and every case is shown or does not apply.
pub(crate) fn check() -> Result<String> {
    let (shown, mut wrong) = collect(&listing::tests()?);
    wrong.extend(unsettled(&shown));
    let there = std::fs::read_to_string(workspace::root().join(PAGE)).unwrap_or_default();
    if there != page::render(&shown) {
        wrong.push(format!(
            "{PAGE} is not what the tests say: run `cargo xtask conformance`"
        ));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(page::sum(&shown))
}

/// Sorts the tests by the cases they name, and what is wrong with names.
fn collect(tests: &[Test]) -> (Shown, Vec<String>) {
    let (mut shown, mut wrong) = (Shown::new(), Vec::new());
    let listed: BTreeSet<_> = families()
        .flat_map(|family| family.cases().map(|(id, _)| id))
        .collect();
    for test in tests {
        let ids = ids::carried(&test.name).unwrap_or_else(|error| {
            wrong.push(format!("{}: {error}", test.package));
            Vec::new()
        });
        for id in ids {
            if listed.contains(&id) || is_of_others(id) {
                shown.entry(id).or_default().push(test.clone());
            } else {
                let Test { package, name } = test;
                wrong.push(format!("{package}: {name}: there is no case {id}"));
            }
        }
    }
    (shown, wrong)
}

fn is_of_others(id: Id) -> bool {
    OTHERS.iter().any(|&(list, letter, count)| {
        (list, letter) == (id.list, id.family) && (1..=count).contains(&id.number)
    })
}

/// The cases that are neither shown nor struck off, and those that are both.
fn unsettled(shown: &Shown) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, text) in families().flat_map(|family| family.cases()) {
        match (shown.get(&id), exemption(id)) {
            (None, None) => wrong.push(format!(
                "{id}: no test shows it, and nothing says why it does not apply: {text}"
            )),
            (Some(tests), Some(_)) => wrong.push(format!(
                "{id}: is said not to apply, but {} shows it",
                tests[0].name
            )),
            (None, Some(_)) | (Some(_), None) => {}
        }
    }
    wrong
}

/// Every family whose cases are to be settled.
fn families() -> impl Iterator<Item = &'static Family> {
    cases::FAMILIES.iter().chain(&devices::FAMILIES)
}

/// The cases that do not apply, and why.
fn exemptions() -> impl Iterator<Item = (Id, &'static str)> {
    let of = |list, lines: &'static [&str]| {
        lines
            .iter()
            .filter_map(move |line| cases::split(list, line))
    };
    of(List::Lifecycle, cases::EXEMPT).chain(of(List::SavedState, devices::EXEMPT))
}

/// Why a case does not apply, if it does not.
fn exemption(id: Id) -> Option<&'static str> {
    let mut reasons = exemptions();
    reasons.find_map(|(case, why)| (case == id).then_some(why))
}

#[cfg(test)]
mod tests;
