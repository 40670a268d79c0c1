// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm config check` shows what would be run and who said so, and refuses what `vmm run` refuses.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Status, standard output and standard error.
fn check(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["config", "check"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, err)
}

/// A line without the blanks that align it.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_value_is_shown_with_who_said_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("vm.toml");
    fs::write(
        &file,
        "[vm]\ncpus = 2\nmemory = '1G'\n[[disk]]\npath = 'd'\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let flags = ["--config", file, "--kernel", "k # \"1\"", "--cpus", "3"];
    let (code, out, err) = check(&[&flags[..], &["--set", "run.rng=true"]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<_> = out.lines().map(words).collect();
    for expected in [
        "boot.append = \"console=ttyS0\" # default".to_owned(),
        "boot.kernel = \"k # \\\"1\\\"\" # --kernel".to_owned(),
        format!("disk = [{{path = \"d\"}}] # {file}:4"),
        "run.rng = true # --set".to_owned(),
        "vm.cpus = 3 # --cpus".to_owned(),
        format!("vm.memory = \"1G\" # {file}:3"),
        "vm.on_reset = \"reset\" # default".to_owned(),
    ] {
        assert!(lines.contains(&expected), "no {expected:?} in\n{out}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_file_that_says_the_same() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("vm.toml");
    let flags = ["--kernel", "k", "--cpus", "3", "--disk", "d,ro", "--rng"];
    let (_, first, _) = check(&flags);
    fs::write(&file, &first).unwrap();
    let (code, again, err) = check(&["--config", file.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let value = |line: &str| line.split("  # ").next().unwrap().trim().to_owned();
    let values = |text: &str| text.lines().map(value).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&first));
    assert!(
        again.lines().all(|line| line.contains("vm.toml:")),
        "{again}"
    );
}

#[test]
fn json_has_the_tree_and_the_origins() {
    let (code, out, _) = check(&["--json", "--kernel", "k", "--debug-exit", "0xf4"]);
    assert_eq!(code, Some(0));
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["config"]["run"]["debug_exit"], 0xf4);
    assert_eq!(said["config"]["boot"]["append"], "console=ttyS0");
    assert_eq!(said["origins"]["boot.kernel"]["flag"], "--kernel");
    assert_eq!(said["origins"]["vm.cpus"], "default");
}

#[test]
fn what_a_run_refuses_is_refused_with_path_place_and_suggestion() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("vm.toml");
    fs::write(&file, "[boot]\nkernel = 'k'\n[vm]\ncpuss = 2\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, said) in [
        (
            &["--config", file][..],
            format!("vmm: error: vm.cpuss ({file}:4): unknown key; did you mean vm.cpus?\n"),
        ),
        (
            &["--kernel", "k", "--set", "run.rgn=true"][..],
            "vmm: error: run.rgn (--set): unknown key; did you mean run.rng?\n".to_owned(),
        ),
    ] {
        let (code, out, err) = check(args);
        assert_eq!((code, out.as_str(), err), (Some(2), "", said));
    }
    let (code, _, err) = check(&["--kernel", "k", "--cpus", "0"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("vm.cpus (--cpus)"), "{err}");
}
