// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Threads that wait for each other's changes, and so really sleep.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};
use vm_state::{Cause, State, StateCell, operations};

/// Far beyond what it takes; a wake-up that is lost fails by name instead of hanging.
const LIMIT: Option<Duration> = Some(Duration::from_secs(15));

fn running() -> Arc<StateCell> {
    let (cell, creation) = StateCell::create();
    creation.commit(State::Created).expect("a legal end");
    let power_on = cell.begin(operations::POWER_ON.moves, Cause::User);
    let power_on = power_on.expect("a created VM can be powered on");
    power_on.commit(State::Running).expect("a legal end");
    cell
}

const ROUNDS: u64 = if cfg!(miri) { 20 } else { 500 };

/// Waits for `from` and then leads the VM through `moves` to `to`, many times.
fn follow(cell: &Arc<StateCell>, from: State, moves: &[(State, State)], to: State) {
    for _ in 0..ROUNDS {
        assert_eq!(cell.wait_until(|state| state == from, LIMIT), Ok(from));
        let transition = cell.begin(moves, Cause::User).expect("nobody else does");
        assert_eq!(transition.commit(to), Ok(to));
    }
}

#[test]
fn two_threads_that_wait_for_each_others_changes_lose_none() {
    let cell = running();
    thread::scope(|scope| {
        scope.spawn(|| {
            follow(
                &cell,
                State::Running,
                operations::SUSPEND.moves,
                State::Suspended,
            );
        });
        follow(
            &cell,
            State::Suspended,
            operations::RESUME.moves,
            State::Running,
        );
    });
    assert_eq!(cell.snapshot().sequence, 3 + 4 * ROUNDS);
}

#[test]
fn a_change_wakes_every_thread_that_waits_for_it() {
    let cell = running();
    let asked = Barrier::new(4);
    thread::scope(|scope| {
        let waiters = [(); 3].map(|()| {
            scope.spawn(|| {
                asked.wait();
                cell.wait_until(|state| state == State::Off, LIMIT)
            })
        });
        asked.wait();
        let power_off = cell.begin(operations::POWER_OFF.moves, Cause::User);
        let power_off = power_off.expect("it runs");
        power_off.commit(State::Off).expect("a legal end");
        for waiter in waiters {
            assert_eq!(waiter.join().expect("no panic"), Ok(State::Off));
        }
    });
}
