// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can be wrong with a configuration. Each message names the file or key and what would be
//! right, and is one line however long the input is.

use crate::Origin;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CfgError {
    /// The file cannot be opened or read.
    #[error("cannot read configuration {}; name a readable TOML file", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the host says.
        source: std::io::Error,
    },
    /// A directory was named.
    #[error("configuration {} is a directory; name a TOML file", file.display())]
    Directory {
        /// The directory.
        file: PathBuf,
    },
    /// The file is larger than any configuration.
    #[error("configuration {} is larger than {limit} bytes; name a TOML file", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The largest size accepted, in bytes.
        limit: u64,
    },
    /// The file is not text.
    #[error(
        "configuration {} is not UTF-8 text (byte {offset}); name a TOML file", file.display()
    )]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Where the first bad byte is, from 0.
        offset: usize,
    },
    /// The text is not TOML.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file or other source.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// An override does not parse.
    #[error("override {text:?}: {message}; write path.to.key=value")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value and a section have the same path, or a list's element does not exist.
    #[error("{path} cannot be set by {origin}: {message}")]
    Conflict {
        /// The path.
        path: String,
        /// Who wanted to set it.
        origin: Origin,
        /// What is there.
        message: String,
    },
    /// A key that nobody knows.
    #[error("{path} ({origin}): unknown key{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The path.
        path: String,
        /// Where it is set.
        origin: Origin,
        /// The known key most like it, if one is alike.
        nearest: Option<String>,
    },
    /// A value of another type than its reader needs.
    #[error("{path} ({origin}) is {found}; it must be {expected}")]
    WrongType {
        /// The path.
        path: String,
        /// Where it is set.
        origin: Origin,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A value of the right type that is not possible.
    #[error("{path} ({origin}) is {found}; it must be {expected}")]
    OutOfRange {
        /// The path.
        path: String,
        /// Where it is set.
        origin: Origin,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A key that must be there is not.
    #[error("{path} is not set; set it in the configuration file or by an override")]
    Missing {
        /// The path.
        path: String,
    },
    /// The reader does not accept the value, for a reason of its own.
    #[error("{path} ({origin}): {message}")]
    Invalid {
        /// The path.
        path: String,
        /// Where it is set.
        origin: Origin,
        /// The reader's reason.
        message: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// The first characters of a text from outside, control characters escaped, for an error message.
pub(crate) fn clip(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut clipped: String = text
        .chars()
        .take(LIMIT)
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(LIMIT).is_some() {
        clipped.push_str("...");
    }
    clipped
}
