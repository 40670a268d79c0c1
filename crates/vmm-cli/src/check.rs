// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm config check`: what would be run, and who said so.
//!
//! Invariant: what is printed is what [`crate::config`] read, and as TOML says the same again.

use serde_json::{Map, Value, json};
use vm_cfg::{CfgError, Entry, Origin, Tree};

use crate::args::RunArgs;
use crate::config::{self, RunSpec};
use crate::exit::{Failure, Status};
use crate::flags::quoted;
use crate::say;

/// Prints the effective configuration, or what is wrong with it.
pub(crate) fn check(args: &RunArgs) -> Result<Status, Failure> {
    let (spec, tree) = config::read_tree(args).map_err(Failure::usage)?;
    let text = if args.json {
        as_json(&spec, &tree).map_err(Failure::usage)?
    } else {
        as_toml(&spec, &tree)
    };
    say::output(text.trim_end()).map_err(Failure::host)?;
    Ok(Status::Ok)
}

/// The effective configuration as TOML, each line with a comment that says where it comes from.
pub(crate) fn as_toml(spec: &RunSpec, tree: &Tree) -> String {
    let entries = entries(spec, tree);
    let lines = entries.iter().map(
        |Entry {
             path,
             value,
             origin,
         }| {
            // A file's name may hold what would end the comment.
            let origin = origin.to_string().replace(char::is_control, "?");
            (format!("{path} = {value}"), origin)
        },
    );
    let lines: Vec<_> = lines.collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max();
    let width = width.unwrap_or(0).min(40);
    lines
        .into_iter()
        .map(|(line, origin)| format!("{line:width$}  # {origin}\n"))
        .collect()
}

/// `{"config": the tree, "origins": {path: where it comes from}}`.
fn as_json(spec: &RunSpec, tree: &Tree) -> Result<String, CfgError> {
    let mut config: Value = tree.root().read()?;
    if let Some(boot) = config.get_mut("boot").and_then(Value::as_object_mut) {
        boot.insert("append".to_owned(), json!(spec.append));
    }
    let origins: Map<_, _> = entries(spec, tree)
        .into_iter()
        .map(|entry| (entry.path, origin(&entry.origin)))
        .collect();
    Ok(json!({ "config": config, "origins": origins }).to_string())
}

fn origin(origin: &Origin) -> Value {
    match origin {
        Origin::File { file, line } => json!({ "file": file.to_string_lossy(), "line": line }),
        Origin::Flag(flag) => json!({ "flag": &**flag }),
        Origin::Override | Origin::Default => json!("default"),
    }
}

/// What is in the tree, and the one default that follows from another key.
fn entries(spec: &RunSpec, tree: &Tree) -> Vec<Entry> {
    let mut entries = tree.entries();
    let path = "boot.append";
    if !entries.iter().any(|entry| entry.path == path) {
        let at = entries.partition_point(|entry| entry.path.as_str() < path);
        let append = Entry {
            path: path.to_owned(),
            value: quoted(&spec.append),
            origin: Origin::Default,
        };
        entries.insert(at, append);
    }
    entries
}
