// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM may do in which state, printed from the one table of vm-state.
//!
//! Invariant: nothing here says what is legal; `docs/states.md` is the output of `vmm states`, and
//! a test compares them.

use serde::Serialize;
use vm_state::State;
use vm_state::diagram;
use vm_state::operations::{AUTOMATIC, INTERNAL, Operation, PUBLIC};
use vm_state::table::{self, Kind, Move};

use crate::args::{StatesArgs, StatesFormat};
use crate::exit::{Failure, Status};
use crate::say;

/// `vmm states`.
pub(crate) fn states(args: &StatesArgs) -> Result<Status, Failure> {
    let text = if args.json {
        serde_json::to_string(&Report::new()).map_err(Failure::host)?
    } else {
        match args.format {
            StatesFormat::Mermaid => diagram::mermaid(),
            StatesFormat::Dot => diagram::dot(),
            StatesFormat::Matrix => diagram::matrix(),
            StatesFormat::Markdown => page(),
        }
    };
    say::output(text.trim_end()).map_err(Failure::host)?;
    Ok(Status::Ok)
}

/// The page that is `docs/states.md`.
fn page() -> String {
    let mut page = intro();
    page.push_str("\n## Diagram\n\n```mermaid\n");
    page.push_str(&diagram::mermaid());
    page.push_str("```\n\n## Legal calls\n\n");
    page.push_str(
        "Where a call leads from each state if nothing fails; `-` is refused and changes nothing.\n\
         A state that is not listed accepts no call.\n\n",
    );
    page.push_str(&diagram::matrix());
    page.push_str("\n## Moves that no call makes\n\n");
    page.push_str(
        "Each has an owner: a part of the VM that makes the move, or the rule by which a transition\n\
         ends. `field` is in the table that VMMs with these states have always had; `fix` and `undo`\n\
         are where a failure leads, so that no state is entered that nobody leaves.\n\n",
    );
    page.push_str("| from | to | owner | kind |\n|---|---|---|---|\n");
    for m in internal_moves() {
        let owners = owners(m).join(", ");
        let (from, to, kind) = (m.from, m.to, kind(m));
        page.push_str(&format!("| {from} | {to} | {owners} | {kind} |\n"));
    }
    page.push_str("\n## Who leaves a live-save state\n\n");
    page.push_str(
        "A state named `_LS` tells that a live save is in its first step. A transient one is left by\n\
         the operation under way. The others are left at the latest by whoever drives the live save,\n\
         which it does (`live suspend`, `live finish`, `live end`) however its own step ended:\n\n",
    );
    page.push_str("| state | left by |\n|---|---|\n");
    for state in State::ALL.into_iter().filter(|s| s.is_live_save()) {
        page.push_str(&format!("| {state} | {} |\n", leavers(state).join(", ")));
    }
    page
}

fn intro() -> String {
    let count = |wanted: fn(State) -> bool| State::ALL.into_iter().filter(|&s| wanted(s)).count();
    format!(
        "# The states of a VM\n\n\
         This page is the output of `vmm states`, which prints it from the one table of legal moves\n\
         in `crates/vm-state/src/table.rs`; a test compares them. `vmm states --json` is the same as data.\n\n\
         There are {} states and {} legal moves. In {} of the states guest code runs. {} are transient:\n\
         the VM is in one exactly while one operation is under way, and the operation's end, its\n\
         failure or its abandonment leaves it. From every state there is a way to TERMINATED.\n",
        State::ALL.len(),
        table::moves().len(),
        count(State::is_running),
        count(State::is_transient),
    )
}

/// The moves that belong to no call of a VM's owner.
fn internal_moves() -> impl Iterator<Item = &'static Move> {
    let public = |m: &Move| PUBLIC.iter().any(|o| makes(o, m));
    table::moves().iter().filter(move |m| !public(m))
}

fn makes(operation: &Operation, m: &Move) -> bool {
    operation.pairs().any(|pair| pair == (m.from, m.to))
}

/// Who makes this move: operations, or the rule by which a transition ends.
fn owners(m: &Move) -> Vec<&'static str> {
    let operations = PUBLIC.iter().chain(&INTERNAL).filter(|o| makes(o, m));
    let rules = AUTOMATIC
        .iter()
        .filter(|&&(from, to, _)| (from, to) == (m.from, m.to));
    operations
        .map(|o| o.name)
        .chain(rules.map(|&(_, _, owner)| owner))
        .collect()
}

/// Everybody who makes a move out of `state`, each named once.
fn leavers(state: State) -> Vec<&'static str> {
    let mut names = Vec::new();
    for m in table::moves().iter().filter(|m| m.from == state) {
        for name in owners(m) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn kind(m: &Move) -> &'static str {
    match m.kind {
        Kind::Original => "field",
        Kind::Added => "added",
        Kind::Fix => "fix",
        Kind::Undo => "undo",
    }
}

#[derive(Serialize)]
struct Report {
    states: Vec<StateReport>,
    moves: Vec<MoveReport>,
    operations: Vec<OperationReport>,
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the JSON")]
struct StateReport {
    name: &'static str,
    number: u8,
    /// Guest code may run.
    running: bool,
    /// An operation is under way.
    transient: bool,
    /// A live save is in progress.
    live_save: bool,
    /// Only power off is left.
    failed: bool,
    /// Where a transition that is given up leads.
    when_dropped: Option<&'static str>,
    /// Where a fatal cause leads.
    when_fatal: Option<&'static str>,
}

#[derive(Serialize)]
struct MoveReport {
    from: &'static str,
    to: &'static str,
    kind: &'static str,
    /// Only for a transition that began in this state.
    origin: Option<&'static str>,
    by: Vec<&'static str>,
}

#[derive(Serialize)]
struct OperationReport {
    name: &'static str,
    /// Who calls it.
    by: &'static str,
    calls: Vec<CallReport>,
}

#[derive(Serialize)]
struct CallReport {
    from: &'static str,
    /// The transient state passed first, if any.
    via: Option<&'static str>,
    /// Where it leads if nothing fails.
    to: Option<&'static str>,
}

impl Report {
    fn new() -> Self {
        let public = PUBLIC
            .iter()
            .map(|o| OperationReport::new(o, "the owner of the VM"));
        let internal = INTERNAL
            .iter()
            .map(|o| OperationReport::new(o, "the VM itself"));
        Self {
            states: State::ALL.into_iter().map(StateReport::new).collect(),
            moves: table::moves().iter().map(MoveReport::new).collect(),
            operations: public.chain(internal).collect(),
        }
    }
}

impl StateReport {
    fn new(state: State) -> Self {
        Self {
            name: state.name(),
            number: state.number(),
            running: state.is_running(),
            transient: state.is_transient(),
            live_save: state.is_live_save(),
            failed: state.is_failed(),
            when_dropped: table::when_dropped(state).map(State::name),
            when_fatal: table::when_fatal(state).map(State::name),
        }
    }
}

impl MoveReport {
    fn new(m: &Move) -> Self {
        Self {
            from: m.from.name(),
            to: m.to.name(),
            kind: kind(m),
            origin: m.origin.map(State::name),
            by: owners(m),
        }
    }
}

impl OperationReport {
    fn new(operation: &Operation, by: &'static str) -> Self {
        let calls = operation.moves.iter().chain(operation.shifts);
        Self {
            name: operation.name,
            by,
            calls: calls
                .map(|&(from, to)| CallReport {
                    from: from.name(),
                    via: to.is_transient().then(|| to.name()),
                    to: operation.leads_to(from).map(State::name),
                })
                .collect(),
        }
    }
}
