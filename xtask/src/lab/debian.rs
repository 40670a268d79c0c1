// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Debian packages: which one a metapackage means, downloading, unpacking, installing.
//!
//! Nothing here needs root except installing QEMU itself. A download goes to a directory of its
//! own and is moved when complete, so an interrupted one is simply done again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{sys, workspace};

/// Runs `get`; when it fails, again with new package lists (a fresh machine has none, and an old
/// list names packages that are gone).
pub(crate) fn with_lists<T>(get: impl Fn() -> Result<T>) -> Result<T> {
    get().or_else(|first| {
        update().map_err(|error| error.context(format!("{first:#}")))?;
        get()
    })
}

/// The dependency of `meta` whose name starts with `prefix`.
pub(crate) fn dependency(meta: &str, prefix: &str) -> Result<String> {
    let listed = workspace::run(apt("apt-cache").args(["depends", meta]))?;
    let names = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let found = names.map(str::trim).find(|name| name.starts_with(prefix));
    found.map(str::to_owned).with_context(|| {
        format!(
            "{meta} does not lead to a package {prefix}*: the apt sources must have Debian 12 \
             with its security archive"
        )
    })
}

/// The `.deb` of `package` in `dir`, downloaded when it is not there yet.
pub(crate) fn download(package: &str, dir: &Path) -> Result<PathBuf> {
    if let Some(found) = deb_in(dir, package)? {
        return Ok(found);
    }
    eprintln!("downloading {package}");
    let partial = dir.join(format!("partial-{package}"));
    remove_dir(&partial)?;
    std::fs::create_dir_all(&partial)?;
    let mut get = apt("apt-get");
    get.args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
    workspace::run(get.current_dir(&partial))?;
    let got = deb_in(&partial, package)?.context("apt-get download left no .deb")?;
    let to = dir.join(got.file_name().context("a .deb has a name")?);
    std::fs::rename(&got, &to)?;
    remove_dir(&partial)?;
    Ok(to)
}

/// Unpacks a `.deb` into `dir`, which is made anew.
pub(crate) fn unpack(deb: &Path, dir: &Path) -> Result<()> {
    remove_dir(dir)?;
    std::fs::create_dir_all(dir)?;
    workspace::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir))
        .with_context(|| format!("{} is damaged: delete it and run again", deb.display()))?;
    Ok(())
}

/// Makes `program` available by installing `package`; without root, says what to run.
pub(crate) fn install(program: &str, package: &str) -> Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if found {
        return Ok(());
    }
    let words = ["install", "-y", "--no-install-recommends", package];
    if !sys::is_root() {
        bail!(
            "{program} is missing: run `sudo apt-get {}`",
            words.join(" ")
        );
    }
    eprintln!("installing {package}");
    with_lists(|| {
        workspace::run(
            apt("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(words),
        )
    })
    .map(drop)
}

/// Removes a directory and all in it; it need not exist.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn update() -> Result<()> {
    if !sys::is_root() {
        bail!("the package lists are missing or old: run `sudo apt-get update`, then this again");
    }
    eprintln!("updating the package lists");
    workspace::run(apt("apt-get").args(["-q", "update"])).map(drop)
}

fn deb_in(dir: &Path, package: &str) -> Result<Option<PathBuf>> {
    let start = format!("{package}_");
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with(&start) && name.ends_with(".deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn apt(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    command
}
