// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What no compiler looks at: the licence header, ignored tests, work left for later.

use anyhow::{Result, bail};
use std::process::Command;

use crate::workspace;

const HEADER: &str = "// Copyright 2026 the authors\n\
    // SPDX-License-Identifier: Apache-2.0 OR MIT\n\n//!";

/// Words that may not stand in a source; put together here so that this file passes.
const BANNED: [(&str, &str); 3] = [
    (
        concat!("#[", "ignore"),
        "a test that does not run proves nothing",
    ),
    (
        concat!("TO", "DO"),
        "leave out what is not done, and say so in an issue",
    ),
    (concat!("FIX", "ME"), "fix it, or say so in an issue"),
];

/// The check over every `.rs` file that is not ignored by git.
pub(crate) fn check() -> Result<String> {
    let root = workspace::root();
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]);
    let listed = workspace::run(git.current_dir(&root))?;
    let (mut count, mut wrong) = (0, Vec::new());
    for file in listed.lines() {
        // A deleted file is listed until the deletion is committed.
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            continue;
        };
        count += 1;
        wrong.extend(
            wrong_in(&text)
                .into_iter()
                .map(|what| format!("{file}{what}")),
        );
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(format!("{count} files"))
}

fn wrong_in(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.replacen("#![no_main]\n\n", "", 1).starts_with(HEADER) {
        wrong.push(": does not begin with the licence header and a `//!` doc".to_owned());
    }
    for (n, line) in text.lines().enumerate() {
        for (words, why) in BANNED {
            if line.contains(words) {
                wrong.push(format!(":{}: {words}: {why}", n + 1));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_header_and_doc_passes() {
        assert!(wrong_in(&format!("{HEADER} Doc.\n\nfn main() {{}}\n")).is_empty());
    }

    #[test]
    fn a_missing_header_and_banned_words_are_found_with_their_line() {
        assert!(wrong_in("//! Doc.\n")[0].contains("licence header"));
        for (words, _) in BANNED {
            let wrong = wrong_in(&format!("{HEADER} Doc.\n// {words} x\n"));
            assert_eq!(wrong.len(), 1);
            assert!(wrong[0].starts_with(":5: "), "{wrong:?}");
        }
    }
}
