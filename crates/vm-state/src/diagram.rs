// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The table and the operations as text: a diagram and the matrix of legal calls.

use crate::{
    State,
    operations::{AUTOMATIC, INTERNAL, PUBLIC},
    table,
};
use std::fmt::Write as _;

/// The table as a Mermaid state diagram, each move with the names of who makes it.
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> CREATING\n");
    for m in table::moves() {
        let (from, to, label) = (m.from, m.to, label(m.from, m.to));
        line(&mut text, format_args!("    {from} --> {to} : {label}"));
    }
    text.push_str("    TERMINATED --> [*]\n");
    text
}

/// The table as a Graphviz digraph; transient states dashed, undo and failure edges dotted.
pub fn dot() -> String {
    let mut text = String::from("digraph vm {\n    rankdir=LR;\n");
    for state in State::ALL {
        let style = if state.is_transient() {
            "dashed"
        } else {
            "solid"
        };
        line(
            &mut text,
            format_args!("    {state} [shape=box, style={style}];"),
        );
    }
    for m in table::moves() {
        let style = match m.kind {
            table::Kind::Original | table::Kind::Added => "solid",
            table::Kind::Fix | table::Kind::Undo => "dotted",
        };
        let (from, to, label) = (m.from, m.to, label(m.from, m.to));
        line(
            &mut text,
            format_args!("    {from} -> {to} [style={style}, label=\"{label}\"];"),
        );
    }
    text.push_str("}\n");
    text
}

/// Which operation may be called in which state, and where it leads if nothing fails, as a
/// Markdown table. States that accept none are left out.
pub fn matrix() -> String {
    let mut text = String::from("| state |");
    for operation in PUBLIC {
        text.push_str(&format!(" {} |", operation.name));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(PUBLIC.len()));
    text.push('\n');
    for state in State::ALL
        .into_iter()
        .filter(|&s| PUBLIC.iter().any(|o| o.accepts(s)))
    {
        text.push_str(&format!("| {state} |"));
        for operation in PUBLIC {
            match operation.leads_to(state) {
                Some(end) => text.push_str(&format!(" {end} |")),
                None => text.push_str(" - |"),
            }
        }
        text.push('\n');
    }
    text
}

/// Who makes this move, comma-separated.
fn label(from: State, to: State) -> String {
    let operations = PUBLIC.into_iter().chain(INTERNAL);
    let names = operations
        .filter(|o| o.pairs().any(|pair| pair == (from, to)))
        .map(|o| o.name);
    let automatic = AUTOMATIC
        .into_iter()
        .filter(|&(f, t, _)| (f, t) == (from, to));
    names
        .chain(automatic.map(|(_, _, owner)| owner))
        .collect::<Vec<_>>()
        .join(", ")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}
