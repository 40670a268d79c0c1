// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Builds what the tasks run: the static `vmm`, test programs for the lab, the guest's initramfs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cpio::Archive;
use crate::workspace::{self, StaticTarget};

const GUEST_INIT: &str = include_str!("guest-init.sh");

/// A program that cargo built.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Name of the cargo target, e.g. `vmm` or `contract`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// `vmm`, optimised, without any library: the same file runs here and in the lab.
pub(crate) fn vmm() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "vmm-cli", "--release"]);
    StaticTarget::choose()?.apply(&mut cargo);
    let built = programs(&mut cargo)?;
    let vmm = built.into_iter().find(|program| program.name == "vmm");
    Ok(vmm.context("cargo built vmm-cli, but no program vmm")?.path)
}

/// The test programs of a crate, without any library.
pub(crate) fn test_programs(package: &str) -> Result<Vec<Program>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--package", package, "--lib", "--tests"]);
    StaticTarget::choose()?.apply(&mut cargo);
    programs(&mut cargo)
}

/// Runs a cargo build, its messages to the terminal; the programs it names.
pub(crate) fn programs(cargo: &mut Command) -> Result<Vec<Program>> {
    let named = |message: serde_json::Value| {
        Some(Program {
            name: message["target"]["name"].as_str()?.to_owned(),
            path: message["executable"].as_str()?.into(),
        })
    };
    Ok(messages(cargo)?.into_iter().filter_map(named).collect())
}

/// Runs a cargo build; what it says to programs about each thing it built.
pub(crate) fn messages(cargo: &mut Command) -> Result<Vec<serde_json::Value>> {
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let shown = workspace::show(cargo);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().map(serde_json::from_str);
    Ok(messages.collect::<Result<_, _>>()?)
}

/// Writes the smallest guest's initramfs, whose one program says that it was reached.
pub(crate) fn tiny_initramfs(labx: &Path, dir: &Path) -> Result<PathBuf> {
    let mut archive = Archive::new(Vec::new());
    archive.host_path("init", labx)?;
    write(&dir.join("tiny.cpio"), &archive.finish()?)
}

/// Writes the guest's initramfs (busybox and a small init) beside the lab's files.
pub(crate) fn guest_initramfs(busybox: &Path, dir: &Path) -> Result<PathBuf> {
    let mut archive = Archive::new(Vec::new());
    for name in ["bin", "dev", "proc", "sys", "tmp", "root"] {
        archive.dir(name)?;
    }
    archive.file("init", 0o755, GUEST_INIT.as_bytes())?;
    archive.host_path("bin/busybox", busybox)?;
    archive.link("bin/sh", "busybox")?;
    write(&dir.join("guest.cpio"), &archive.finish()?)
}

/// Written beside and renamed: another task may be reading the old one.
fn write(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, path)?;
    Ok(path.to_path_buf())
}
