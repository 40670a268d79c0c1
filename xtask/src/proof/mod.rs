// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask proof`: what takes too long for every change. Each proof has a slice, or what came
//! of it, in the ordinary tests; `docs/proof.md` says what was run whole, and what came of it.

mod fuzz;
mod models;
mod mutants;
mod nightly;
mod report;
mod step;
mod storm;

use std::time::{Instant, SystemTime};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

pub(crate) use nightly::miri_slice;
use report::{Found, Report};

#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "two flags of a command line")]
pub(crate) struct Args {
    /// What to run, one after the other; without one, the table of them
    #[arg(value_enum, value_name = "VERB")]
    verbs: Vec<Verb>,
    /// A slice: minutes instead of hours
    #[arg(long)]
    quick: bool,
    /// One JSON object a verb on standard output
    #[arg(long)]
    json: bool,
    /// How many operations, guests, lives or inputs, instead of the usual number
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The seed of shuttle, metamorphic and fuzz, for the same run again (the clock's, if not given)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only what has this in its name: a target, a test, a crate
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(flatten)]
    mutants: mutants::Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verb {
    Stress,
    Metamorphic,
    Shuttle,
    Loom,
    Fuzz,
    Miri,
    Tsan,
    Mutants,
}

/// How much a verb does.
#[derive(Clone, Debug)]
struct Extent {
    /// A slice only.
    quick: bool,
    count: Option<u64>,
    seed: u64,
    only: Option<String>,
}

impl Extent {
    /// The number asked for, or the usual one of a slice or of the whole.
    fn count(&self, slice: u64, whole: u64) -> u64 {
        self.count.unwrap_or(if self.quick { slice } else { whole })
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }
}

/// Runs the verbs asked for, all of them even if one fails; status 1 when one did.
pub(crate) fn main(args: &Args) -> Result<u8> {
    if args.verbs.is_empty() {
        print!("{}", overview());
        return Ok(0);
    }
    let mut failed = false;
    for &verb in &args.verbs {
        let extent = Extent {
            quick: args.quick,
            count: args.count,
            seed: args.seed.unwrap_or_else(fresh_seed),
            only: args.only.clone(),
        };
        let started = Instant::now();
        let found = verb.run(&extent, &args.mutants);
        let report = Report::new(verb.name(), found, started.elapsed());
        failed |= !report.ok;
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!("{report}");
        }
    }
    Ok(u8::from(failed))
}

/// Every run looks at something new; the result names the seed.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // Readable, and small enough for every tool.
    now.map_or(1, |now| u64::from(now.subsec_nanos()).max(1))
}

impl Verb {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn run(self, extent: &Extent, mutants: &mutants::Choice) -> Result<Found> {
        match self {
            Self::Stress => storm::stress(extent),
            Self::Metamorphic => storm::metamorphic(extent),
            Self::Shuttle => models::shuttle(extent),
            Self::Loom => models::loom(extent),
            Self::Fuzz => fuzz::run(extent),
            Self::Miri => nightly::miri(extent),
            Self::Tsan => nightly::tsan(extent),
            Self::Mutants => mutants::run(mutants, extent),
        }
    }

    /// What it does, and how long it takes on two cores, in a slice and whole.
    const fn about(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Stress => (
                "8 threads do 1000000 random operations to one VM, scripted and on KVM",
                "1 min",
                STRESS_TIME,
            ),
            Self::Metamorphic => (
                "100000 guests compute the same whatever is done to their VM",
                "1 min",
                METAMORPHIC_TIME,
            ),
            Self::Shuttle => (
                "4 x 100000 lives of a VM under schedules chosen step by step from a seed",
                "1 min",
                SHUTTLE_TIME,
            ),
            Self::Loom => (
                "every interleaving of the models, with more and more preemptions",
                "2 min",
                LOOM_TIME,
            ),
            Self::Fuzz => (
                "10000000 inputs to every target of fuzz/, a tenth as many with AddressSanitizer",
                "10 min",
                FUZZ_TIME,
            ),
            Self::Miri => (
                "tests of the lowest crates in an interpreter that sees undefined behaviour",
                "1 min",
                MIRI_TIME,
            ),
            Self::Tsan => (
                "tests of the crates whose threads meet, every access watched for data races",
                "3 min",
                TSAN_TIME,
            ),
            Self::Mutants => (
                "does a test fail for every small change of the code? docs/mutation.md",
                "20 min",
                MUTANTS_TIME,
            ),
        }
    }
}

const STRESS_TIME: &str = "hours";
const METAMORPHIC_TIME: &str = "5 min";
const SHUTTLE_TIME: &str = "30 min";
const LOOM_TIME: &str = "2 h";
const FUZZ_TIME: &str = "hours";
const MIRI_TIME: &str = "30 min";
const TSAN_TIME: &str = "20 min";
const MUTANTS_TIME: &str = "4 h";

fn overview() -> String {
    let mut text = String::from(
        "cargo xtask proof VERB... [--quick] [--json] [--count N] [--seed N] [--only TEXT]\n\n",
    );
    text.push_str(&format!(
        "{:<12} {:>7} {:>7}  what\n",
        "verb", "--quick", "whole"
    ));
    for verb in Verb::value_variants() {
        let (what, slice, whole) = verb.about();
        text.push_str(&format!(
            "{:<12} {slice:>7} {whole:>7}  {what}\n",
            verb.name()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_verb_every_verb_is_told_with_what_it_does() {
        let text = overview();
        for verb in Verb::value_variants() {
            let line = text.lines().find(|line| line.starts_with(&verb.name()));
            assert!(line.is_some_and(|line| line.len() > 40), "{}", verb.name());
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::augment_args(clap::Command::new("proof")).debug_assert();
    }

    #[test]
    fn a_count_asked_for_goes_before_slice_and_whole() {
        let mut extent = Extent {
            quick: true,
            count: None,
            seed: 1,
            only: None,
        };
        assert_eq!(extent.count(2, 3), 2);
        extent.quick = false;
        assert_eq!(extent.count(2, 3), 3);
        extent.count = Some(4);
        assert_eq!(extent.count(2, 3), 4);
    }
}
