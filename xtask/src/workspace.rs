// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things are, and how other programs are run with errors that say what to do next.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

const MUSL: &str = "x86_64-unknown-linux-musl";
const GNU: &str = "x86_64-unknown-linux-gnu";

/// The root of the workspace: xtask's own directory is one below it.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The target directory, `CARGO_TARGET_DIR` honoured.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that runs us, in the workspace root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs to its end; an error names the command, its status, and the end of what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`: is it installed?"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        bail!("`{shown}` failed ({}):\n{tail}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A Rust target whose programs run without any library: in the lab, and natively.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StaticTarget {
    Musl,
    /// Where the musl target cannot be had: gnu with a static C library.
    GnuStatic,
}

impl StaticTarget {
    /// musl where it is installed or rustup can add it.
    pub(crate) fn choose() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let installed = || -> Result<bool> {
            let mut ask = Command::new(&rustc);
            ask.current_dir(root())
                .args(["--print", "target-libdir", "--target", MUSL]);
            Ok(Path::new(run(&mut ask)?.trim())
                .join("self-contained")
                .is_dir())
        };
        if installed()? {
            return Ok(Self::Musl);
        }
        eprintln!("adding the Rust target {MUSL} (rustup)");
        let mut add = Command::new("rustup");
        add.current_dir(root()).args(["target", "add", MUSL]);
        match run(&mut add) {
            Ok(_) if installed()? => Ok(Self::Musl),
            Ok(_) => Ok(Self::GnuStatic),
            Err(error) => {
                eprintln!("{error:#}\nusing {GNU} with a static C library instead");
                Ok(Self::GnuStatic)
            }
        }
    }

    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Musl => MUSL,
            Self::GnuStatic => GNU,
        }
    }

    /// Flags for a direct rustc call.
    pub(crate) fn rustc_flags(self) -> Vec<&'static str> {
        match self {
            Self::Musl => vec!["--target", MUSL],
            Self::GnuStatic => vec!["--target", GNU, "-C", "target-feature=+crt-static"],
        }
    }

    /// Adds the target to a cargo command.
    pub(crate) fn apply(self, cargo: &mut Command) {
        cargo.args(["--target", self.triple()]);
        if matches!(self, Self::GnuStatic) {
            cargo.env(
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                "-C target-feature=+crt-static",
            );
        }
    }
}
