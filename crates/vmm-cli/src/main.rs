// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm`: a virtual machine monitor that boots Linux, on the crates of this workspace.

mod args;
mod board;
mod bundle;
mod check;
mod config;
mod console;
mod control;
mod ends;
mod escape;
mod events;
mod exit;
mod flags;
mod host;
mod keyboard;
mod logger;
mod reach;
mod run;
mod say;
mod signals;
mod states;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, ConfigVerb, Verb};

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Config(ConfigVerb::Check(args)) => check::check(&args),
        Verb::Ctl(args) => control::ctl(&args),
        Verb::Host(args) => host::host(&args),
        Verb::States(args) => states::states(&args),
    };
    match done {
        Ok(status) => status.into(),
        Err(failure) => {
            say::error(&failure.error);
            failure.status.into()
        }
    }
}
