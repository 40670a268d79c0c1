// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The crates of levels 0 and 1 as others get them: packaged, each built from its package alone,
//! accepted by a publication's dry run, and used by the programs of the porting guide.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::graph::Graph;
use crate::{product, workspace};

const GUIDE: &str = "docs/port-your-pause.md";
const PROGRAMS: &str = "docs/port-your-pause";
/// The longest program runs the kit twice, once on a loop of which half the checks hang.
const RUN_LIMIT: Duration = Duration::from_secs(5 * 60);
/// What cargo says when it cannot reach the registry's index; everything else is our fault.
const NO_NETWORK: [&str; 3] = [
    "failed to download from",
    "Could not resolve host",
    "failed to fetch",
];

/// The check.
pub(crate) fn check() -> Result<String> {
    let blocks = guide_is_its_files()?;
    let crates = Graph::read()?.adoptable();
    package(&crates)?;
    let dry_run = publish_dry_run(&crates)?;
    let ran = run_programs(&crates)?;
    Ok(format!(
        "{} crates; {dry_run}; guide: {blocks} blocks, {ran}",
        crates.len()
    ))
}

/// `cargo package` of all at once, without a network: each is built from what its package holds,
/// and finds the others in a registry that cargo makes for the purpose.
fn package(crates: &[String]) -> Result<()> {
    forget_unpacked(crates)?;
    let mut cargo = workspace::cargo();
    cargo.args(["package", "--quiet", "--offline", "--allow-dirty"]);
    cargo.args(crates.iter().flat_map(|name| ["--package", name]));
    workspace::run(&mut cargo).map(drop)
}

/// What cargo unpacks from that registry it keeps among its sources, and knows by name and version
/// alone: what an earlier check left there would be taken for what is packaged now.
fn forget_unpacked(crates: &[String]) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")) else {
        return Ok(());
    };
    // A registry in a directory has no host, so its name begins with the dash behind the host's.
    for registry in names(&sources).filter(|name| name.starts_with('-')) {
        let registry = sources.join(registry);
        for unpacked in names(&registry).filter(|name| is_one_of(crates, name)) {
            let dir = registry.join(unpacked);
            std::fs::remove_dir_all(&dir)
                .with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    Ok(())
}

/// Names in a directory; none if there is none.
fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let inside = std::fs::read_dir(dir).into_iter().flatten();
    inside.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// Whether `name` is a crate's with a version.
fn is_one_of(crates: &[String], name: &str) -> bool {
    let version = |of: &String| name.strip_prefix(of.as_str())?.strip_prefix('-');
    let mut versions = crates.iter().filter_map(version);
    versions.any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// What a publication would be refused for. It uploads nothing, but asks the registry's index.
fn publish_dry_run(crates: &[String]) -> Result<&'static str> {
    let mut cargo = workspace::cargo();
    cargo.args(["publish", "--quiet", "--dry-run"]);
    cargo.args(["--no-verify", "--allow-dirty"]);
    cargo.args(crates.iter().flat_map(|name| ["--package", name]));
    match workspace::run(&mut cargo) {
        Ok(_) => Ok("dry run of publish"),
        Err(error) if unreachable(&error.to_string()) => Ok("dry run skipped: no registry"),
        Err(error) => Err(error),
    }
}

fn unreachable(said: &str) -> bool {
    NO_NETWORK.iter().any(|words| said.contains(words))
}

/// Builds the guide's programs against the packages and runs them; without KVM they say so and end.
fn run_programs(crates: &[String]) -> Result<String> {
    let target = workspace::target();
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--locked", "--bins"]);
    cargo.arg("--manifest-path");
    cargo.arg(workspace::root().join(PROGRAMS).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target.join("port"));
    for name in used(crates)? {
        let package = package_dir(&target, &name)?;
        cargo.arg("--config");
        cargo.arg(format!("patch.crates-io.{name}.path={package:?}"));
    }
    let programs = product::programs(&mut cargo).with_context(|| {
        format!(
            "building {PROGRAMS} on the packages; if only its lock file is old: \
             `cargo check --manifest-path {PROGRAMS}/Cargo.toml`"
        )
    })?;
    if programs.is_empty() {
        bail!("{PROGRAMS} has no programs");
    }
    let mut skipped = 0;
    for program in &programs {
        let said = workspace::run_within(&mut Command::new(&program.path), RUN_LIMIT)
            .with_context(|| format!("program {} of {GUIDE}", program.name))?;
        if said.trim().is_empty() {
            bail!("program {} of {GUIDE} prints nothing", program.name);
        }
        skipped += usize::from(said.starts_with("skipped"));
    }
    Ok(match skipped {
        0 => format!("{} programs ran", programs.len()),
        _ => format!(
            "{} programs built, {skipped} skipped: no KVM",
            programs.len()
        ),
    })
}

/// The crates that the programs depend on, as their manifest says.
fn used(crates: &[String]) -> Result<Vec<String>> {
    let path = workspace::root().join(PROGRAMS).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path)?;
    let used = crates.iter().filter(|name| {
        let line = format!("{name} = \"");
        manifest.lines().any(|of| of.starts_with(&line))
    });
    Ok(used.cloned().collect())
}

/// Where `cargo package` has unpacked a crate to build it.
fn package_dir(target: &Path, name: &str) -> Result<PathBuf> {
    let metadata = workspace::metadata()?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let version = packages
        .iter()
        .find(|package| package["name"] == name)
        .and_then(|package| package["version"].as_str())
        .with_context(|| format!("{name} is not in the workspace"))?;
    let dir = target.join("package").join(format!("{name}-{version}"));
    if !dir.is_dir() {
        bail!("`cargo package` left no {}", dir.display());
    }
    Ok(dir)
}

/// Each code block of the guide that follows a file's name is that file; how many there are.
fn guide_is_its_files() -> Result<usize> {
    let root = workspace::root();
    let guide = std::fs::read_to_string(root.join(GUIDE)).with_context(|| GUIDE.to_owned())?;
    let mut wrong = Vec::new();
    let blocks = blocks(&guide);
    for block in &blocks {
        let Some(file) = block.file else {
            wrong.push(format!("{GUIDE}:{}: a block that is no file", block.line));
            continue;
        };
        let path = root.join(PROGRAMS).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if block.text != without_header(&text) {
            wrong.push(format!("{GUIDE}:{}: not what {file} is", block.line));
        }
    }
    if blocks.is_empty() {
        wrong.push(format!("{GUIDE} shows no file"));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(blocks.len())
}

#[derive(Debug, PartialEq, Eq)]
struct Block<'a> {
    line: usize,
    /// The last words in backticks before the block, if they are a Rust file's name.
    file: Option<&'a str>,
    text: String,
}

/// The Rust blocks. Blocks of output and of shell commands are left alone.
fn blocks(guide: &str) -> Vec<Block<'_>> {
    let (mut found, mut file, mut open) = (Vec::new(), None, None);
    for (n, line) in guide.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let block = Block {
                    line: n + 1,
                    file: file.take(),
                    text: String::new(),
                };
                open = Some((language, block));
            }
            (None, None) => {
                let quoted = line.split('`').skip(1).step_by(2);
                file = quoted
                    .filter(|words| words.ends_with(".rs"))
                    .last()
                    .or(file);
            }
            (Some((_, block)), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (Some(_), Some(_)) => {
                if let Some(("rust", block)) = open.take() {
                    found.push(block);
                }
            }
        }
    }
    found
}

/// A source without its licence header.
fn without_header(text: &str) -> &str {
    match text.split_once("\n\n") {
        Some((header, rest)) if header.starts_with("// Copyright") => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_unpacked_is_ours_by_name_and_version_and_not_by_a_longer_name() {
        let ours = ["vm-cpu".to_owned()];
        assert!(is_one_of(&ours, "vm-cpu-0.1.0"));
        for other in [
            "vm-cpu-kvm-0.1.0",
            "vm-cpu",
            "vm-cfg-0.1.0",
            "my-vm-cpu-0.1.0",
        ] {
            assert!(!is_one_of(&ours, other), "{other}");
        }
    }

    #[test]
    fn a_block_belongs_to_the_file_named_last_before_it() {
        let guide =
            "`a.rs` and `b/c.rs`, `x`:\n\n```rust\none\n```\n```text\nout\n```\n```rust\n```\n";
        let found = blocks(guide);
        let text = "one\n".to_owned();
        let first = Block {
            line: 3,
            file: Some("b/c.rs"),
            text,
        };
        let text = String::new();
        assert_eq!(
            found,
            [
                first,
                Block {
                    line: 9,
                    file: None,
                    text
                }
            ]
        );
    }

    #[test]
    fn the_licence_header_is_not_shown() {
        let text = "// Copyright x\n// SPDX\n\n//! Doc.\n\nfn main() {}\n";
        assert_eq!(without_header(text), "//! Doc.\n\nfn main() {}\n");
        assert_eq!(without_header("//! Doc.\n\n"), "//! Doc.\n\n");
    }

    #[test]
    fn only_a_registry_out_of_reach_excuses_the_dry_run() {
        assert!(unreachable("error: failed to download from `index`"));
        assert!(!unreachable("error: 2 files in the working directory"));
    }
}
