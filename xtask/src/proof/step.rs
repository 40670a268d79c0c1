// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One command of a proof: its output goes to a file that stays, and while it runs a line now and
//! then says how far it is.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::report::Failure;
use crate::{sys, workspace};

/// How often the progress is told.
const TELL: Duration = Duration::from_secs(10);
/// How much of what was said last is looked at, and shown of a failure.
const TAIL_BYTES: u64 = 8 * 1024;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Well,
    Badly,
    /// Ended by us: it took longer than its limit.
    Late,
}

/// What became of a command.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) end: End,
    pub(super) log: PathBuf,
    pub(super) took: Duration,
}

impl Done {
    /// All it said.
    pub(super) fn said(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The tests that passed.
    pub(super) fn passed(&self) -> Result<u64> {
        Ok(passed(&self.said()?))
    }

    /// What is wrong, if it did not end well.
    pub(super) fn failure(&self, name: &str, replay: &str) -> Result<Option<Failure>> {
        let why = match self.end {
            End::Well => return Ok(None),
            End::Badly => "failed",
            End::Late => "was not done in time",
        };
        let mut log = File::open(&self.log)?;
        let tail = tail_of(&mut log)?;
        let log = self.log.display();
        Ok(Some(Failure {
            what: format!(
                "{name} {why} after {} s; {log} ends:\n{tail}",
                self.took.as_secs()
            ),
            replay: replay.to_owned(),
        }))
    }
}

/// Where the proofs build and leave what they said.
pub(super) fn directory() -> PathBuf {
    workspace::target().join("proof")
}

/// Runs a command of the proof `verb` to its end, or until `limit`; `name` tells it from the others
/// of the proof.
pub(super) fn run(verb: &str, name: &str, command: &mut Command, limit: Duration) -> Result<Done> {
    let log = directory().join("logs").join(file_name(verb, name));
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    eprintln!("{verb}: {name}: {}", workspace::show(command));
    sys::note_signals()?;
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    sys::tie_to_us(command);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| {
        format!(
            "cannot start `{}`: is it installed?",
            workspace::show(command)
        )
    })?;
    let end = wait(&mut child, &log, limit, |elapsed, line| {
        eprintln!("{verb}: {name}: {} s: {line}", elapsed.as_secs());
    });
    if !matches!(end, Ok(End::Well | End::Badly)) {
        sys::kill_group(&child)?;
        child.wait()?;
    }
    Ok(Done {
        end: end?,
        log,
        took: started.elapsed(),
    })
}

/// Waits for the end, and tells the last line of the log now and then.
fn wait(
    child: &mut Child,
    log: &Path,
    limit: Duration,
    mut tell: impl FnMut(Duration, &str),
) -> Result<End> {
    let exited = sys::exit_notice(child.id())?;
    let mut read = File::open(log)?;
    let started = Instant::now();
    let mut next = TELL;
    loop {
        let [exit] = sys::readable([Some(exited.as_fd())], Duration::from_millis(250))?;
        if exit {
            let status = child.wait()?;
            return Ok(if status.success() {
                End::Well
            } else {
                End::Badly
            });
        }
        if let Some(number) = sys::signal_noted() {
            bail!("ended by signal {number}");
        }
        let elapsed = started.elapsed();
        if elapsed >= limit {
            return Ok(End::Late);
        }
        if elapsed >= next {
            next = elapsed + TELL;
            let tail = tail_of(&mut read)?;
            let last = tail
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty());
            tell(elapsed, &shortened(last.unwrap_or("nothing said yet")));
        }
    }
}

fn tail_of(file: &mut File) -> Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn shortened(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn file_name(verb: &str, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    format!("{verb}-{name}.log")
}

/// The tests that passed, by libtest's last line of each program.
pub(super) fn passed(said: &str) -> u64 {
    let results = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test result: "));
    let counts = results.filter_map(|result| {
        let (before, _) = result.split_once(" passed")?;
        before.rsplit(' ').next()?.parse::<u64>().ok()
    });
    counts.sum()
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
    fn passed_tests_are_counted_over_all_programs() {
        let said = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\
                    test result: FAILED. 30 passed; 1 failed; 0 ignored\nnothing\n";
        assert_eq!(passed(said), 32);
        assert_eq!(passed(""), 0);
    }

    #[test]
    fn a_command_that_fails_is_told_with_the_end_of_what_it_said() {
        let done = run(
            "step",
            "fails",
            &mut shell("echo one; echo two >&2; exit 1"),
            TELL,
        )
        .unwrap();
        assert_eq!(done.end, End::Badly);
        let failure = done.failure("it", "again").unwrap().unwrap();
        assert!(failure.what.contains("one\ntwo"), "{}", failure.what);
        assert_eq!(failure.replay, "again");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_and_late() {
        let mut late = shell("sleep 600 & wait");
        let done = run("step", "late", &mut late, Duration::ZERO).unwrap();
        assert_eq!(done.end, End::Late);
        assert!(done.failure("it", "again").unwrap().is_some());
    }

    #[test]
    fn a_command_that_ends_well_is_no_failure() {
        let done = run(
            "step",
            "well",
            &mut shell("echo 'test result: ok. 4 passed'"),
            TELL,
        )
        .unwrap();
        assert_eq!(done.end, End::Well);
        assert_eq!(done.passed().unwrap(), 4);
        assert!(done.failure("it", "again").unwrap().is_none());
    }
}
