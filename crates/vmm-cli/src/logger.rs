// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Log records to standard error, one a line.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // A log that cannot be written is lost; there is nowhere left to say so.
        let _ = writeln!(
            std::io::stderr().lock(),
            "vmm: {} {}: {}",
            record.level().as_str().to_lowercase(),
            record.target(),
            record.args()
        );
    }

    fn flush(&self) {}
}

/// Logs records of `level` and above.
pub(crate) fn start(level: LevelFilter) {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}
