// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What came of a proof: one line for people, one object for programs.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// What a proof looked at.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What and how many, e.g. `1000000 operations on scripted vCPUs`.
    pub(super) what: Vec<String>,
    /// Of random proofs: the same seed is the same run.
    pub(super) seed: Option<u64>,
    /// What could not be looked at, and why.
    pub(super) skipped: Vec<String>,
    /// What is wrong, each with how to see it again.
    pub(super) failures: Vec<Failure>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) replay: String,
}

/// The result of one verb.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    proof: String,
    pub(super) ok: bool,
    what: Vec<String>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    skipped: Vec<String>,
    failures: Vec<Failure>,
}

impl Report {
    /// A proof that could not be run is a failure too.
    pub(super) fn new(proof: String, found: Result<Found>, took: Duration) -> Self {
        let found = found.unwrap_or_else(|error| Found {
            failures: vec![Failure {
                what: format!("{error:#}"),
                replay: format!("cargo xtask proof {proof}"),
            }],
            ..Found::default()
        });
        Self {
            proof,
            ok: found.failures.is_empty(),
            what: found.what,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            seed: found.seed,
            skipped: found.skipped,
            failures: found.failures,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{}: {}", self.proof, failure.what)?;
            writeln!(f, "{}: again: {}", self.proof, failure.replay)?;
        }
        let verdict = if self.ok { "ok" } else { "FAILED" };
        write!(f, "{:<11} {verdict:<6} {:>8.1} s", self.proof, self.seconds)?;
        if !self.what.is_empty() {
            write!(f, "  {}", self.what.join(", "))?;
        }
        for skipped in &self.skipped {
            write!(f, "; skipped: {skipped}")?;
        }
        match self.seed {
            Some(seed) => write!(f, "; seed {seed}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_that_cannot_run_fails_and_says_how_to_run_it_again() {
        let error = Err(anyhow::anyhow!("no nightly").context("miri cannot run"));
        let report = Report::new("miri".into(), error, Duration::from_secs(1));
        assert!(!report.ok);
        let text = report.to_string();
        assert!(text.contains("miri cannot run: no nightly"), "{text}");
        assert!(text.contains("again: cargo xtask proof miri"), "{text}");
        assert!(
            text.lines()
                .last()
                .unwrap()
                .starts_with("miri        FAILED"),
            "{text}"
        );
    }

    #[test]
    fn a_result_is_one_line_with_what_how_long_and_the_seed() {
        let found = Found {
            what: vec!["3 lives".into()],
            seed: Some(7),
            skipped: vec!["no /dev/kvm".into()],
            ..Found::default()
        };
        let report = Report::new("shuttle".into(), Ok(found), Duration::from_millis(1500));
        assert_eq!(
            report.to_string(),
            "shuttle     ok          1.5 s  3 lives; skipped: no /dev/kvm; seed 7"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["seed"], 7);
        assert_eq!(json["ok"], true);
    }
}
