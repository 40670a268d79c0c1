// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm states` prints the table, and `docs/states.md` is what it prints.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn states(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .arg("states")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{args:?}: {:?}", output.stderr);
    assert!(output.stderr.is_empty(), "{args:?}: {:?}", output.stderr);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page_in_docs_is_what_the_program_prints() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/states.md");
    let written = fs::read_to_string(page).unwrap_or_default();
    assert!(
        written == states(&[]),
        "docs/states.md is out of date; run  cargo run -p vmm-cli -- states > docs/states.md"
    );
}

#[test]
fn the_page_contains_the_diagram_and_the_matrix_that_can_be_had_alone() {
    let page = states(&["--format", "markdown"]);
    assert_eq!(page, states(&[]));
    for part in ["mermaid", "matrix"] {
        assert!(page.contains(&states(&["--format", part])), "{part}");
    }
    let dot = states(&["--format", "dot"]);
    assert!(
        dot.starts_with("digraph vm {") && dot.ends_with("}\n"),
        "{dot}"
    );
}

#[test]
fn every_move_is_printed_with_an_owner() {
    let report: Value = serde_json::from_str(&states(&["--json"])).unwrap();
    let moves = report["moves"].as_array().unwrap();
    assert_eq!(moves.len(), vm_state::table::moves().len());
    for m in moves {
        assert!(!m["by"].as_array().unwrap().is_empty(), "{m}");
    }
    assert_eq!(report["states"].as_array().unwrap().len(), 29);
}

#[test]
fn the_calls_in_the_json_are_those_of_the_matrix() {
    let report: Value = serde_json::from_str(&states(&["--json"])).unwrap();
    let operations = report["operations"].as_array().unwrap();
    let suspend = operations.iter().find(|o| o["name"] == "suspend").unwrap();
    let calls = suspend["calls"].as_array().unwrap();
    let ends: Vec<_> = calls.iter().map(|c| (&c["from"], &c["to"])).collect();
    assert_eq!(
        ends,
        [
            (&"RUNNING".into(), &"SUSPENDED".into()),
            (&"RUNNING_LS".into(), &"SUSPENDED_EXT_LS".into()),
        ]
    );
}

#[test]
fn a_format_that_is_unknown_or_beside_json_is_refused_with_status_2() {
    for args in [
        ["states", "--format", "svg"].as_slice(),
        &["states", "--json", "--format", "dot"],
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_vmm"))
            .args(args)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
}
