// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can be said of a state alone, against lists written down a second time.

use vm_state::State;

/// The states of which `holds`, by name and in their order.
fn all(holds: impl Fn(State) -> bool) -> String {
    let states = State::ALL.into_iter().filter(|&state| holds(state));
    states.map(State::name).collect::<Vec<_>>().join(" ")
}

#[test]
fn guest_code_runs_in_two_states() {
    assert_eq!(all(State::is_running), "RUNNING RUNNING_LS");
}

#[test]
fn an_operation_is_under_way_where_the_name_says_so() {
    assert_eq!(
        all(State::is_transient),
        "CREATING LOADING POWERING_ON RESUMING RESETTING RESETTING_LS SOFT_RESETTING \
         SOFT_RESETTING_LS SUSPENDING SUSPENDING_LS SUSPENDING_EXT_LS SAVING POWERING_OFF \
         POWERING_OFF_LS DESTROYING"
    );
}

#[test]
fn the_guest_is_dead_in_five_states() {
    assert_eq!(
        all(State::is_failed),
        "FATAL_ERROR FATAL_ERROR_LS GURU_MEDITATION GURU_MEDITATION_LS LOAD_FAILURE"
    );
}

#[test]
fn a_vm_is_powered_on_from_its_start_until_it_is_powered_off_or_dies() {
    assert_eq!(
        all(State::is_powered_on),
        "POWERING_ON RESUMING RUNNING RUNNING_LS RESETTING RESETTING_LS SOFT_RESETTING \
         SOFT_RESETTING_LS SUSPENDING SUSPENDING_LS SUSPENDING_EXT_LS SUSPENDED SUSPENDED_LS \
         SUSPENDED_EXT_LS SAVING"
    );
}
