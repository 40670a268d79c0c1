// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The names of all tests of the workspace, asked of the test programs themselves: a test that is
//! not compiled shows nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{product, workspace};

const LIMIT: Duration = Duration::from_secs(60);

/// A test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    pub(crate) package: String,
    /// Without its modules.
    pub(crate) name: String,
}

/// All tests, sorted. Builds what `cargo test --workspace` builds, which is nothing after it.
pub(crate) fn tests() -> Result<Vec<Test>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--workspace", "--no-run"]);
    let mut found = Vec::new();
    for message in product::messages(&mut cargo)? {
        let Some(program) = message["executable"].as_str() else {
            continue;
        };
        if message["profile"]["test"] != true {
            continue; // an example
        }
        let manifest = message["manifest_path"].as_str().map(Path::new);
        let dir = manifest.and_then(|path| path.parent()?.file_name());
        let package = dir.with_context(|| format!("cargo names no package of {program}"))?;
        let mut ask = Command::new(program);
        ask.args(["--list", "--format", "terse"]);
        let listed = workspace::run_within(&mut ask, LIMIT)?;
        found.extend(names(&listed).map(|name| Test {
            package: package.to_string_lossy().into_owned(),
            name: name.to_owned(),
        }));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The names in what a test program lists: `module::name: test`.
fn names(listed: &str) -> impl Iterator<Item = &str> {
    let tests = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    tests.map(|path| path.rsplit("::").next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_without_modules_and_benches_not_at_all() {
        let listed = "a::tests::t_s01_x: test\nplain: test\nfast: benchmark\n\n2 tests\n";
        assert_eq!(names(listed).collect::<Vec<_>>(), ["t_s01_x", "plain"]);
    }
}
