// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The front documents: every path and every example they name exists.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

const DOCUMENTS: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];

/// The check. A document that is not there has no paths.
pub(crate) fn check() -> Result<String> {
    let root = workspace::root();
    let metadata = workspace::metadata()?;
    let (mut named, mut wrong) = (0, Vec::new());
    for document in DOCUMENTS {
        let Ok(text) = std::fs::read_to_string(root.join(document)) else {
            continue;
        };
        for (line, words) in quoted(&text) {
            if let Some((package, example)) = example_command(words) {
                named += 1;
                if !has_example(&metadata, package, example)? {
                    wrong.push(format!(
                        "{document}:{line}: {package} has no example {example}"
                    ));
                }
            } else if let Some(path) = path_in(words, &root) {
                named += 1;
                if !root.join(path).exists() {
                    wrong.push(format!("{document}:{line}: no {path}"));
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(format!("{named} paths and examples"))
}

/// Everything between backticks, and every link target, with its line number. Code blocks count
/// line by line.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut fenced) = (Vec::new(), false);
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push((n + 1, line.trim()));
        } else {
            found.extend(
                line.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|words| (n + 1, words)),
            );
            let targets = line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(|target| (n + 1, target)));
        }
    }
    found
}

/// `words` as a path of this repository, when it looks like one: its first part exists at the
/// root, or it ends like a source or document file that lies in a directory.
fn path_in<'a>(words: &'a str, root: &Path) -> Option<&'a str> {
    let path = words.split(['#', ':']).next()?.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.is_empty() || path.starts_with(['/', '-']) || !path.chars().all(plain) {
        return None;
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let ends = |endings: &[&str]| endings.iter().any(|ending| path.ends_with(ending));
    // What a build leaves is named, but not there in a fresh clone.
    let built = first == "target";
    let known = !rest.is_empty() && (root.join(first).is_dir() || ends(&[".rs", ".toml", ".txt"]));
    (!built && (known || ends(&[".md"]))).then_some(path)
}

/// Package and example of a `cargo run -p PACKAGE --example EXAMPLE`.
fn example_command(words: &str) -> Option<(&str, &str)> {
    let words: Vec<_> = words.split_whitespace().collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at + 1).copied()
    };
    (words.get(..2) == Some(&["cargo", "run"])).then_some(())?;
    Some((
        after("-p").or_else(|| after("--package"))?,
        after("--example")?,
    ))
}

fn has_example(metadata: &serde_json::Value, package: &str, example: &str) -> Result<bool> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let targets = packages.iter().filter(|p| p["name"] == package);
    let mut targets = targets.filter_map(|p| p["targets"].as_array()).flatten();
    Ok(targets.any(|target| target["name"] == example && target["kind"][0] == "example"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_links_and_code_blocks_are_looked_into() {
        let text = "a `b` c `d/e`\n[x](y.md) `f`\n```\ncargo x\n```\n`g`";
        let want = [
            (1, "b"),
            (1, "d/e"),
            (2, "f"),
            (2, "y.md"),
            (4, "cargo x"),
            (6, "g"),
        ];
        assert_eq!(quoted(text), want);
    }

    #[test]
    fn paths_are_told_from_other_words() {
        let root = workspace::root();
        for path in [
            "crates/none/src/lib.rs",
            "docs/DAG.txt",
            "x/y.rs",
            "README.md",
            "xtask/",
        ] {
            let told = path_in(path, &root);
            assert_eq!(told.is_some(), path != "xtask/", "{path}");
        }
        for other in [
            "suspend/resume",
            "/dev/kvm",
            "--once",
            "target/lab/x.txt",
            "a b/c.rs",
            "",
        ] {
            assert_eq!(path_in(other, &root), None, "{other}");
        }
        assert_eq!(
            path_in("crates/x/src/vm.rs:12", &root),
            Some("crates/x/src/vm.rs")
        );
    }

    #[test]
    fn an_example_command_is_understood() {
        let command = "cargo run -p vm-emt --example loop";
        assert_eq!(example_command(command), Some(("vm-emt", "loop")));
        assert_eq!(example_command("cargo run -p vm-emt"), None);
        assert_eq!(example_command("cargo xtask check --example x -p y"), None);
    }
}
