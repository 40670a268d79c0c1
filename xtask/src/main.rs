// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Development tasks: `cargo xtask TASK`. Nothing here is part of the product, and nothing of the
//! product is a dependency of it, so it works while the product does not compile.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod api;
mod bench;
mod check;
mod conformance;
mod cpio;
mod lab;
mod linux;
mod product;
mod proof;
mod sys;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// List what the lower crates offer, into docs/api
    Api,
    /// Measure: the crates' benches, and starting a guest in the lab, beside others
    Bench(bench::Args),
    /// Format, lints, documents, tests, examples, models, dependency graph
    Check(check::Args),
    /// Which test shows which case: writes docs/conformance.md
    Conformance(conformance::Args),
    /// Real KVM on any machine: an emulated one with Debian's kernel
    #[command(subcommand)]
    Lab(lab::Verb),
    /// Boot Debian's kernel under vmm, on this host or in the lab
    Linux(linux::Args),
    /// What takes too long for every change; without a verb, what there is
    Proof(proof::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Api => api::main(),
        Task::Bench(args) => bench::main(&args),
        Task::Check(args) => check::main(&args),
        Task::Conformance(args) => conformance::main(&args),
        Task::Lab(verb) => lab::main(verb),
        Task::Linux(args) => linux::main(&args),
        Task::Proof(args) => proof::main(&args),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
