// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Log records to standard error, one a line; the last of them are kept for a bundle.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// How many lines are kept.
const KEPT_LINES: usize = 256;

/// How much of a line is kept, in characters.
const KEPT_CHARS: usize = 512;

/// The last lines, oldest first.
static KEPT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

struct Logger {
    /// What is shown; "info" and above is kept in any case.
    shown: LevelFilter,
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!(
            "{} {}: {}",
            record.level().as_str().to_lowercase(),
            record.target(),
            record.args()
        );
        if record.level() <= self.shown {
            // A log that cannot be written is lost; there is nowhere left to say so.
            let _ = writeln!(std::io::stderr().lock(), "vmm: {line}");
        }
        if record.level() <= Level::Info {
            keep(&line);
        }
    }

    fn flush(&self) {}
}

/// Shows records of `shown` and above from now on.
pub(crate) fn start(shown: LevelFilter) {
    static LOGGER: OnceLock<Logger> = OnceLock::new();
    if log::set_logger(LOGGER.get_or_init(|| Logger { shown })).is_ok() {
        log::set_max_level(shown.max(LevelFilter::Info));
    }
}

fn keep(line: &str) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT_LINES {
        kept.pop_front();
    }
    kept.push_back(line.chars().take(KEPT_CHARS).collect());
}

/// The last lines that were logged at "info" or above, oldest first, shown or not.
pub(crate) fn last_lines() -> String {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_no_line_is_kept_at_length() {
        for i in 0..2 * KEPT_LINES {
            keep(&format!("line {i} {}", "x".repeat(KEPT_CHARS)));
        }
        let lines = last_lines();
        assert_eq!(lines.lines().count(), KEPT_LINES);
        let (first, last) = (KEPT_LINES, 2 * KEPT_LINES - 1);
        assert!(lines.starts_with(&format!("line {first} ")));
        let last = lines
            .lines()
            .find(|line| line.starts_with(&format!("line {last} ")));
        assert_eq!(last.map(str::len), Some(KEPT_CHARS));
    }
}
