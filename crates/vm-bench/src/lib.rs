// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Rows of a benchmark, one JSON object a line on standard output: rounds of both sides alternate, and the ratio is the median of the ratios of
//! neighbouring rounds, which a machine that changes its pace disturbs least.
#![expect(clippy::print_stdout, reason = "its output is what a benchmark is for")]

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// Rounds of each side.
    pub rounds: usize,
    /// Share of a full batch, in percent.
    pub share: u32,
}

impl Rounds {
    /// Few under `cargo test` and with `--quick`.
    #[must_use]
    pub fn from_args() -> Self {
        let has = |flag: &str| std::env::args().any(|arg| arg == flag);
        match (has("--bench"), has("--quick")) {
            (true, false) => Self {
                rounds: 41,
                share: 100,
            },
            (true, true) => Self {
                rounds: 9,
                share: 25,
            },
            (false, _) => Self {
                rounds: 1,
                share: 1,
            },
        }
    }

    /// How many of a `full` batch.
    #[must_use]
    pub fn batch(self, full: u32) -> u32 {
        (full * self.share / 100).max(1)
    }
}

/// Measures both sides and prints their row. Each side answers its figure for one round. `why` says
/// what is known about a target that is not met, and is printed only then.
pub fn row(
    rounds: Rounds,
    (bench, unit): (&str, &str),
    ours: &mut dyn FnMut() -> f64,
    (against, target, why): (&str, f64, &str),
    theirs: &mut dyn FnMut() -> f64,
) {
    if std::env::args()
        .skip(1)
        .any(|arg| !arg.starts_with('-') && !bench.contains(&arg))
    {
        return; // another one was asked for
    }
    let (_warm, _up) = (ours(), theirs());
    let pairs: Vec<(f64, f64)> = (0..rounds.rounds).map(|_| (ours(), theirs())).collect();
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ratio = median(pairs.iter().map(|(a, b)| a / b).collect());
    let (a, b, met) = (median(a), median(b), ratio <= target);
    let why = if met || why.is_empty() {
        String::new()
    } else {
        format!(r#","why":"{why}""#)
    };
    println!(
        r#"{{"bench":"{bench}","ours":{a:.2},"unit":"{unit}","against":"{against}","theirs":{b:.2},"ratio":{ratio:.2},"target":{target},"met":{met}{why}}}"#
    );
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
