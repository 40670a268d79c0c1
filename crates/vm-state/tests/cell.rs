// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The cell: what is refused, how transitions end, what waiters and observers see.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};
use vm_state::{
    Cause, Change, IllegalTarget, Raised, Refused, ResumeReason, State, StateCell, Subscription,
    SuspendReason, WaitError, in_observer, operations,
};

const USER: Cause = Cause::User;
const SUSPEND: Cause = Cause::Suspend(SuspendReason::User);

fn created() -> Arc<StateCell> {
    let (cell, creation) = StateCell::create();
    creation
        .commit(State::Created)
        .expect("a new VM can be created");
    cell
}

fn running() -> Arc<StateCell> {
    let cell = created();
    perform(&cell, operations::POWER_ON.moves, State::Running);
    cell
}

fn suspended() -> Arc<StateCell> {
    let cell = running();
    perform(&cell, operations::SUSPEND.moves, State::Suspended);
    cell
}

fn live() -> Arc<StateCell> {
    let cell = running();
    cell.shift(operations::SAVE.shifts, Cause::Save)
        .expect("a running VM can be saved");
    cell
}

fn perform(cell: &Arc<StateCell>, moves: &[(State, State)], to: State) {
    let transition = cell.begin(moves, USER).expect("the state fits");
    assert_eq!(transition.commit(to), Ok(to));
}

fn recorded(cell: &Arc<StateCell>) -> (Subscription, Arc<Mutex<Vec<Change>>>) {
    let record = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&record);
    (
        cell.observe(move |change| into.lock().expect("not poisoned").push(*change)),
        record,
    )
}

fn names(record: &Mutex<Vec<Change>>) -> Vec<&'static str> {
    record
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|change| change.new.name())
        .collect()
}

#[test]
fn t_s02_a_refused_move_changes_nothing_and_tells_nobody() {
    let cell = created();
    let (_subscription, record) = recorded(&cell);
    let before = cell.snapshot();

    let refused = cell
        .begin(operations::SUSPEND.moves, SUSPEND)
        .expect_err("nothing runs");
    assert_eq!(refused.actual(), State::Created);
    assert_eq!(
        refused.to_string(),
        "not possible while the VM is CREATED; possible in RUNNING, RUNNING_LS"
    );
    let illegal = cell
        .begin(&[(State::Created, State::Resuming)], USER)
        .expect_err("no such move");
    let expected = Refused::NotInTable {
        from: State::Created,
        to: State::Resuming,
    };
    assert_eq!(illegal, expected);

    assert_eq!(cell.snapshot(), before);
    assert_eq!(names(&record), [""; 0]);
}

#[test]
fn the_first_pair_that_matches_is_taken() {
    let cell = live();
    let transition = cell
        .begin(operations::SUSPEND.moves, SUSPEND)
        .expect("it runs");
    assert_eq!(
        (transition.from(), transition.via()),
        (State::RunningLs, State::SuspendingExtLs)
    );
    assert_eq!(
        transition.commit(State::SuspendedExtLs),
        Ok(State::SuspendedExtLs)
    );
}

#[test]
fn begin_enters_only_transient_states_and_shift_only_others() {
    let cell = running();
    let stable = cell
        .begin(&[(State::Running, State::RunningLs)], USER)
        .expect_err("not transient");
    assert!(matches!(stable, Refused::NotInTable { .. }));
    let transient = cell.shift(&[(State::Running, State::Suspending)], USER);
    assert!(matches!(transient, Err(Refused::NotInTable { .. })));
    assert_eq!(cell.read(), State::Running);
}

#[test]
fn nobody_moves_the_state_while_a_transition_exists() {
    let cell = live();
    let transition = cell
        .begin(operations::SUSPEND.moves, SUSPEND)
        .expect("it runs");
    let stolen = cell.begin(&[(State::SuspendingExtLs, State::Suspending)], USER);
    assert!(matches!(stolen, Err(Refused::NotInTable { .. })));
    let shifted = cell.shift(&[(State::SuspendingExtLs, State::SuspendedExtLs)], USER);
    assert!(matches!(shifted, Err(Refused::NotInTable { .. })));
    drop(transition);
}

#[test]
fn a_transition_may_end_on_another_thread() {
    let cell = created();
    let transition = cell
        .begin(operations::POWER_ON.moves, USER)
        .expect("created");
    thread::scope(|scope| {
        scope.spawn(move || transition.commit(State::Running).expect("a legal end"));
    });
    assert_eq!(cell.read(), State::Running);
}

/// Begins `moves` in `cell`, drops the transition, and says where that ended.
fn dropped(cell: &Arc<StateCell>, moves: &[(State, State)]) -> State {
    drop(cell.begin(moves, USER).expect("the state fits"));
    cell.read()
}

#[test]
fn t_s32_a_dropped_transition_is_undone_where_nothing_has_come_of_it() {
    assert_eq!(
        dropped(&created(), operations::POWER_ON.moves),
        State::Created
    );
    assert_eq!(
        dropped(&suspended(), operations::RESUME.moves),
        State::Suspended
    );
    assert_eq!(
        dropped(&running(), operations::SUSPEND.moves),
        State::Running
    );
    assert_eq!(
        dropped(&suspended(), operations::SAVE.moves),
        State::Suspended
    );
}

#[test]
fn a_dropped_transition_that_cannot_be_undone_ends_in_its_failure_state() {
    assert_eq!(
        dropped(&created(), operations::LOAD.moves),
        State::LoadFailure
    );
    assert_eq!(
        dropped(&running(), operations::HARD_RESET.moves),
        State::GuruMeditation
    );
    assert_eq!(
        dropped(&suspended(), operations::SOFT_RESET.moves),
        State::GuruMeditation
    );
    assert_eq!(
        dropped(&live(), operations::HARD_RESET.moves),
        State::GuruMeditationLs
    );
    assert_eq!(dropped(&running(), operations::POWER_OFF.moves), State::Off);
    assert_eq!(dropped(&live(), operations::POWER_OFF.moves), State::OffLs);
}

#[test]
fn a_dropped_creation_is_seen_to_be_torn_down() {
    let (cell, creation) = StateCell::create();
    let (_subscription, record) = recorded(&cell);
    drop(creation);
    assert_eq!(names(&record), ["DESTROYING", "TERMINATED"]);
}

#[test]
fn a_failed_create_is_torn_down_through_destroying() {
    let (cell, creation) = StateCell::create();
    let teardown = creation
        .then(State::Destroying)
        .expect("a failed create is destroyed");
    assert_eq!(cell.read(), State::Destroying);
    assert_eq!(teardown.commit(State::Terminated), Ok(State::Terminated));
}

#[test]
fn a_load_refused_before_memory_was_touched_returns_to_where_it_began() {
    let cell = created();
    let load = cell
        .begin(operations::LOAD.moves, Cause::Load)
        .expect("created");
    assert_eq!(load.commit(State::Created), Ok(State::Created));
    let cell = suspended();
    let load = cell
        .begin(operations::LOAD.moves, Cause::Load)
        .expect("suspended");
    assert_eq!(load.commit(State::Suspended), Ok(State::Suspended));
}

#[test]
fn t_s13_a_reset_of_a_suspended_vm_cannot_end_running() {
    let cell = suspended();
    let reset = cell
        .begin(operations::HARD_RESET.moves, USER)
        .expect("suspended");
    let error = reset
        .commit(State::Running)
        .expect_err("it began suspended");
    let expected = IllegalTarget {
        from: State::Suspended,
        via: State::Resetting,
        to: State::Running,
        ended: State::GuruMeditation,
    };
    assert_eq!(error, expected);
    assert_eq!(cell.read(), State::GuruMeditation);
}

#[test]
fn t_s14_a_hard_reset_during_a_live_save_ends_suspended() {
    let cell = live();
    let (_subscription, record) = recorded(&cell);
    let reset = cell
        .begin(operations::HARD_RESET.moves, Cause::Guest)
        .expect("it runs");
    let suspending = reset.then(State::SuspendingLs).expect("its tail");
    suspending.commit(State::SuspendedLs).expect("its end");
    assert_eq!(
        names(&record),
        ["RESETTING_LS", "SUSPENDING_LS", "SUSPENDED_LS"]
    );
}

#[test]
fn commit_to_a_transient_state_and_then_to_another_are_refused() {
    let cell = live();
    let reset = cell
        .begin(operations::HARD_RESET.moves, USER)
        .expect("it runs");
    assert!(reset.commit(State::SuspendingLs).is_err());
    assert_eq!(cell.read(), State::GuruMeditationLs);
    let off = cell
        .begin(operations::POWER_OFF.moves, USER)
        .expect("it failed");
    let error = off.then(State::OffLs).expect_err("an end is committed");
    assert_eq!(error.ended, State::OffLs);
}

#[test]
fn a_fatal_cause_takes_a_running_vm_at_once() {
    let cell = running();
    assert_eq!(
        cell.raise_fatal(Cause::Vcpu(1)),
        Raised::Entered(State::GuruMeditation)
    );
    assert_eq!(cell.snapshot().cause, Cause::Vcpu(1));
    let cell = live();
    assert_eq!(
        cell.raise_fatal(Cause::Vcpu(0)),
        Raised::Entered(State::GuruMeditationLs)
    );
}

#[test]
fn t_s31_a_fatal_cause_during_a_transition_decides_how_it_ends() {
    let cell = running();
    let suspend = cell
        .begin(operations::SUSPEND.moves, SUSPEND)
        .expect("it runs");
    let raised = cell.raise_fatal(Cause::Device("disk"));
    assert_eq!(raised, Raised::Remembered(State::Suspending));
    assert_eq!(suspend.commit(State::Suspended), Ok(State::GuruMeditation));
    assert_eq!(cell.snapshot().cause, Cause::Device("disk"));
}

#[test]
fn a_fatal_cause_also_decides_how_a_dropped_transition_ends() {
    let cell = running();
    let suspend = cell
        .begin(operations::SUSPEND.moves, SUSPEND)
        .expect("it runs");
    cell.raise_fatal(Cause::Vcpu(0));
    assert_eq!(suspend.undo(), State::GuruMeditation);
}

#[test]
fn a_fatal_cause_raised_in_a_suspended_vm_keeps_it_from_running_again() {
    let cell = suspended();
    assert_eq!(
        cell.raise_fatal(Cause::Vcpu(2)),
        Raised::Remembered(State::Suspended)
    );
    let resume = cell
        .begin(operations::RESUME.moves, USER)
        .expect("suspended");
    assert_eq!(resume.commit(State::Running), Ok(State::GuruMeditation));
}

#[test]
fn a_fatal_cause_stops_neither_power_off_nor_destroy_and_the_first_one_stays() {
    let cell = running();
    cell.raise_fatal(Cause::Vcpu(3));
    cell.raise_fatal(Cause::Vcpu(4));
    assert_eq!(cell.fatal(), Some(Cause::Vcpu(3)));
    perform(&cell, operations::POWER_OFF.moves, State::Off);
    perform(&cell, operations::DESTROY.moves, State::Terminated);
}

#[test]
fn the_snapshot_remembers_previous_state_count_and_reasons() {
    let cell = running();
    let reason = SuspendReason::HostSuspend;
    let suspend = cell
        .begin(operations::SUSPEND.moves, Cause::Suspend(reason))
        .expect("it runs");
    suspend.commit(State::Suspended).expect("a legal end");
    let reason = ResumeReason::HostResume;
    let resume = cell
        .begin(operations::RESUME.moves, Cause::Resume(reason))
        .expect("suspended");
    let snapshot = cell.snapshot();
    assert_eq!(
        (snapshot.previous, snapshot.state),
        (State::Suspended, State::Resuming)
    );
    assert_eq!(snapshot.last_suspend, Some(SuspendReason::HostSuspend));
    assert_eq!(snapshot.last_resume, None, "not yet");
    assert_eq!(snapshot.sequence, 6);
    resume.commit(State::Running).expect("a legal end");
    let last = cell.snapshot().last_resume;
    assert_eq!(last, Some(ResumeReason::HostResume));
}

#[test]
fn t_p17_a_suspend_or_resume_that_is_undone_leaves_the_last_reason_alone() {
    let cell = running();
    let reasons = || {
        let snapshot = cell.snapshot();
        (snapshot.last_suspend, snapshot.last_resume)
    };
    let why = Cause::Suspend(SuspendReason::User);
    drop(cell.begin(operations::SUSPEND.moves, why).expect("it runs"));
    assert_eq!(reasons(), (None, None));
    let suspend = cell.begin(operations::SUSPEND.moves, why).expect("it runs");
    suspend.commit(State::Suspended).expect("a legal end");
    let why = Cause::Resume(ResumeReason::User);
    drop(
        cell.begin(operations::RESUME.moves, why)
            .expect("suspended"),
    );
    assert_eq!(reasons(), (Some(SuspendReason::User), None));
}

#[test]
fn a_wait_ends_at_once_if_the_state_is_there_and_names_it_if_it_never_comes() {
    let cell = running();
    assert_eq!(cell.wait_until(State::is_running, None), Ok(State::Running));
    let timeout = cell.wait_until(|state| state == State::Off, Some(Duration::ZERO));
    assert_eq!(
        timeout,
        Err(WaitError::Timeout {
            actual: State::Running
        })
    );
}

#[test]
fn a_waiter_is_woken_by_the_change_it_waits_for() {
    let cell = running();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| cell.wait_until(|state| state == State::Off, None));
        perform(&cell, operations::SUSPEND.moves, State::Suspended);
        perform(&cell, operations::POWER_OFF.moves, State::Off);
        assert_eq!(waiter.join().expect("no panic"), Ok(State::Off));
    });
}

#[test]
fn t_c01_observers_are_told_in_the_order_of_their_registration() {
    let cell = created();
    let told = Arc::new(Mutex::new(Vec::new()));
    let subscriptions = ["a", "b", "c"].map(|name| {
        let told = Arc::clone(&told);
        cell.observe(move |change| {
            told.lock()
                .expect("not poisoned")
                .push((name, change.sequence, change.new));
        })
    });
    let power_on = cell
        .begin(operations::POWER_ON.moves, USER)
        .expect("created");
    let expected = ["a", "b", "c"].map(|name| (name, 2, State::PoweringOn));
    assert_eq!(*told.lock().expect("not poisoned"), expected);
    drop(subscriptions);
    drop(power_on);
    assert_eq!(told.lock().expect("not poisoned").len(), 3);
}

#[test]
fn t_c04_an_observer_registered_by_another_is_told_from_the_next_change_on() {
    let cell = created();
    let record = Arc::new(Mutex::new(Vec::new()));
    let late = Arc::new(Mutex::new(None));
    let (weak, keep, into) = (
        Arc::downgrade(&cell),
        Arc::clone(&late),
        Arc::clone(&record),
    );
    let _first = cell.observe(move |_| {
        let (cell, into) = (weak.upgrade().expect("the cell lives"), Arc::clone(&into));
        keep.lock().expect("not poisoned").get_or_insert_with(|| {
            cell.observe(move |change| into.lock().expect("not poisoned").push(*change))
        });
    });
    perform(&cell, operations::POWER_ON.moves, State::Running);
    assert_eq!(names(&record), ["RUNNING"]);
}

#[test]
fn t_c05_an_observer_may_end_its_own_subscription() {
    let cell = created();
    let calls = Arc::new(Mutex::new(0));
    let own = Arc::new(Mutex::new(None::<Subscription>));
    let (count, subscription) = (Arc::clone(&calls), Arc::clone(&own));
    let registered = cell.observe(move |_| {
        *count.lock().expect("not poisoned") += 1;
        drop(subscription.lock().expect("not poisoned").take());
    });
    *own.lock().expect("not poisoned") = Some(registered);
    let (_other, record) = recorded(&cell);
    perform(&cell, operations::POWER_ON.moves, State::Running);
    assert_eq!(*calls.lock().expect("not poisoned"), 1);
    assert_eq!(names(&record), ["POWERING_ON", "RUNNING"]);
}

#[test]
fn t_c06_an_observer_can_neither_begin_nor_wait() {
    let cell = running();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let (weak, into) = (Arc::downgrade(&cell), Arc::clone(&answers));
    let _subscription = cell.observe(move |change| {
        let cell = weak.upgrade().expect("the cell lives");
        let begun = cell
            .begin(&[(change.new, State::Suspending)], USER)
            .map(|_| ());
        let waited = cell.wait_until(|_| true, None);
        into.lock()
            .expect("not poisoned")
            .push((in_observer(), begun, waited));
    });
    cell.shift(operations::SAVE.shifts, Cause::Save)
        .expect("it runs");
    let actual = State::RunningLs;
    let refused = (
        true,
        Err(Refused::InObserver { actual }),
        Err(WaitError::InObserver { actual }),
    );
    assert_eq!(*answers.lock().expect("not poisoned"), [refused]);
    assert!(!in_observer());
    assert_eq!(cell.read(), State::RunningLs);
}

#[test]
fn a_fatal_cause_raised_by_an_observer_is_told_after_the_change_it_was_told_of() {
    let cell = created();
    let weak = Arc::downgrade(&cell);
    let _raiser = cell.observe(move |change| {
        if change.new == State::Running {
            weak.upgrade()
                .expect("the cell lives")
                .raise_fatal(Cause::Host);
        }
    });
    let (_subscription, record) = recorded(&cell);
    perform(&cell, operations::POWER_ON.moves, State::Running);
    assert_eq!(
        names(&record),
        ["POWERING_ON", "RUNNING", "GURU_MEDITATION"]
    );
}

#[test]
fn t_c07_a_whole_life_is_told_without_a_gap() {
    let (cell, creation) = StateCell::create();
    let (_subscription, record) = recorded(&cell);
    creation.commit(State::Created).expect("a legal end");
    perform(&cell, operations::POWER_ON.moves, State::Running);
    perform(&cell, operations::SUSPEND.moves, State::Suspended);
    perform(&cell, operations::RESUME.moves, State::Running);
    perform(&cell, operations::POWER_OFF.moves, State::Off);
    perform(&cell, operations::DESTROY.moves, State::Terminated);
    let life = "CREATED POWERING_ON RUNNING SUSPENDING SUSPENDED RESUMING RUNNING POWERING_OFF OFF \
                DESTROYING TERMINATED";
    assert_eq!(names(&record), life.split(' ').collect::<Vec<_>>());
    let changes = record.lock().expect("not poisoned");
    assert!(changes.is_sorted_by(|a, b| a.new == b.old && a.sequence + 1 == b.sequence));
}

#[test]
fn changes_raced_by_many_threads_are_told_one_at_a_time_in_their_order() {
    let cell = running();
    let (_subscription, record) = recorded(&cell);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..if cfg!(miri) { 20 } else { 500 } {
                    let moves = [operations::SUSPEND.moves, operations::RESUME.moves].concat();
                    let Ok(transition) = cell.begin(&moves, USER) else {
                        continue;
                    };
                    let to = if transition.via() == State::Suspending {
                        State::Suspended
                    } else {
                        State::Running
                    };
                    assert_eq!(transition.commit(to), Ok(to));
                }
            });
        }
    });
    let changes = record.lock().expect("not poisoned");
    assert_eq!(
        changes.last().map(|last| last.sequence),
        Some(cell.snapshot().sequence)
    );
    assert!(changes.is_sorted_by(|a, b| a.new == b.old && a.sequence + 1 == b.sequence));
}

#[test]
fn an_observer_that_panics_harms_nobody_else_and_is_not_called_again() {
    let cell = created();
    let _bad = cell.observe(|_| panic!("on purpose, for a test"));
    let (_subscription, record) = recorded(&cell);
    perform(&cell, operations::POWER_ON.moves, State::Running);
    assert_eq!(names(&record), ["POWERING_ON", "RUNNING"]);
    assert_eq!(cell.snapshot().observer_panics, 1);
    assert!(!in_observer());
}

#[test]
fn an_observer_that_does_not_return_costs_changes_but_no_memory() {
    let cell = running();
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let _stuck = cell.observe(move |change| {
        entered.send(change.sequence).expect("the test waits");
        if change.new == State::RunningLs && change.sequence == 4 {
            released
                .lock()
                .expect("not poisoned")
                .recv()
                .expect("the test releases it");
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| cell.shift(operations::SAVE.shifts, USER).expect("it runs"));
        assert_eq!(has_entered.recv(), Ok(4));
        let there_and_back = [operations::LIVE_END.shifts[5], operations::SAVE.shifts[0]];
        for _ in 0..20_000 {
            cell.shift(&there_and_back, USER)
                .expect("nobody else moves it");
        }
        assert_eq!(cell.snapshot().untold, 20_000 - 16_384);
        release.send(()).expect("the observer waits");
    });
    assert_eq!(has_entered.try_iter().last(), Some(4 + 16_384));
}
