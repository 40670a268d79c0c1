// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Everything that can happen to a VM, looked at: {calls, guest, live save, device failure, late
//! answers, fatal causes} over the crate's own table and operations.
//!
//! Each rule that an older protocol lacks is taken out in turn, and the search must then find where
//! that leads.

#![cfg(not(loom))]
#![expect(
    clippy::print_stdout,
    reason = "says what was searched, and shows traces"
)]

mod model;

use model::cell::{Act, Ask, Cell};
use model::explore::{CounterExample, Explored, Model, explore};
use model::hotplug::Gather;
use model::kick::Protocol;
use model::replay::Real;
use model::vm::{Flaw, Life, Vm};
use model::work::Op;
use std::collections::{HashMap, HashSet};
use vm_state::operations::{INTERNAL, PUBLIC};
use vm_state::{State, table};

fn search<M: Model>(name: &str, model: &M) -> Explored<M::State> {
    let began = std::time::Instant::now();
    let found = explore(model);
    let (states, edges) = (found.states.len(), found.edges());
    println!(
        "{name}: {states} states, {edges} edges, {:?}",
        began.elapsed()
    );
    found
}

fn none(flaw: Option<CounterExample>) {
    assert!(
        flaw.is_none(),
        "{}",
        flaw.map_or_else(String::new, |f| f.to_string())
    );
}

/// Explores, and says how much there was.
fn life(flaw: Flaw, vcpus: usize) -> (Life, Explored<Vm>) {
    let life = Life { flaw, vcpus };
    let found = search(
        &format!("life of a VM, {flaw:?}, {vcpus} vCPU asking"),
        &life,
    );
    (life, found)
}

/// The counter-example, which must be there; shown for who wants to read it.
fn shown(flaw: Option<CounterExample>) -> CounterExample {
    let example = flaw.expect("the search finds the flaw");
    println!("{example}");
    example
}

#[track_caller]
fn passes(state: &str, example: &CounterExample) {
    let on_the_way = example.trace.iter().any(|line| line.contains(state));
    assert!(on_the_way, "{state}: {example}");
}

#[test]
fn nothing_that_can_happen_leaves_a_vm_stuck_or_runs_a_dead_guest() {
    let (life, found) = life(Flaw::None, 1);
    none(found.wrong());
    none(found.stuck(&life));
    none(found.endless(&life));
}

#[test]
fn two_vcpus_that_ask_at_once_get_what_they_asked_for_once() {
    let (life, found) = life(Flaw::None, 2);
    none(found.flaw(&life));
}

#[test]
fn every_state_is_reached_and_every_move_but_one_that_nobody_makes() {
    let (life, found) = life(Flaw::None, 1);
    let reached: HashSet<State> = found.states.iter().map(|vm| vm.cell.state).collect();
    assert_eq!(reached.len(), State::ALL.len());
    let mut made = HashSet::new();
    for vm in &found.states {
        for m in life.moves(vm) {
            let mut from = vm.cell.state;
            for &(_, to) in &m.acts {
                made.insert((from, to));
                from = to;
            }
        }
    }
    let unmade: Vec<_> = table::moves()
        .iter()
        .map(|m| (m.from, m.to))
        .filter(|pair| !made.contains(pair))
        .collect();
    assert_eq!(unmade, [(State::PoweringOffLs, State::PoweringOff)]);
}

#[test]
fn the_model_has_every_public_operation() {
    assert!(
        Op::PUBLIC
            .iter()
            .zip(&PUBLIC)
            .all(|(op, data)| op.data() == data)
    );
}

/// One way to each state of the cell, as what is asked of it.
fn ways(life: &Life, found: &Explored<Vm>) -> HashMap<Cell, Vec<Act>> {
    let mut ways = HashMap::new();
    for (number, vm) in found.states.iter().enumerate() {
        if ways.contains_key(&vm.cell) {
            continue;
        }
        let way = found.way(number);
        let mut acts = Vec::new();
        for step in way.windows(2) {
            let [(from, _), (to, label)] = *step else {
                continue;
            };
            let made = life.moves(&found.states[from]);
            let found_again =
                |m: &&model::vm::Move| m.vm == found.states[to] && Some(m.label) == label;
            acts.extend(
                made.iter()
                    .find(found_again)
                    .expect("it was found")
                    .acts
                    .iter(),
            );
        }
        ways.insert(vm.cell, acts);
    }
    ways
}

#[test]
fn the_real_cell_does_what_the_model_says_at_every_step() {
    let (life, found) = life(Flaw::None, 1);
    let ways = ways(&life, &found);
    let mut steps = HashSet::new();
    for vm in &found.states {
        for m in life.moves(vm) {
            steps.insert((vm.cell, m.acts));
        }
    }
    println!("{} states of the cell, {} steps", ways.len(), steps.len());
    for (cell, acts) in steps {
        let all: Vec<Act> = ways[&cell].iter().chain(&acts).copied().collect();
        // It asserts after each step, and asks the observer at the end.
        Real::after(&all);
    }
}

#[test]
fn a_call_that_is_refused_changes_nothing_and_one_that_is_not_is_in_the_matrix() {
    let (life, found) = life(Flaw::None, 1);
    for (cell, way) in ways(&life, &found) {
        for op in PUBLIC.iter().chain(&INTERNAL) {
            let mut real = Real::after(&way);
            let before = real.seen();
            let done = real.ask(Ask::Begin(op.moves)) || real.ask(Ask::Shift(op.shifts));
            assert_eq!(done, op.accepts(cell.state), "{} in {cell:?}", op.name);
            assert_eq!(done, real.seen() != before, "{} in {cell:?}", op.name);
        }
    }
}

#[test]
fn w_s05_a_live_save_that_demands_its_own_suspend_leaves_the_vm_stuck() {
    let (life, found) = life(Flaw::LiveSuspendDemandsItsOwn, 1);
    passes("_LS", &shown(found.wrong()));
    // Whatever one thinks of owners: from there no call leads on.
    let stuck = shown(found.stuck(&life));
    passes("SUSPENDED_EXT_LS", &stuck);
    assert!(found.endless(&life).is_some());
    let reset = |vm: &&Vm| vm.cell.state == State::SuspendedLs && life.wrong(vm).is_some();
    assert!(
        found.states.iter().any(|vm| reset(&vm)),
        "a reset leads there as well"
    );
}

#[test]
fn w_s07_a_stream_that_cannot_be_opened_leaves_running_ls_and_off_ls_behind() {
    let (life, found) = life(Flaw::OpenFailureLeavesLiveSave, 1);
    passes("RUNNING_LS", &shown(found.wrong()));
    passes("cannot be opened", &shown(found.stuck(&life)));
    assert!(found.endless(&life).is_some());
}

#[test]
fn w_s10_a_fatal_cause_that_is_dropped_outside_running_lets_a_dead_guest_run() {
    let (_, found) = life(Flaw::FatalForgottenUnlessRunning, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("dead VM"), "{example}");
}

#[test]
fn a_fatal_runtime_error_that_is_refused_outside_running_lets_a_dead_guest_run() {
    let (_, found) = life(Flaw::RuntimeErrorRefusedUnlessRunning, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("dead VM"), "{example}");
}

#[test]
fn w_s13_a_device_failure_that_is_swallowed_runs_the_guest_on_dead_devices() {
    let (_, found) = life(Flaw::DeviceFailureSwallowed, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("devices"), "{example}");
    passes("RUNNING", &example);
}

#[test]
fn w_s23_a_failed_teleport_that_keeps_its_mark_is_found() {
    let (_, found) = life(Flaw::TeleportMarkStays, 1);
    assert!(shown(found.wrong()).what.contains("teleported"));
}

#[test]
fn a_suspend_that_fails_after_the_devices_are_quiet_must_wake_them() {
    let (_, found) = life(Flaw::ClockReadAfterDevices, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("devices"), "{example}");
}

#[test]
fn a_reset_during_a_live_save_cannot_end_where_it_began() {
    let (_, found) = life(Flaw::ResetReturnsToLiveSave, 1);
    let example = shown(found.wrong());
    passes("RESETTING_LS", &example);
}

#[test]
fn a_suspend_that_a_device_refuses_during_a_live_save_kills_the_guest_unless_undone() {
    let (_, found) = life(Flaw::RefusedSuspendIsFatal, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("refused a suspend"), "{example}");
}

#[test]
fn a_request_that_outlives_the_machine_that_made_it_is_carried_out_on_the_next() {
    let (_, found) = life(Flaw::DeedOutlivesReset, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("did not ask"), "{example}");
}

#[test]
fn a_request_that_is_dropped_when_it_loses_a_race_is_lost() {
    let (_, found) = life(Flaw::LostRaceDropsDeed, 1);
    let example = shown(found.wrong());
    assert!(example.what.contains("lost"), "{example}");
}

#[test]
fn a_kick_by_a_flag_and_a_signal_is_lost_before_kvm_run() {
    let model = Protocol::FlagAndSignal;
    let example = shown(search("a flag and a signal", &model).stuck(&model));
    passes("Guest", &example);
}

#[test]
fn sending_the_signal_again_hides_the_lost_kick_and_is_needed() {
    let model = Protocol::FlagAndSignalAgain;
    let found = search("a flag and a signal, again and again", &model);
    none(found.flaw(&model));
    // Two requests, three signals.
    assert!(found.states.iter().any(|k| k.signals > 2));
}

#[test]
fn a_doorbell_whose_kick_only_signals_loses_it_just_the_same() {
    let model = Protocol::WordAndSignal;
    passes(
        "Guest",
        &shown(search("a word and a signal", &model).stuck(&model)),
    );
}

#[test]
fn a_doorbell_that_is_cleared_after_the_look_loses_a_request() {
    let model = Protocol::WordClearedAfterLook;
    shown(search("a word cleared too late", &model).stuck(&model));
}

#[test]
fn the_doorbell_loses_no_kick_and_signals_once_at_most() {
    let model = Protocol::Word;
    let found = search("the doorbell word", &model);
    none(found.flaw(&model));
    assert!(found.states.iter().all(|k| k.signals <= 2));
}

#[test]
fn waiting_for_answers_with_a_lock_that_a_vcpu_needs_is_a_deadlock() {
    for model in [Gather::LockThroughout, Gather::LockWhileWaiting] {
        let found = search(&format!("vCPUs held, {model:?}"), &model);
        let example = shown(found.stuck(&model));
        passes("AtDevice", &example);
        assert!(found.endless(&model).is_some(), "no call leads on");
    }
}

#[test]
fn an_emt_that_only_waits_for_its_turn_is_a_deadlock() {
    let model = Gather::TurnWithoutServing;
    passes(
        "WantsTurn",
        &shown(search("vCPUs held, no serving", &model).stuck(&model)),
    );
}

#[test]
fn a_rendezvous_holds_all_vcpus_whatever_they_are_in() {
    let model = Gather::Turn;
    none(search("vCPUs held, by turns", &model).flaw(&model));
}
