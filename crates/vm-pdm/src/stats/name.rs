// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which paths a statistic can have.

use super::StatError;

/// Longest path, in bytes.
pub(super) const PATH_MAX: usize = 239;

/// Refuses what is no path: it begins with `/`, its components are separated by one `/` each, and it
/// has none of `\`, `*`, `?`, `|` and no control character, so that a pattern can name it.
pub(super) fn check(path: &str) -> Result<(), StatError> {
    let wrong = |why| {
        Err(StatError::InvalidName {
            path: path.chars().take(PATH_MAX).collect(),
            why,
        })
    };
    if path.len() > PATH_MAX {
        return Err(StatError::TooLong { bytes: path.len() });
    }
    let Some(rest) = path.strip_prefix('/') else {
        return wrong("it does not begin with '/'");
    };
    if rest.split('/').any(str::is_empty) {
        return wrong("it has an empty component, or ends with '/'");
    }
    if path.contains(['\\', '*', '?', '|']) || path.contains(char::is_control) {
        return wrong("it has one of \\ * ? | or a control character");
    }
    Ok(())
}

/// Whether one of the paths is the other, or lies below it.
pub(super) fn related(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
