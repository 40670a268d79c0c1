// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The diagrams name, at each move, exactly those who make it.

use vm_state::{State, diagram, table};

#[test]
fn each_move_carries_the_names_of_all_who_make_it_and_of_nobody_else() {
    let mermaid = diagram::mermaid();
    let made = [
        ("CREATING --> CREATED", "create"),
        ("CREATING --> DESTROYING", "failed create"),
        ("POWERING_ON --> CREATED", "undo"),
        ("RUNNING --> RUNNING_LS", "save, teleport"),
        ("SAVING --> SUSPENDED", "save, teleport, live finish"),
        ("SUSPENDING_LS --> SUSPENDED_LS", "hard reset, live suspend"),
        ("RUNNING --> GURU_MEDITATION", "guru"),
        ("SAVING --> GURU_MEDITATION", "fatal cause"),
        ("SUSPENDING_LS --> SUSPENDING", "live save gone"),
    ];
    for (edge, by) in made {
        let line = format!("    {edge} : {by}");
        assert!(mermaid.lines().any(|is| is == line), "{line}\n{mermaid}");
    }
    assert!(mermaid.starts_with("stateDiagram-v2\n    [*] --> CREATING\n"));
    assert!(mermaid.ends_with("\n    TERMINATED --> [*]\n"));
    assert_eq!(mermaid.lines().count(), 3 + table::moves().len());
}

#[test]
fn the_graph_draws_transient_states_dashed_and_ways_out_of_failures_dotted() {
    let dot = diagram::dot();
    let lines = [
        "    SAVING [shape=box, style=dashed];",
        "    SUSPENDED [shape=box, style=solid];",
        "    RUNNING -> RUNNING_LS [style=solid, label=\"save, teleport\"];",
        "    RESETTING -> SUSPENDED [style=solid, label=\"hard reset\"];",
        "    SUSPENDING -> RUNNING [style=dotted, label=\"undo\"];",
        "    SAVING -> GURU_MEDITATION [style=dotted, label=\"fatal cause\"];",
    ];
    for line in lines {
        assert!(dot.lines().any(|is| is == line), "{line}\n{dot}");
    }
    let expected = 3 + State::ALL.len() + table::moves().len();
    assert_eq!(dot.lines().count(), expected);
}

#[test]
fn the_matrix_names_each_operation_once() {
    let matrix = diagram::matrix();
    let heads = "| state | power on | suspend | resume | save | teleport | load | power off | \
                 hard reset | soft reset | destroy |";
    assert_eq!(matrix.lines().next(), Some(heads));
}
