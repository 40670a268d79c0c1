// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The table against an independent list, and against the operations.

use std::collections::BTreeSet;
use vm_state::{
    State,
    operations::{AUTOMATIC, INTERNAL, PUBLIC},
    table::{self, Kind},
};

/// The field's table, row by row, its two debugger states included.
const FIELD: &str = "
CREATING: CREATED
CREATED: LOADING POWERING_ON POWERING_OFF
LOADING: SUSPENDED LOAD_FAILURE
POWERING_ON: RUNNING
RESUMING: RUNNING
RUNNING: POWERING_OFF SUSPENDING RESETTING SOFT_RESETTING RUNNING_LS FATAL_ERROR GURU_MEDITATION DEBUGGING
RUNNING_LS: POWERING_OFF_LS SUSPENDING_EXT_LS RESETTING_LS SOFT_RESETTING_LS SUSPENDING_LS RUNNING FATAL_ERROR_LS GURU_MEDITATION_LS DEBUGGING_LS
RESETTING: RUNNING
SOFT_RESETTING: RUNNING
RESETTING_LS: SUSPENDING_LS
SOFT_RESETTING_LS: RUNNING_LS
SUSPENDING: SUSPENDED
SUSPENDING_LS: SUSPENDED_LS SUSPENDING
SUSPENDING_EXT_LS: SUSPENDED_EXT_LS SUSPENDING
SUSPENDED: POWERING_OFF SAVING RESETTING SOFT_RESETTING RESUMING LOADING
SUSPENDED_LS: SAVING SUSPENDED
SUSPENDED_EXT_LS: SAVING SUSPENDED
SAVING: SUSPENDED
DEBUGGING: POWERING_OFF RUNNING
DEBUGGING_LS: POWERING_OFF_LS DEBUGGING RUNNING_LS
POWERING_OFF: OFF
POWERING_OFF_LS: OFF_LS POWERING_OFF
OFF: DESTROYING
OFF_LS: OFF
FATAL_ERROR: POWERING_OFF
FATAL_ERROR_LS: FATAL_ERROR POWERING_OFF_LS
GURU_MEDITATION: POWERING_OFF DEBUGGING
GURU_MEDITATION_LS: GURU_MEDITATION POWERING_OFF_LS DEBUGGING_LS
LOAD_FAILURE: POWERING_OFF
DESTROYING: TERMINATED
";

/// What it performs but does not list.
const ADDED: &str = "
RESETTING: SUSPENDED
SOFT_RESETTING: SUSPENDED
";

/// What failures need.
const FIXES: &str = "
CREATING: DESTROYING
LOADING: GURU_MEDITATION
POWERING_ON: GURU_MEDITATION
RESUMING: GURU_MEDITATION
RESETTING: GURU_MEDITATION
SOFT_RESETTING: GURU_MEDITATION
SUSPENDING: GURU_MEDITATION
SAVING: GURU_MEDITATION
RESETTING_LS: GURU_MEDITATION_LS
SOFT_RESETTING_LS: GURU_MEDITATION_LS
SUSPENDING_LS: GURU_MEDITATION_LS
SUSPENDING_EXT_LS: GURU_MEDITATION_LS
";

/// Where a transition of which nothing has come returns; LOADING to SUSPENDED is in the field's.
const UNDOS: &str = "
POWERING_ON: CREATED
RESUMING: SUSPENDED
SUSPENDING: RUNNING
LOADING: CREATED
";

type Pairs = BTreeSet<(String, String)>;

fn pairs(list: &str) -> Pairs {
    let rows = list.lines().filter_map(|row| row.split_once(": "));
    rows.flat_map(|(from, tos)| {
        tos.split(' ')
            .map(move |to| (from.to_owned(), to.to_owned()))
    })
    .collect()
}

fn marked(kind: Kind) -> Pairs {
    let moves = table::moves().iter().filter(|m| m.kind == kind);
    moves
        .map(|m| (m.from.to_string(), m.to.to_string()))
        .collect()
}

#[test]
fn t_s01_exactly_the_documented_pairs_are_legal() {
    let field = pairs(FIELD);
    assert_eq!(field.len(), 65);
    let debugger = |name: &String| name.starts_with("DEBUGGING");
    let kept: Pairs = field
        .into_iter()
        .filter(|(a, b)| !debugger(a) && !debugger(b))
        .collect();
    assert_eq!(kept.len(), 56);
    assert_eq!(marked(Kind::Original), kept);
    assert_eq!(marked(Kind::Added), pairs(ADDED));
    assert_eq!(marked(Kind::Fix), pairs(FIXES));
    assert_eq!(marked(Kind::Undo), pairs(UNDOS));

    let all = [kept, pairs(ADDED), pairs(FIXES), pairs(UNDOS)].concat_sets();
    let mut legal = 0;
    for from in State::ALL {
        for to in State::ALL {
            let expected = all.contains(&(from.to_string(), to.to_string()));
            assert_eq!(table::is_legal(from, to), expected, "{from} -> {to}");
            legal += usize::from(expected);
        }
    }
    assert_eq!(legal, 74);
}

trait ConcatSets {
    fn concat_sets(self) -> Pairs;
}

impl<const N: usize> ConcatSets for [Pairs; N] {
    fn concat_sets(self) -> Pairs {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn every_pair_of_an_operation_is_a_legal_move_of_the_right_sort() {
    for operation in PUBLIC.into_iter().chain(INTERNAL) {
        let name = operation.name;
        for (from, to) in operation.pairs() {
            assert!(table::is_legal(from, to), "{name}: {from} -> {to}");
        }
        assert!(
            operation
                .moves
                .iter()
                .all(|(f, v)| !f.is_transient() && v.is_transient())
        );
        assert!(
            operation
                .shifts
                .iter()
                .all(|(f, t)| !f.is_transient() && !t.is_transient())
        );
        assert!(
            operation.finals.iter().all(|(v, _)| v.is_transient()),
            "{name}"
        );
    }
    for (from, to, owner) in AUTOMATIC {
        assert!(table::is_legal(from, to), "{owner}: {from} -> {to}");
    }
}

#[test]
fn every_move_of_the_table_has_an_owner_and_automatic_ones_have_no_other() {
    let operated: BTreeSet<_> = PUBLIC
        .into_iter()
        .chain(INTERNAL)
        .flat_map(|o| o.pairs().collect::<Vec<_>>())
        .collect();
    for m in table::moves() {
        let pair = (m.from, m.to);
        let automatic = AUTOMATIC
            .iter()
            .filter(|&&(f, t, _)| (f, t) == pair)
            .count();
        assert_eq!(
            automatic,
            usize::from(!operated.contains(&pair)),
            "{} -> {}",
            m.from,
            m.to
        );
    }
}

#[test]
fn an_operation_that_may_be_called_has_an_intended_end() {
    for operation in PUBLIC.into_iter().chain(INTERNAL) {
        for state in State::ALL {
            assert_eq!(
                operation.accepts(state),
                operation.leads_to(state).is_some()
            );
        }
    }
}

#[test]
fn t_s25_destroy_is_accepted_in_off_alone_and_load_failure_accepts_power_off_alone() {
    let accepting = |name: &str| {
        let operation = PUBLIC
            .into_iter()
            .find(|o| o.name == name)
            .expect("a public operation");
        State::ALL
            .into_iter()
            .filter(|&s| operation.accepts(s))
            .collect::<Vec<_>>()
    };
    assert_eq!(accepting("destroy"), [State::Off]);
    assert_eq!(accepting("power off").len(), 9);
    let in_load_failure: Vec<_> = PUBLIC
        .into_iter()
        .filter(|o| o.accepts(State::LoadFailure))
        .map(|o| o.name)
        .collect();
    assert_eq!(in_load_failure, ["power off"]);
}

fn reachable(start: State) -> BTreeSet<State> {
    let mut seen = BTreeSet::from([start]);
    let mut next = vec![start];
    while let Some(state) = next.pop() {
        for to in State::ALL
            .into_iter()
            .filter(|&to| table::is_legal(state, to))
        {
            if seen.insert(to) {
                next.push(to);
            }
        }
    }
    seen
}

#[test]
fn every_state_is_reachable_and_has_a_path_to_terminated() {
    assert_eq!(reachable(State::Creating).len(), State::ALL.len());
    for state in State::ALL {
        assert!(reachable(state).contains(&State::Terminated), "{state}");
    }
    assert_eq!(reachable(State::Terminated).len(), 1);
}

#[test]
fn every_live_save_state_has_a_way_out_of_the_live_save() {
    for state in State::ALL.into_iter().filter(|state| state.is_live_save()) {
        let out = reachable(state)
            .into_iter()
            .filter(|to| !to.is_live_save())
            .count();
        assert!(out > 0, "{state}");
    }
}

#[test]
fn guest_code_never_runs_again_in_a_failed_vm() {
    for state in State::ALL.into_iter().filter(|state| state.is_failed()) {
        assert!(
            reachable(state).into_iter().all(|to| !to.is_running()),
            "{state}"
        );
    }
}

#[test]
fn the_diagrams_show_every_move_and_the_matrix_every_accepting_state() {
    let mermaid = vm_state::diagram::mermaid();
    let dot = vm_state::diagram::dot();
    for m in table::moves() {
        assert!(mermaid.contains(&format!("    {} --> {} : ", m.from, m.to)));
        assert!(dot.contains(&format!("    {} -> {} [", m.from, m.to)));
    }
    assert!(
        mermaid.lines().all(|line| !line.ends_with(": ")),
        "a move without an owner"
    );

    let matrix = vm_state::diagram::matrix();
    assert!(matrix.starts_with("| state | power on | suspend | resume | save |"));
    let running = matrix.lines().find(|line| line.starts_with("| RUNNING |"));
    let expected = "| RUNNING | - | SUSPENDED | - | RUNNING_LS | RUNNING_LS | - | OFF | RUNNING | \
                    RUNNING | - |";
    assert_eq!(running, Some(expected));
    let live = matrix
        .lines()
        .find(|line| line.starts_with("| RUNNING_LS |"));
    assert!(live.is_some_and(|row| row.contains("SUSPENDED_EXT_LS") && row.contains("OFF_LS")));
    assert!(
        !matrix.contains("\n| TERMINATED |"),
        "nothing may be called there"
    );
}
