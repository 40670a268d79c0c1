// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What fires when, on a clock that the test moves and on the real thread.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use crate::stats::Stats;

use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const LONG: Duration = Duration::from_secs(60);

/// Timers on a source that the test moves.
fn driven() -> (Timers, Arc<AtomicU64>) {
    let source = Arc::new(AtomicU64::new(1234 * SECOND));
    let read = Arc::clone(&source);
    let timers = Timers::driven(move || read.load(Ordering::SeqCst));
    (timers, source)
}

/// A timer that notes the deadlines it fired for.
fn noting(timers: &Timers) -> (Timer, Arc<Mutex<Vec<u64>>>) {
    let fired: Arc<Mutex<Vec<u64>>> = Arc::default();
    let notes = Arc::clone(&fired);
    let timer = timers.timer("t", move |firing| lock(&notes).push(firing.deadline_ns()));
    (timer.unwrap(), fired)
}

fn took<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(LONG).expect("the timer fires")
}

#[test]
fn sd_m01_while_the_vm_is_suspended_virtual_time_stays_and_real_time_goes_on() {
    let (timers, source) = driven();
    timers.run();
    source.fetch_add(5 * SECOND, Ordering::SeqCst);
    timers.hold();
    source.fetch_add(10 * SECOND, Ordering::SeqCst);
    assert_eq!(timers.clock().now_ns(), 5 * SECOND);
    timers.run();
    assert_eq!(timers.clock().now_ns(), 5 * SECOND);
    source.fetch_add(1, Ordering::SeqCst);
    assert_eq!(timers.clock().now_ns(), 5 * SECOND + 1);
}

#[test]
fn running_a_clock_that_runs_and_holding_one_that_is_held_changes_nothing() {
    let (timers, source) = driven();
    for _ in 0..2 {
        timers.run();
        source.fetch_add(1, Ordering::SeqCst);
    }
    for _ in 0..2 {
        timers.hold();
        source.fetch_add(1, Ordering::SeqCst);
    }
    assert_eq!(timers.clock().now_ns(), 2);
}

#[test]
fn sd_m02_a_timer_saved_and_loaded_an_hour_later_fires_after_what_was_left_of_virtual_time() {
    let (saved_ns, deadline_ns) = {
        let (timers, source) = driven();
        let (timer, fired) = noting(&timers);
        timers.run();
        source.fetch_add(5 * SECOND, Ordering::SeqCst);
        timer.arm_in(Duration::from_secs(1));
        timers.hold();
        source.fetch_add(3600 * SECOND, Ordering::SeqCst);
        assert_eq!(timers.fire_due(), 0);
        assert!(lock(&fired).is_empty());
        (timers.clock().now_ns(), timer.deadline_ns().unwrap())
    };
    let (timers, source) = driven();
    let (timer, fired) = noting(&timers);
    timers.set_ns(saved_ns).unwrap();
    timer.arm(deadline_ns);
    timers.run();
    source.fetch_add(SECOND - 1, Ordering::SeqCst);
    assert_eq!(timers.fire_due(), 0);
    source.fetch_add(1, Ordering::SeqCst);
    assert_eq!(timers.fire_due(), 1);
    assert_eq!(*lock(&fired), [6 * SECOND]);
}

#[test]
fn a_clock_that_runs_cannot_be_set() {
    let (timers, _) = driven();
    timers.run();
    assert!(matches!(timers.set_ns(7), Err(TimerError::Running)));
    timers.hold();
    timers.set_ns(7).unwrap();
    assert_eq!(timers.clock().now_ns(), 7);
}

#[test]
fn a_period_counted_from_the_deadline_loses_and_adds_nothing_however_late_it_is_served() {
    let (timers, source) = driven();
    let fired: Arc<Mutex<Vec<u64>>> = Arc::default();
    let notes = Arc::clone(&fired);
    let tick = timers.timer("tick", move |firing| {
        lock(&notes).push(firing.deadline_ns());
        firing.arm(firing.deadline_ns() + 10);
    });
    let tick = tick.unwrap();
    timers.run();
    tick.arm(10);
    for step in [5, 4, 1, 35, 0, 5] {
        source.fetch_add(step, Ordering::SeqCst);
        timers.fire_due();
        timers.hold();
        source.fetch_add(1000, Ordering::SeqCst);
        timers.fire_due();
        timers.run();
    }
    assert_eq!(*lock(&fired), [10, 20, 30, 40, 50]);
    assert_eq!(tick.deadline_ns(), Some(60));
}

#[test]
fn of_one_deadline_the_timer_that_was_armed_first_fires_first() {
    let (timers, _) = driven();
    let order: Arc<Mutex<Vec<u32>>> = Arc::default();
    let all: Vec<Timer> = (0..3)
        .map(|i| {
            let order = Arc::clone(&order);
            timers.timer("t", move |_| lock(&order).push(i)).unwrap()
        })
        .collect();
    all[2].arm(0);
    all[0].arm(0);
    all[1].arm(0);
    all[2].arm(0);
    timers.run();
    assert_eq!(timers.fire_due(), 3);
    assert_eq!(*lock(&order), [0, 1, 2]);
}

#[test]
fn a_callback_is_not_current_once_its_timer_was_armed_or_cancelled_or_is_gone() {
    type Deed = fn(&mut Option<Timer>);
    let deeds: [(Deed, bool); 4] = [
        (|_| {}, true),
        (
            |t| assert!(t.as_ref().is_some_and(|t| !t.arm(u64::MAX))),
            false,
        ),
        (|t| assert!(t.as_ref().is_some_and(|t| !t.cancel())), false),
        (|t| drop(t.take()), false),
    ];
    for (deed, current) in deeds {
        let (timers, _) = driven();
        let slot: Arc<Mutex<Option<Timer>>> = Arc::default();
        let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
        let (own, notes) = (Arc::clone(&slot), Arc::clone(&seen));
        let timer = timers.timer("t", move |firing| {
            deed(&mut lock(&own));
            lock(&notes).push(firing.is_current());
            lock(&notes).push(firing.arm(1));
        });
        *lock(&slot) = timer.ok();
        lock(&slot).as_ref().map(|t| t.arm(0));
        timers.run();
        assert_eq!(timers.fire_due(), 1);
        assert_eq!(*lock(&seen), [current, current]);
        drop(lock(&slot).take());
    }
}

/// What the timers of a model are to do.
#[derive(Debug, Clone)]
enum Step {
    Arm(usize, u64),
    Cancel(usize),
    Pass(u64),
    Run,
    Hold,
    Fire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..3, 0_u64..40).prop_map(|(i, at)| Step::Arm(i, at)),
        (0_usize..3).prop_map(Step::Cancel),
        (0_u64..10).prop_map(Step::Pass),
        Just(Step::Run),
        Just(Step::Hold),
        Just(Step::Fire),
    ]
}

/// Said without regard to time or threads.
#[derive(Default)]
struct Model {
    now: u64,
    runs: bool,
    armed: [Option<(u64, usize)>; 3],
    arms: usize,
    fired: Vec<(usize, u64)>,
}

impl Model {
    fn fire(&mut self) {
        let due = |m: &Self| {
            let all = m.armed.iter().enumerate();
            let armed = all.filter_map(|(i, a)| a.map(|(at, n)| (at, n, i)));
            armed.filter(|&(at, ..)| m.runs && at <= m.now).min()
        };
        while let Some((at, _, i)) = due(self) {
            self.armed[i] = None;
            self.fired.push((i, at));
        }
    }
}

proptest! {
    #[test]
    fn timers_fire_as_the_model_says(steps in proptest::collection::vec(step(), 0..60)) {
        let (timers, source) = driven();
        let fired: Arc<Mutex<Vec<(usize, u64)>>> = Arc::default();
        let all: Vec<Timer> = (0..3).map(|i| {
            let notes = Arc::clone(&fired);
            timers.timer("t", move |f| lock(&notes).push((i, f.deadline_ns()))).unwrap()
        }).collect();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Arm(i, at) => {
                    prop_assert_eq!(all[i].arm(at), model.armed[i].is_some());
                    model.arms += 1;
                    model.armed[i] = Some((at, model.arms));
                }
                Step::Cancel(i) => {
                    prop_assert_eq!(all[i].cancel(), model.armed[i].take().is_some());
                }
                Step::Pass(ns) => {
                    source.fetch_add(ns, Ordering::SeqCst);
                    model.now += if model.runs { ns } else { 0 };
                }
                Step::Run => { timers.run(); model.runs = true; }
                Step::Hold => { timers.hold(); model.runs = false; }
                Step::Fire => { timers.fire_due(); model.fire(); }
            }
            prop_assert_eq!(timers.clock().now_ns(), model.now);
            prop_assert_eq!(&*lock(&fired), &model.fired);
            for (timer, armed) in all.iter().zip(model.armed) {
                prop_assert_eq!(timer.deadline_ns(), armed.map(|(at, _)| at));
            }
        }
    }
}

#[test]
fn the_thread_fires_what_is_due_and_what_becomes_due() {
    let timers = Timers::new();
    let (tell, told) = channel();
    let timer = timers.timer("t", move |firing| {
        let name = std::thread::current().name().map(str::to_owned);
        tell.send((name, firing.deadline_ns())).unwrap();
    });
    let timer = timer.unwrap();
    timer.arm(0);
    assert!(told.try_recv().is_err(), "the clock is held");
    timers.run();
    assert_eq!(took(&told), (Some("timers".to_owned()), 0));
    timer.arm_in(Duration::from_millis(1));
    let (_, deadline_ns) = took(&told);
    assert!(timers.clock().now_ns() >= deadline_ns, "never before");
    timer.arm_in(LONG);
    timer.arm(1);
    assert_eq!(took(&told).1, 1, "a nearer deadline wakes the thread");
}

/// A timer whose callback says that it began, and waits to be let go.
fn waiting(
    timers: &Timers,
) -> (
    Timer,
    Receiver<()>,
    std::sync::mpsc::Sender<()>,
    Receiver<bool>,
) {
    let (begin, began) = channel();
    let (go, gone) = channel();
    let (end, ended) = channel();
    let gone = Mutex::new(gone);
    let timer = timers.timer("slow", move |firing| {
        begin.send(()).unwrap();
        lock(&gone).recv().unwrap();
        end.send(firing.is_current()).unwrap();
    });
    (timer.unwrap(), began, go, ended)
}

#[test]
fn who_cancels_while_a_callback_runs_does_not_wait_and_the_callback_learns_it() {
    let timers = Timers::new();
    let (timer, began, go, ended) = waiting(&timers);
    timers.run();
    timer.arm(0);
    took(&began);
    assert!(!timer.cancel(), "it has fired");
    go.send(()).unwrap();
    assert!(!took(&ended));
    timer.arm(0);
    took(&began);
    go.send(()).unwrap();
    assert!(took(&ended));
}

#[test]
fn quiesce_waits_for_the_callback_that_runs_and_names_it_if_it_is_late() {
    let timers = Timers::new();
    let (timer, began, go, ended) = waiting(&timers);
    timers.run();
    timer.arm(0);
    took(&began);
    let late = timers.quiesce(Duration::ZERO).unwrap_err();
    assert!(
        matches!(&late, TimerError::Late { timer, .. } if timer == "slow"),
        "{late}"
    );
    assert!(!timers.clock().is_running());
    timer.arm(0);
    go.send(()).unwrap();
    timers.quiesce(LONG).unwrap();
    assert!(!took(&ended), "it was armed again");
    assert!(
        began.try_recv().is_err(),
        "nothing fires while the clock is held"
    );
    timers.run();
    took(&began);
    go.send(()).unwrap();
    took(&ended);
}

#[test]
fn quiesce_from_a_callback_does_not_wait_for_itself() {
    let timers = Arc::new(Timers::new());
    let (tell, told) = channel();
    let inner = Arc::downgrade(&timers);
    let timer = timers.timer("t", move |_| {
        let quiesced = inner
            .upgrade()
            .is_some_and(|t| t.quiesce(Duration::ZERO).is_ok());
        tell.send(quiesced).unwrap();
    });
    timers.run();
    timer.as_ref().unwrap().arm(0);
    assert!(took(&told));
}

#[test]
fn a_callback_that_panics_is_counted_and_other_timers_fire_on() {
    let timers = Timers::new();
    let stats = Stats::new();
    let mut scope = Scope::new(&stats, "/timers");
    timers.stats(&mut scope).unwrap();
    let (tell, told) = channel();
    let bad = timers.timer("bad", |_| panic!("on purpose")).unwrap();
    let good = timers
        .timer("good", move |_| tell.send(()).unwrap())
        .unwrap();
    bad.arm(0);
    good.arm(1);
    timers.run();
    took(&told);
    timers.quiesce(LONG).unwrap();
    let snapshot = stats.snapshot(&"/timers/*".parse().unwrap());
    assert!(matches!(
        snapshot.get("/timers/late"),
        Some(Value::Profile { count: 2, .. })
    ));
    let count = |path| match snapshot.get(path) {
        Some(Value::Counter(n)) => n,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!((count("/timers/fired"), count("/timers/panicked")), (2, 1));
}

#[test]
fn timers_that_go_join_their_thread_and_nothing_fires_any_more() {
    let timers = Timers::new();
    let (timer, began, go, ended) = waiting(&timers);
    timers.run();
    timer.arm(0);
    took(&began);
    go.send(()).unwrap();
    drop(timers);
    assert!(ended.try_recv().is_ok(), "the callback that ran has ended");
    timer.arm(0);
    assert!(began.try_recv().is_err());
}

#[test]
fn timers_may_go_on_their_own_thread() {
    let slot: Arc<Mutex<Option<Timers>>> = Arc::default();
    let (tell, told) = channel();
    let timers = Timers::new();
    let own = Arc::clone(&slot);
    let timer = timers.timer("t", move |_| {
        drop(lock(&own).take());
        tell.send(()).unwrap();
    });
    let timer = timer.unwrap();
    *lock(&slot) = Some(timers);
    timer.arm(0);
    lock(&slot).as_ref().map(Timers::run);
    took(&told);
    assert!(lock(&slot).is_none());
}

#[test]
fn the_page_shows_the_clock_and_each_timer() {
    let (timers, source) = driven();
    let make = |name| timers.timer(name, |_| {}).unwrap();
    let (_idle, due, later) = (make("idle"), make("due"), make("later"));
    timers.run();
    source.fetch_add(50, Ordering::SeqCst);
    timers.hold();
    due.arm(20);
    later.arm(80);
    let mut page = Page::new();
    timers.info(&mut page).unwrap();
    assert_eq!(
        page.into_text(),
        "the virtual clock is held at 50 ns\nidle: not armed\ndue: due since 30 ns\nlater: in 30 ns, at 80\n"
    );
}
