// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the program says, and where: one place for every line to standard error.

use std::io::Write;

/// A line for the user.
pub(crate) fn line(text: &str) {
    // A message that cannot be written is lost; there is nowhere left to say so.
    let _ = writeln!(std::io::stderr().lock(), "vmm: {text}");
}

/// Text as it is.
pub(crate) fn terminal(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// What was asked for, to standard output.
///
/// # Errors
/// What the host said, e.g. that nobody reads.
pub(crate) fn output(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}

/// An error with its causes, on one line.
pub(crate) fn error(error: &anyhow::Error) {
    line(&format!("error: {error:#}").replace('\n', "; "));
}
