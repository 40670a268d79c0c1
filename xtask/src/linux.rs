// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask linux`: Debian's kernel on our `vmm`, on this host or, where its KVM is missing
//! or interprets guest kernels, inside the lab.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

use crate::lab::qemu::{self, Clock, Job, Talk};
use crate::lab::setup::{Files, Kernel};
use crate::lab::{self, quote};
use crate::{product, sys, workspace};

const INTERACTIVE_LIMIT: Duration = Duration::from_secs(24 * 3600);
const HOST_LIMIT: Duration = Duration::from_secs(60);
const ONCE_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Boot, print that userspace was reached, power off
    #[arg(long)]
    once: bool,
    /// The guest's kernel
    #[arg(long, value_enum, default_value_t = Kernel::V6_1)]
    kernel: Kernel,
    /// More arguments for `vmm run`
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Where the machine runs.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// With the reason.
    Lab(String),
}

/// Boots; the status is that of `vmm run` (or 124, 125 of the lab).
pub(crate) fn main(args: &Args) -> Result<u8> {
    let files = Files::ensure(&[args.kernel])?;
    let vmm = product::vmm()?;
    let initrd = product::guest_initramfs(&files.busybox(), files.dir())?;
    let place = place(&vmm)?;
    eprintln!("guest kernel: {}", files.package(args.kernel)?);
    match place {
        Place::Here => here(args, &vmm, &files.vmlinuz(args.kernel), &initrd),
        Place::Lab(why) => {
            eprintln!("{why}: the machine runs inside the lab, an emulated host with real KVM");
            in_lab(args, &files, vmm, initrd)
        }
    }
}

fn place(vmm: &Path) -> Result<Place> {
    let mut ask = Command::new(vmm);
    // Its status is 6 where there is no KVM, which is an answer too.
    let done = workspace::end_within(ask.args(["host", "--json"]), HOST_LIMIT)?;
    Ok(judge(&done.out))
}

/// What `vmm host --json` says about guest kernels on this host.
fn judge(json: &str) -> Place {
    let host: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    match host["guest_speed"].as_str() {
        Some("native") => Place::Here,
        Some("interpreted") => Place::Lab("this host's KVM interprets guest kernels".into()),
        _ => Place::Lab("this host has no usable KVM".into()),
    }
}

/// The words of the command, for the guest's kernel and initramfs at the given paths.
fn words(args: &Args, kernel: &str, initrd: &str) -> Vec<String> {
    let append = if args.once {
        "console=ttyS0 quiet panic=-1 guest=once"
    } else {
        "console=ttyS0 panic=-1"
    };
    let mut words = vec![
        "run", "--kernel", kernel, "--initrd", initrd, "--append", append,
    ];
    for (option, value) in [("--cpus", "1"), ("--memory", "256M")] {
        // A word given twice would be a usage error.
        if !args
            .extra
            .iter()
            .any(|word| word.split('=').next() == Some(option))
        {
            words.extend([option, value]);
        }
    }
    words
        .into_iter()
        .map(str::to_owned)
        .chain(args.extra.iter().cloned())
        .collect()
}

fn here(args: &Args, vmm: &Path, kernel: &Path, initrd: &Path) -> Result<u8> {
    let words = words(args, &kernel.to_string_lossy(), &initrd.to_string_lossy());
    let mut command = Command::new(vmm);
    command.args(words);
    if args.once {
        command.stdin(Stdio::null());
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", vmm.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(lab::BROKEN))
}

fn in_lab(args: &Args, files: &Files, vmm: PathBuf, initrd: PathBuf) -> Result<u8> {
    let words: Vec<_> = words(args, "/job/kernel", "/job/initrd")
        .iter()
        .map(|word| quote(word))
        .collect();
    let job = Job {
        kernel: args.kernel,
        cpus: 1,
        memory_mib: 2048,
        clock: Clock::Wall,
        talk: if args.once {
            Talk::Output
        } else {
            Talk::Terminal
        },
        limit: if args.once {
            ONCE_LIMIT
        } else {
            INTERACTIVE_LIMIT
        },
        silence: None,
        modules: vec!["kvm".into()],
        files: vec![
            (vmm, "vmm".into()),
            // The ELF kernel: decompressing one on an emulated CPU takes seconds.
            (files.vmlinux(args.kernel), "kernel".into()),
            (initrd, "initrd".into()),
        ],
        out: None,
        script: format!("exec /job/vmm {}\n", words.join(" ")),
    };
    let raw = if args.once {
        None
    } else {
        sys::RawTerminal::enter()?
    };
    let end = qemu::run(files, &job, &mut lab::to_stdout);
    drop(raw);
    Ok(lab::report(&end?, &job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_runs_guest_kernels_natively_is_used() {
        assert_eq!(
            judge(r#"{"engine":"kvm","guest_speed":"native"}"#),
            Place::Here
        );
        let interpreted = judge(r#"{"engine":"kvm","guest_speed":"interpreted"}"#);
        assert!(matches!(interpreted, Place::Lab(why) if why.contains("interprets")));
        for no_kvm in [
            r#"{"engine":null,"guest_speed":null}"#,
            "{}",
            "",
            "not json",
        ] {
            assert!(matches!(judge(no_kvm), Place::Lab(why) if why.contains("no usable KVM")));
        }
    }

    #[test]
    fn an_extra_argument_replaces_the_default_for_it() {
        let args = Args {
            once: true,
            kernel: Kernel::V6_1,
            extra: vec!["--memory=1G".into(), "--no-reboot".into()],
        };
        let words = words(&args, "k", "i");
        assert_eq!(
            words
                .iter()
                .filter(|word| word.starts_with("--memory"))
                .count(),
            1
        );
        assert!(words.contains(&"--cpus".to_owned()));
        assert_eq!(words.last().map(String::as_str), Some("--no-reboot"));
    }
}
