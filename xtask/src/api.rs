// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask api`: what the crates of levels 0 and 1 offer, one line an item, in `docs/api`.
//!
//! A change of these files in a commit is a change of the semver surface that a reviewer can see.
//! They are made from rustdoc's JSON, whose format belongs to a compiler version: with another one
//! than the workspace's `rust-version` the check is skipped and says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use public_api::{Builder, PublicApi};

use crate::check::graph::Graph;
use crate::workspace;

const DIR: &str = "docs/api";

/// Writes the files.
pub(crate) fn main() -> Result<u8> {
    let dir = workspace::root().join(DIR);
    fs::create_dir_all(&dir)?;
    if let Some(why) = other_toolchain()? {
        bail!("{why}");
    }
    for (name, listing) in listings()? {
        let path = dir.join(format!("{name}.txt"));
        fs::write(&path, listing).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

/// The check: the files are what [`main`] would write.
pub(crate) fn check() -> Result<String> {
    if let Some(why) = other_toolchain()? {
        return Ok(format!("skipped: {why}"));
    }
    let dir = workspace::root().join(DIR);
    let (listings, mut wrong) = (listings()?, Vec::new());
    for (name, listing) in &listings {
        let recorded = fs::read_to_string(dir.join(format!("{name}.txt"))).unwrap_or_default();
        wrong.extend(
            differences(&recorded, listing)
                .into_iter()
                .map(|line| format!("{name}: {line}")),
        );
    }
    let known: BTreeSet<_> = listings.iter().map(|(name, _)| name.as_str()).collect();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {DIR}"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if !known.contains(&*name) {
            wrong.push(format!("{DIR}/{name}.txt belongs to no crate: delete it"));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{}\nif that is meant, `cargo xtask api` and say it in CHANGELOG.md",
            wrong.join("\n")
        );
    }
    let items: usize = listings.iter().map(|(_, text)| text.lines().count()).sum();
    Ok(format!("{items} lines of {} crates", listings.len()))
}

/// Why this compiler cannot make the files, if so.
fn other_toolchain() -> Result<Option<String>> {
    let metadata = workspace::metadata()?;
    let packages = metadata["packages"].as_array();
    let pinned = packages
        .and_then(|all| all.first())
        .and_then(|package| package["rust_version"].as_str())
        .context("no rust-version in the workspace")?
        .to_owned();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = workspace::run(Command::new(rustc).arg("--version"))?;
    let version = version.trim();
    let ours = version.split_whitespace().nth(1);
    if ours.is_some_and(|ours| is_release(ours, &pinned)) {
        return Ok(None);
    }
    Ok(Some(format!(
        "the compiler is {version}, and the listings are made with {pinned}"
    )))
}

/// Whether `version` is release `pinned` or a repair of it.
fn is_release(version: &str, pinned: &str) -> bool {
    version
        .strip_prefix(pinned)
        .is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && !rest.contains('-')))
}

/// Each adoptable crate with its listing.
fn listings() -> Result<Vec<(String, String)>> {
    let crates = Graph::read()?.adoptable();
    let mut made = Vec::new();
    for name in crates {
        let json = rustdoc_json(&name)?;
        let listing = listing(&json).with_context(|| format!("listing {name}"))?;
        made.push((name, listing));
    }
    Ok(made)
}

/// Rustdoc's JSON of a crate. In a target directory of its own: the switch that lets a stable
/// rustdoc write it makes other crates compile anew.
fn rustdoc_json(name: &str) -> Result<PathBuf> {
    let target = workspace::target().join("api");
    let mut cargo = workspace::cargo();
    cargo.args(["rustdoc", "--quiet", "--package", name, "--lib"]);
    cargo.args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_TARGET_DIR", &target);
    workspace::run(&mut cargo)?;
    Ok(target
        .join("doc")
        .join(name.replace('-', "_"))
        .with_extension("json"))
}

/// One line an item: all that is written, and of what the compiler adds, which traits are derived
/// and whether the type may go to, or be shared with, another thread.
fn listing(json: &Path) -> Result<String> {
    let build = || Builder::from_rustdoc_json(json).omit_blanket_impls(true);
    let written = build()
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    let mut lines = lines(&written);
    let wanted = |line: &String| {
        let marker = line.contains("core::marker::");
        let sent =
            line.contains("core::marker::Send for") || line.contains("core::marker::Sync for");
        line.starts_with("impl") && !line.contains("::StructuralPartialEq") && (sent || !marker)
            || line.contains("core::marker::Copy for")
    };
    let unwinding = |line: &String| line.contains("::panic::") || line.contains("UnsafeUnpin");
    let all = self::lines(&build().build()?).into_iter();
    lines.extend(all.filter(|line| wanted(line) && !unwinding(line)));
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

fn lines(api: &PublicApi) -> BTreeSet<String> {
    api.items().map(ToString::to_string).collect()
}

/// Lines that are only in one of the two.
fn differences(recorded: &str, is: &str) -> Vec<String> {
    let (recorded, is): (BTreeSet<_>, BTreeSet<_>) =
        (recorded.lines().collect(), is.lines().collect());
    let gone = recorded.difference(&is).map(|line| format!("- {line}"));
    let new = is.difference(&recorded).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_item_shows_as_gone_and_new() {
        let found = differences("pub fn a()\npub fn b()\n", "pub fn a(u8)\npub fn b()\n");
        assert_eq!(found, ["- pub fn a()", "+ pub fn a(u8)"]);
    }

    #[test]
    fn repairs_of_the_pinned_release_count_as_it_and_others_do_not() {
        for version in ["1.95.0", "1.95.2", "1.95"] {
            assert!(is_release(version, "1.95"), "{version}");
        }
        for version in ["1.96.0", "1.950.0", "1.95.0-nightly", "1.95.0-beta.3"] {
            assert!(!is_release(version, "1.95"), "{version}");
        }
    }
}
