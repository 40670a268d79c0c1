// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cargo xtask bench`: one table of what we cost beside what others cost.
//!
//! Rows come from the crates' own benches (ratios measured in one process) and from the lab with
//! its clock driven by instructions, where a figure repeats whatever the host's load; what needs
//! a host's speed runs on its own KVM. Nothing is
//! asserted: a row says whether its target is met.

mod boot;
mod disk;
mod in_lab;
mod native;
mod pause;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workspace;

#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "two flags of a command line")]
pub(crate) struct Args {
    /// One JSON object a row instead of the table
    #[arg(long)]
    json: bool,
    /// Few rounds
    #[arg(long)]
    quick: bool,
    /// Another VMM to run beside ours in the lab: firecracker=PATH or cloud-hypervisor=PATH
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<String>,
    /// Only rows of the crates' benches, of the lab, or of vmm on this host's KVM
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Crates,
    Lab,
    Native,
}

/// One row. Figures that a bench gives as text (a bound, a range) are shown as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    bench: String,
    ours: Value,
    unit: String,
    #[serde(default)]
    against: Value,
    #[serde(default)]
    theirs: Value,
    #[serde(default)]
    ratio: Value,
    #[serde(default)]
    target: Value,
    #[serde(default)]
    met: Value,
    /// What is known about a target that is not met.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    why: String,
}

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    Quick,
    Full,
}

/// Runs all benches; the status says only whether they ran.
pub(crate) fn main(args: &Args) -> Result<u8> {
    let effort = if args.quick {
        Effort::Quick
    } else {
        Effort::Full
    };
    let peers = boot::Peer::parse_all(&args.peers)?;
    let mut rows = Vec::new();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Crates) {
        rows.extend(crate_rows(effort)?);
    }
    if wanted(Part::Lab) {
        rows.extend(boot::rows(effort, &peers)?);
        rows.extend(pause::lab_rows(effort)?);
        rows.extend(disk::rows(effort, &peers)?);
    }
    if wanted(Part::Native) {
        rows.extend(native::rows(effort)?);
        rows.extend(pause::native_rows(effort)?);
    }
    if args.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        print!("{}", table(&rows));
    }
    Ok(0)
}

/// Runs every bench target of the workspace.
fn crate_rows(effort: Effort) -> Result<Vec<Row>> {
    let metadata = workspace::metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let mut rows = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let targets = package["targets"].as_array().into_iter().flatten();
        for target in targets.filter(|target| target["kind"][0] == "bench") {
            let bench = target["name"].as_str().unwrap_or_default();
            eprintln!("running bench {bench} of {name}");
            let mut cargo = workspace::cargo();
            cargo.args(["bench", "--package", name, "--bench", bench, "--", "--json"]);
            if effort == Effort::Quick {
                cargo.arg("--quick");
            }
            let said = workspace::run(&mut cargo)?;
            rows.extend(read_rows(&said).with_context(|| format!("bench {bench} of {name}"))?);
        }
    }
    Ok(rows)
}

/// The rows among the lines of a bench's output.
fn read_rows(said: &str) -> Result<Vec<Row>> {
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let rows: Vec<Row> = lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a row: {line}")))
        .collect::<Result<_>>()?;
    if rows.is_empty() {
        bail!("printed no row; with --json it prints one object a line");
    }
    Ok(rows)
}

fn table(rows: &[Row]) -> String {
    let head = [
        "bench", "ours", "against", "theirs", "ratio", "target", "met", "why",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let unit = row.unit.as_str();
        let with_unit = |value: &Value| match figure(value) {
            text if text.is_empty() => text,
            text => format!("{text} {unit}"),
        };
        let met = match row.met.as_bool() {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => figure(&row.met),
        };
        lines.push([
            row.bench.clone(),
            with_unit(&row.ours),
            figure(&row.against),
            with_unit(&row.theirs),
            figure(&row.ratio),
            figure(&row.target),
            met,
            row.why.clone(),
        ]);
    }
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for (column, cell) in lines.iter().flat_map(|line| line.iter().enumerate()) {
        let width = widths.entry(column).or_default();
        *width = (*width).max(cell.chars().count());
    }
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = widths.get(&column).copied().unwrap_or_default();
            format!("{cell:<width$}")
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Four significant digits of a number; text as it is; nothing for null.
fn figure(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
            Some(value) if value.abs() >= 100.0 => format!("{value:.1}"),
            Some(value) if value.abs() >= 10.0 => format!("{value:.2}"),
            Some(value) => format!("{value:.3}"),
            None => number.to_string(),
        },
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_among_other_lines() {
        let row = r#"{"bench":"call","ours":120.5,"unit":"ns","against":"channel","theirs":241.0,"ratio":0.5,"target":2.0,"met":true}"#;
        let rows = read_rows(&format!("running\n{row}\n")).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(serde_json::to_string(&rows[0]).unwrap(), row);
        assert!(read_rows("nothing").is_err());
        assert!(read_rows("{\"bench\":1}").is_err());
    }

    #[test]
    fn the_table_shows_units_and_what_is_not_met() {
        let row = Row {
            bench: "boot".into(),
            ours: 3000.25.into(),
            unit: "ms".into(),
            against: "peer".into(),
            theirs: Value::Null,
            ratio: 0.5.into(),
            target: "<= 1".into(),
            met: false.into(),
            why: "noise".into(),
        };
        let table = table(&[row]);
        let cells: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "boot", "3000", "ms", "peer", "0.500", "<=", "1", "NO", "noise"
            ]
        );
    }
}
