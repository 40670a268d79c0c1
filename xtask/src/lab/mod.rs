// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lab: real KVM on any machine. QEMU emulates a CPU with AMD SVM, Debian's kernel runs on it
//! with kvm-amd, and our static programs run on that from its initramfs.

pub(crate) mod debian;
mod e2fs;
pub(crate) mod modules;
pub(crate) mod nested;
pub(crate) mod payload;
pub(crate) mod qemu;
pub(crate) mod setup;
mod test_run;
mod tests;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use qemu::{Clock, End, Job, Talk};
use setup::{Files, Kernel};

/// Exit status when the time limit passed.
pub(crate) const LATE: u8 = 124;
/// Exit status when the lab itself failed.
pub(crate) const BROKEN: u8 = 125;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Get kernels and tools into target/lab (done by the other verbs too)
    Setup,
    /// Run a command in the lab; the status is the command's, 124 late, 125 lab failed
    Run(RunArgs),
    /// Boot Linux guests under vmm and run the KVM engine's tests, in the lab
    Test(test_run::Args),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Deterministic time: 2 ns for each instruction of the lab
    #[arg(long)]
    icount: bool,
    /// CPUs of the lab
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Kernel of the lab
    #[arg(long, value_enum, default_value_t = Kernel::V6_12)]
    kernel: Kernel,
    /// Memory of the lab in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Seconds for boot and command together
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// More module sets, e.g. tun,vhost
    #[arg(long, value_delimiter = ',')]
    modules: Vec<String>,
    /// Put a file or directory into the lab's /job, where the command starts
    #[arg(long = "file", value_name = "PATH[:NAME]")]
    files: Vec<String>,
    /// Bring back what the command leaves in /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A shell line, or a program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Carries out `cargo xtask lab ...`; returns the exit status.
pub(crate) fn main(verb: Verb) -> Result<u8> {
    match verb {
        Verb::Setup => {
            let files = Files::ensure(&Kernel::ALL)?;
            files.ensure_qemu()?;
            for kernel in Kernel::ALL {
                println!(
                    "lab kernel {} ready: {}",
                    kernel.name(),
                    files.package(kernel)?
                );
            }
            Ok(0)
        }
        Verb::Run(args) => run(args),
        Verb::Test(args) => test_run::main(&args),
    }
}

fn run(args: RunArgs) -> Result<u8> {
    for name in &args.modules {
        if !setup::MODULE_SETS.iter().any(|(set, _)| set == name) {
            let sets: Vec<_> = setup::MODULE_SETS.iter().map(|(set, _)| *set).collect();
            bail!("no module set {name:?}; there are {}", sets.join(", "));
        }
    }
    let files = Files::ensure(&[args.kernel])?;
    let modules = std::iter::once("kvm".to_owned())
        .chain(args.modules)
        .collect();
    let job = Job {
        kernel: args.kernel,
        cpus: args.cpus,
        memory_mib: args.memory,
        clock: if args.icount {
            Clock::Instructions
        } else {
            Clock::Wall
        },
        talk: Talk::Output,
        limit: Duration::from_secs(args.timeout),
        silence: None,
        modules,
        files: args
            .files
            .iter()
            .map(|file| job_file(file))
            .collect::<Result<_>>()?,
        out: args.out,
        script: shell_line(&args.command),
    };
    let end = qemu::run(&files, &job, &mut to_stdout)?;
    Ok(report(&end, &job))
}

/// Says on standard error what went wrong, if anything; the exit status for it.
pub(crate) fn report(end: &End, job: &Job) -> u8 {
    match end {
        End::Status(status) => *status,
        End::Late => {
            eprintln!("lab: not done within {} s (--timeout)", job.limit.as_secs());
            LATE
        }
        End::Signal(number) => u8::try_from(128 + number).unwrap_or(BROKEN),
        End::Broken { reason, .. } => {
            eprintln!("lab: failed: {reason}");
            BROKEN
        }
    }
}

/// Passes output on at once. Nobody listening any more is no reason to fail the command.
pub(crate) fn to_stdout(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}

fn job_file(argument: &str) -> Result<(PathBuf, String)> {
    let (path, name) = match argument.split_once(':') {
        Some((path, name)) => (PathBuf::from(path), name.to_owned()),
        None => {
            let path = PathBuf::from(argument);
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name
                .with_context(|| format!("{argument} has no file name"))?
                .to_owned();
            (path, name)
        }
    };
    if !path.exists() {
        bail!("no file {}", path.display());
    }
    if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        bail!("{name:?} is not a plain path below /job");
    }
    Ok((path, name))
}

/// One word is a line for the shell; more words are a program and its arguments, kept apart.
fn shell_line(words: &[String]) -> String {
    match words {
        [line] => format!("{line}\n"),
        _ => {
            let quoted: Vec<_> = words.iter().map(|word| quote(word)).collect();
            format!("{}\n", quoted.join(" "))
        }
    }
}

/// `word` as the shell reads it back unchanged.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests_of_the_command_line {
    use super::*;

    #[test]
    fn words_reach_the_shell_apart_and_a_line_as_it_is() {
        let words = |all: &[&str]| all.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            shell_line(&words(&["echo $HOME | cat"])),
            "echo $HOME | cat\n"
        );
        assert_eq!(
            shell_line(&words(&["echo", "a b", "it's"])),
            "'echo' 'a b' 'it'\\''s'\n"
        );
    }

    #[test]
    fn job_files_stay_below_the_job_directory() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(
            job_file(&format!("{here}/Cargo.toml")).unwrap().1,
            "Cargo.toml"
        );
        assert_eq!(
            job_file(&format!("{here}/Cargo.toml:a/b")).unwrap().1,
            "a/b"
        );
        assert!(job_file(&format!("{here}/Cargo.toml:../init")).is_err());
        assert!(job_file("/nonexistent").is_err());
    }
}
