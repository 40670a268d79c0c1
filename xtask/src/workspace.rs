// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things are, and how other programs are run with errors that say what to do next.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// How much of a failed command's output is shown.
const TAIL_LINES: usize = 150;
/// Longer than any download or build of ours takes.
const LIMIT: Duration = Duration::from_secs(30 * 60);

const MUSL: &str = "x86_64-unknown-linux-musl";
const GNU: &str = "x86_64-unknown-linux-gnu";

/// The root of the workspace: xtask's own directory is one below it.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The names, without it, of the files in `dir` below the root that end in `extension`, sorted.
pub(crate) fn stems(dir: &str, extension: &str) -> Result<Vec<String>> {
    let dir = root().join(dir);
    let entries =
        std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
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

/// What `cargo metadata` says of the members.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let mut ask = cargo();
    ask.args(["metadata", "--no-deps", "--format-version", "1"]);
    Ok(serde_json::from_str(&run(&mut ask)?)?)
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs to a successful end within a limit that only a dead network reaches; see [`run_within`].
pub(crate) fn run(command: &mut Command) -> Result<String> {
    run_within(command, LIMIT)
}

/// Runs to a successful end and returns what it printed; an error names the command, its status,
/// and the end of what it said.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<String> {
    let done = end_within(command, limit)?;
    if !done.status.success() {
        bail!(
            "`{}` failed ({}):\n{}",
            show(command),
            done.status,
            tail(&done.out, &done.err)
        );
    }
    Ok(done.out)
}

/// Runs to its end, whatever its status. The command and all it started are killed when `limit`
/// passes or we are told to end.
pub(crate) fn end_within(command: &mut Command, limit: Duration) -> Result<Done> {
    let shown = show(command);
    sys::note_signals()?;
    // Files take any amount of output without a reader.
    let (mut out, mut err) = (scratch()?, scratch()?);
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?);
    sys::tie_to_us(command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{shown}`: is it installed?"))?;
    let exited = sys::exit_notice(child.id())?;
    let started = Instant::now();
    let ended = loop {
        let [exit] = sys::readable([Some(exited.as_fd())], Duration::from_millis(250))?;
        if exit {
            break Ok(child.wait()?);
        }
        if let Some(number) = sys::signal_noted() {
            break Err(format!("ended by signal {number}"));
        }
        if started.elapsed() >= limit {
            break Err(format!("not done within {} s", limit.as_secs()));
        }
    };
    if ended.is_err() {
        sys::kill_group(&child)?;
        child.wait()?;
    }
    let (out, err) = (read_back(&mut out)?, read_back(&mut err)?);
    match ended {
        Ok(status) => Ok(Done { status, out, err }),
        Err(why) => bail!("`{shown}`: {why}:\n{}", tail(&out, &err)),
    }
}

/// A file without a name in the target directory.
fn scratch() -> Result<File> {
    let dir = target();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let path = dir.join(format!("scratch-{}-{n}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(out: &str, err: &str) -> String {
    let lines: Vec<_> = out.lines().chain(err.lines()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(command.get_args());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn a_failed_command_is_named_with_what_it_said() {
        let error = run(&mut shell("echo out; echo err >&2; exit 3"))
            .unwrap_err()
            .to_string();
        for part in ["`sh -c", "exit status: 3", "out", "err"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_late_command_is_killed_with_what_it_started() {
        let started = Instant::now();
        let mut late = shell("echo begun; sleep 600 & wait");
        let error = run_within(&mut late, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not done within 0 s"), "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "the wait is not for the sleep"
        );
    }

    #[test]
    fn a_status_can_be_had_without_being_an_error() {
        let done = end_within(&mut shell("echo x; exit 6"), LIMIT).unwrap();
        assert_eq!((done.status.code(), done.out.as_str()), (Some(6), "x\n"));
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("/nonexistent/program"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot start `program`"), "{error}");
    }
}
