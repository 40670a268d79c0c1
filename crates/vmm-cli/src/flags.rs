// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The flags of `vmm run` as overrides of the configuration tree.
//!
//! Invariant: what a flag says is a text, whatever is in it, unless its key takes a number and the
//! text is one; so no flag can say more than its own key.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use vm_cfg::{Builder, CfgError};

use crate::args::RunArgs;

/// A flag, the key it sets, and to what, as TOML.
type Flag = (&'static str, &'static str, Option<String>);

/// Adds every flag that is given.
///
/// # Errors
/// The first that is wrong.
pub(crate) fn apply(builder: Builder, args: &RunArgs) -> anyhow::Result<Builder> {
    let text = |flag: &Option<String>| flag.as_deref().map(quoted);
    let number = |flag: &Option<String>| flag.as_deref().map(number);
    let flags: &[Flag] = &[
        ("--kernel", "boot.kernel", path("--kernel", &args.kernel)?),
        ("--kernel-form", "boot.form", text(&args.kernel_form)),
        (
            "--load-address",
            "boot.load_address",
            number(&args.load_address),
        ),
        ("--initrd", "boot.initrd", initrds(&args.initrd)?),
        ("--append", "boot.append", text(&args.append)),
        ("--cpus", "vm.cpus", number(&args.cpus)),
        ("--max-cpus", "vm.max_cpus", number(&args.max_cpus)),
        ("--cap", "vm.cap", number(&args.cap)),
        ("--memory", "vm.memory", number(&args.memory)),
        ("--cpu", "vm.cpu", text(&args.cpu)),
        (
            "--no-reboot",
            "vm.on_reset",
            args.no_reboot.then(|| quoted("power-off")),
        ),
        ("--engine", "run.engine", text(&args.engine)),
        ("--debug-exit", "run.debug_exit", number(&args.debug_exit)),
        (
            "--control",
            "run.control",
            path("--control", &args.control)?,
        ),
        ("--bundle", "run.bundle", path("--bundle", &args.bundle)?),
        ("--rng", "run.rng", args.rng.then(|| "true".to_owned())),
        ("--console", "run.console", text(&args.console)),
        ("--disk", "disk", disks(&args.disk)?),
    ];
    Ok(flags.iter().try_fold(builder, add)?)
}

fn add(builder: Builder, (flag, key, value): &Flag) -> Result<Builder, CfgError> {
    match value {
        Some(value) => builder.flag(flag, &format!("{key}={value}")),
        None => Ok(builder),
    }
}

/// As TOML: a number if the text looks like one, else a text.
fn number(text: &str) -> String {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let begins = digits.starts_with(|c: char| c.is_ascii_digit());
    if begins
        && digits
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn path(flag: &str, path: &Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let path = path.as_deref().map(|path| utf8(flag, path).map(quoted));
    path.transpose()
}

fn utf8<'p>(flag: &str, path: &'p Path) -> anyhow::Result<&'p str> {
    path.to_str()
        .ok_or_else(|| anyhow!("{flag} {}: not UTF-8", path.display()))
}

/// An image as a flag names it, and whether it is read-only. What follows the comma is no part of a
/// path that is not UTF-8 either.
pub(crate) fn image_flag(flag: &Path) -> (PathBuf, bool) {
    let bytes = flag.as_os_str().as_bytes();
    match bytes.strip_suffix(b",ro") {
        Some(path) => (PathBuf::from(OsStr::from_bytes(path)), true),
        None => (flag.to_owned(), false),
    }
}

/// `--disk` flags as the list that replaces a file's.
fn disks(flags: &[PathBuf]) -> anyhow::Result<Option<String>> {
    let disk = |flag: &PathBuf| {
        let text = utf8("--disk", flag)?;
        let (path, read_only) = image_flag(flag);
        Ok(match utf8("--disk", &path)? {
            "" => bail!("--disk {text}: name a file before the comma"),
            "none" => format!("{{ read_only = {read_only} }}"),
            path => {
                let path = quoted(path);
                format!("{{ path = {path}, read_only = {read_only} }}")
            }
        })
    };
    list(flags.iter().map(disk))
}

/// `--initrd` flags as the list that replaces a file's.
fn initrds(flags: &[PathBuf]) -> anyhow::Result<Option<String>> {
    list(flags.iter().map(|flag| utf8("--initrd", flag).map(quoted)))
}

/// As a TOML list, if there is anything in it.
fn list(elements: impl Iterator<Item = anyhow::Result<String>>) -> anyhow::Result<Option<String>> {
    let elements = elements.collect::<anyhow::Result<Vec<_>>>()?;
    Ok((!elements.is_empty()).then(|| format!("[{}]", elements.join(", "))))
}

/// As a TOML string, whatever is in it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
