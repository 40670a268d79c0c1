// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask proof`: what takes too long for every change. Each proof has a slice, or what came
//! of it, in the ordinary tests.

mod mutants;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Whether a test fails for every small change of the core crates' code; takes hours
    Mutants(mutants::Args),
}

/// Carries out `cargo xtask proof ...`; returns the exit status.
pub(crate) fn main(verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Mutants(args) => mutants::main(args),
    }
}
