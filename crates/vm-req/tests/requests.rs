// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests on real EMT threads: order, results, limits, EMTs that call each other, the end.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

mod rig;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use rig::{Guest, Rig};
use vm_emt::{Emt, Flow, Phase};
use vm_req::{CallError, Dest, EachOrder, Queues};

const NOW: Option<Duration> = Some(Duration::ZERO);

#[test]
fn t_q01_a_call_runs_on_its_emt_and_answers() {
    let rig = Rig::new(1);
    let base = String::from("borrowed");
    let answer = rig.call(0, None, |me| {
        (me.queues.pending(0), me.bell().id(), base.len())
    });
    assert_eq!(answer, Ok((false, 0, 8)));
    assert_eq!(rig.stats().processed, 1);
}

#[test]
fn t_q02_an_op_that_fails_answers_its_failure_and_the_emt_lives_on() {
    let rig = Rig::new(1);
    assert_eq!(rig.call(0, None, |_| Err::<(), i32>(-5)), Ok(Err(-5)));
    assert_eq!(rig.call(0, None, |_| 7), Ok(7));
}

#[test]
fn t_q03_a_call_from_an_emt_to_itself_runs_inline() {
    let rig = Rig::new(2);
    let inline = rig.call(1, None, |me| {
        let queues = me.queues.clone();
        let outer = thread::current().id();
        queues.call_from(me, 1, None, move |me| {
            (outer == thread::current().id(), me.served)
        })
    });
    assert_eq!(inline, Ok(Ok((true, 0))));
}

#[test]
fn t_q04_a_post_from_an_emt_to_any_runs_later_not_inside() {
    let rig = Rig::new(1);
    let (before, mut ticket) = rig
        .call(0, None, |me| {
            let ticket = me.queues.post(Dest::Any, |me| me.log.push("posted"));
            (me.log.len(), ticket)
        })
        .unwrap();
    assert_eq!(before, 0);
    assert_eq!(ticket.wait(None), Ok(()));
    assert_eq!(rig.call(0, None, |me| me.log.len()), Ok(1));
}

#[test]
fn t_q05_requests_queued_while_the_emt_is_busy_run_in_order() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    for name in ["a", "b", "c", "d", "e"] {
        drop(rig.post(Dest::Vcpu(0), move |me| me.log.push(name)));
    }
    hold.release();
    assert_eq!(
        rig.call(0, None, |me| me.log.clone()),
        Ok(vec!["a", "b", "c", "d", "e"])
    );
}

#[test]
fn t_q06_a_priority_request_goes_before_what_has_not_begun() {
    let rig = Rig::new(1);
    let hold = rig.hold(0); // a, running
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("b")));
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("c")));
    drop(rig.post_priority(0, |me| me.log.push("p")));
    hold.release();
    let log = rig.call(0, None, |me| me.log.clone());
    assert_eq!(log, Ok(vec!["p", "b", "c"]));
}

#[test]
fn t_q07_a_request_that_asks_the_loop_for_something_ends_processing_and_loses_nothing() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    drop(rig.post(Dest::Vcpu(0), |me| me.ask = Flow::Look));
    let mut seen = rig.post(Dest::Vcpu(0), |me| me.asked.clone());
    hold.release();
    assert_eq!(seen.wait(None), Ok(vec![Flow::Look]));
}

#[test]
fn t_q08_a_result_is_the_callers_alone_and_asks_the_loop_for_nothing() {
    let rig = Rig::new(1);
    assert_eq!(rig.call(0, None, |_| 1864), Ok(1864));
    assert_eq!(rig.call(0, None, |me| me.asked.clone()), Ok(vec![]));
}

#[test]
fn t_q09_a_failure_is_kept_for_its_caller_and_processing_goes_on() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut fails = rig.post(Dest::Vcpu(0), |me| Err::<(), _>((-1, me.turns)));
    let mut next = rig.post(Dest::Vcpu(0), |me| me.turns);
    hold.release();
    let turn = next.wait(None).unwrap();
    assert_eq!(fails.wait(None), Ok(Err((-1, turn))), "in one turn");
    assert_eq!(rig.call(0, None, |me| me.asked.clone()), Ok(vec![]));
}

#[test]
fn t_q10_a_request_that_processes_runs_each_of_the_rest_once_and_in_order() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut outer = rig.post(Dest::Vcpu(0), |me| {
        me.log.push("outer begins");
        let queues = me.queues.clone();
        queues.process(me, vm_req::Which::All);
        me.log.push("outer ends");
    });
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("x")));
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("y")));
    hold.release();
    // Asked for only then: the inner processing would serve the question too.
    assert_eq!(outer.wait(None), Ok(()));
    let log = rig.call(0, None, |me| me.log.clone());
    assert_eq!(log, Ok(vec!["outer begins", "x", "y", "outer ends"]));
}

#[test]
fn t_q11_many_producers_lose_nothing_and_each_keeps_its_order() {
    const EACH: u32 = if cfg!(miri) { 40 } else { 2000 };
    let rig = Rig::new(2);
    let last: [AtomicU32; 8] = Default::default();
    let last = Arc::new(last);
    let done = Arc::new(AtomicU32::new(0));
    thread::scope(|scope| {
        for producer in 0..8_usize {
            let (rig, last, done) = (&rig, &last, &done);
            scope.spawn(move || {
                for n in 1..=EACH {
                    let (last, done) = (last.clone(), done.clone());
                    drop(rig.post(Dest::Vcpu(u32::from(producer >= 4)), move |_| {
                        assert_eq!(last[producer].swap(n, SeqCst), n - 1, "out of order");
                        done.fetch_add(1, SeqCst);
                    }));
                }
            });
        }
    });
    assert!(
        rig.each(EachOrder::Ascending, None, |_| ())
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(done.load(SeqCst), 8 * EACH);
    assert_eq!(rig.stats().processed, u64::from(8 * EACH) + 2);
}

/// Which EMTs ran, in their order, and what each answered: its number.
fn visited(rig: &Rig, order: EachOrder) -> (Vec<u32>, Vec<Result<u32, CallError>>) {
    let ran = Mutex::new(Vec::new());
    let answers = rig.each(order, None, |me| {
        ran.lock().unwrap().push(me.bell().id());
        rig.bells.current().unwrap() // of the thread, not of the context
    });
    (ran.into_inner().unwrap(), answers)
}

#[test]
fn t_q12_each_ascending_runs_on_every_emt_from_zero_to_highest() {
    let (ran, answers) = visited(&Rig::new(3), EachOrder::Ascending);
    assert_eq!(ran, [0, 1, 2]);
    assert_eq!(answers, [Ok(0), Ok(1), Ok(2)]);
}

#[test]
fn t_q13_each_descending_runs_from_highest_to_zero_and_answers_by_number() {
    let rig = Rig::new(3);
    let (ran, answers) = visited(&rig, EachOrder::Descending);
    assert_eq!(ran, [2, 1, 0]);
    assert_eq!(answers, [Ok(0), Ok(1), Ok(2)]);
}

#[test]
fn t_q13_each_from_an_emt_descending_has_its_own_turn_inline() {
    let rig = Rig::new(3);
    let ran = Mutex::new(Vec::new());
    let answers = rig.call(1, None, |me| {
        let (queues, turn) = (me.queues.clone(), me.turns);
        queues.each_from(me, EachOrder::Descending, None, |me| {
            ran.lock().unwrap().push(me.bell().id());
            (me.bell().id(), me.turns == turn)
        })
    });
    assert_eq!(*ran.lock().unwrap(), [2, 1, 0]);
    assert_eq!(answers.unwrap()[1], Ok((1, true)));
}

#[test]
fn t_q14_one_vcpu_without_an_answer_does_not_stop_each() {
    let rig = Rig::new(3);
    rig.end(1);
    let answers = rig.each(EachOrder::Ascending, None, |me| me.bell().id());
    assert_eq!(answers, [Ok(0), Err(CallError::NotLive { vcpu: 1 }), Ok(2)]);
}

#[test]
fn t_q15_a_ticket_that_timed_out_can_be_waited_for_again() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut ticket = rig.post(Dest::Vcpu(0), |_| 7);
    let early = ticket.wait(Some(Duration::from_millis(1)));
    assert!(
        matches!(early, Err(CallError::Timeout { vcpu: 0, .. })),
        "{early:?}"
    );
    hold.release();
    assert_eq!(ticket.wait(None), Ok(7));
    assert_eq!(ticket.wait(None), Err(CallError::Taken));
}

#[test]
fn t_q16_a_limit_of_zero_only_looks() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let mut ticket = rig.post(Dest::Vcpu(0), |_| ());
    for _ in 0..3 {
        assert!(matches!(ticket.wait(NOW), Err(CallError::Timeout { .. })));
    }
    hold.release();
    assert_eq!(ticket.wait(None), Ok(()));
}

#[test]
fn t_q17_a_dropped_ticket_detaches_and_the_request_runs() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let alive = Arc::new(());
    let captured = alive.clone();
    drop(rig.post(Dest::Vcpu(0), move |me| {
        me.log.push("ran");
        captured
    }));
    hold.release();
    assert_eq!(rig.call(0, None, |me| me.log.clone()), Ok(vec!["ran"]));
    assert_eq!(
        Arc::strong_count(&alive),
        1,
        "a result nobody takes is dropped"
    );
}

#[test]
fn a_call_that_times_out_is_withdrawn_and_never_runs() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    let ran = AtomicU32::new(0);
    for limit in [Duration::ZERO, Duration::from_millis(1)] {
        let late = rig.call(0, Some(limit), |_| ran.fetch_add(1, SeqCst));
        assert!(
            matches!(late, Err(CallError::Timeout { vcpu: 0, .. })),
            "{late:?}"
        );
    }
    hold.release();
    assert_eq!(rig.call(0, None, |_| ()), Ok(()));
    assert_eq!(ran.load(SeqCst), 0);
    assert_eq!(rig.stats().cancelled, 2);
}

#[test]
fn withdrawing_from_the_middle_keeps_the_order_of_the_rest() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("a")));
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("b")));
    assert!(rig.call(0, NOW, |me| me.log.push("withdrawn")).is_err());
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("c")));
    assert!(rig.call(0, NOW, |me| me.log.push("withdrawn too")).is_err());
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("d")));
    hold.release();
    assert_eq!(
        rig.call(0, None, |me| me.log.clone()),
        Ok(vec!["a", "b", "c", "d"])
    );
}

#[test]
fn a_call_that_has_begun_is_waited_for_beyond_its_limit() {
    let rig = Rig::new(1);
    let begun = Barrier::new(2);
    let limit = Some(Duration::from_millis(1));
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            loop {
                let answer = rig.call(0, limit, |_| {
                    begun.wait(); // begun
                    begun.wait(); // released
                    "waited for"
                });
                // It had not begun: withdrawn, and as good as never made.
                if !matches!(answer, Err(CallError::Timeout { .. })) {
                    break answer;
                }
            }
        });
        begun.wait();
        // The limit passes for certain before the request ends: a call of the same limit times out.
        assert!(
            rig.call_priority(0, Some(Duration::from_millis(20)), |_| ())
                .is_err()
        );
        begun.wait();
        assert_eq!(call.join().unwrap(), Ok("waited for"));
    });
}

#[test]
fn t_q19_requests_still_queued_at_the_end_are_killed_exactly_once() {
    let rig = Rig::new(2);
    let hold = rig.hold(0);
    let mut own = rig.post(Dest::Vcpu(0), |_| ());
    let mut urgent = rig.post_priority(0, |_| ());
    thread::scope(|scope| {
        // Queued before or after the end, the answer is the same.
        let call = scope.spawn(|| rig.call(0, None, |_| ()));
        rig.close();
        assert_eq!(call.join().unwrap(), Err(CallError::Killed));
    });
    assert_eq!(own.wait(None), Err(CallError::Killed));
    assert_eq!(own.wait(None), Err(CallError::Taken));
    assert_eq!(urgent.wait(None), Err(CallError::Killed));
    assert_eq!(rig.call(1, None, |_| ()), Err(CallError::Killed));
    let any = rig.post(Dest::Any, |_| ()).wait(None);
    assert_eq!(any, Err(CallError::Killed));
    hold.release();
}

#[test]
fn t_q19_an_emt_that_leaves_refuses_what_is_queued_for_it() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    drop(rig.post(Dest::Vcpu(0), |me| me.ask = Flow::Stop));
    let mut own = rig.post(Dest::Vcpu(0), |_| ());
    let mut any = rig.post(Dest::Any, |_| ());
    hold.release();
    assert_eq!(own.wait(None), Err(CallError::NotLive { vcpu: 0 }));
    assert_eq!(any.wait(None), Err(CallError::NotLive { vcpu: 0 }));
    assert!(rig.bells.wait_left(0, None));
    assert_eq!(
        rig.call(0, None, |_| ()),
        Err(CallError::NotLive { vcpu: 0 })
    );
}

#[test]
fn a_vcpu_plugged_again_takes_requests_again() {
    let mut rig = Rig::new(1);
    rig.end(0);
    assert!(rig.call(0, None, |_| ()).is_err());
    rig.start(0);
    assert_eq!(rig.call(0, None, |_| 3), Ok(3));
}

#[test]
fn t_q20_a_request_takes_a_busy_vcpu_out_of_its_guest_by_one_kick() {
    let rig = Rig::new(1);
    assert_eq!(rig.call(0, None, |me| me.guest = Guest::Spins), Ok(()));
    for entry in 1..=3 {
        rig.until(0, Phase::InGuest);
        let before = rig.bells.counts(0);
        let seen = rig.call(0, None, |me| (rig.bells.word(0).phase(), me.entries));
        assert_eq!(seen, Ok((Phase::Idle, entry)), "outside the guest");
        let after = rig.bells.counts(0);
        assert_eq!((after.kicks, after.wakes), (before.kicks + 1, before.wakes));
    }
}

#[test]
fn t_q20_requests_that_come_before_a_vcpu_is_back_in_its_guest_need_no_further_kick() {
    let rig = Rig::new(1);
    assert_eq!(rig.call(0, None, |me| me.guest = Guest::Spins), Ok(()));
    rig.until(0, Phase::InGuest);
    let before = rig.bells.counts(0).kicks;
    let hold = rig.hold(0); // its kick; not back in before the release
    for name in ["a", "b", "c"] {
        drop(rig.post(Dest::Vcpu(0), move |me| me.log.push(name)));
    }
    let mut last = rig.post(Dest::Vcpu(0), |me| (me.entries, me.log.clone()));
    hold.release();
    assert_eq!(last.wait(None), Ok((1, vec!["a", "b", "c"])));
    assert_eq!(rig.bells.counts(0).kicks, before + 1);
}

#[test]
fn t_q21_a_request_wakes_a_halted_vcpu_once_and_its_guest_stays_halted() {
    let rig = Rig::new(1);
    assert_eq!(rig.call(0, None, |me| me.guest = Guest::Halts), Ok(()));
    for _ in 0..3 {
        rig.until(0, Phase::Parked);
        let before = rig.bells.counts(0);
        let seen = rig.call(0, None, |me| (me.guest, me.entries));
        assert_eq!(seen, Ok((Guest::Halted, 1)));
        let after = rig.bells.counts(0);
        assert_eq!((after.kicks, after.wakes), (before.kicks, before.wakes + 1));
    }
    rig.until(0, Phase::Parked);
    assert_eq!(rig.call(0, None, |me| me.asked.clone()), Ok(vec![]));
}

#[test]
fn t_q23_emts_that_call_each_other_at_once_both_get_their_answer() {
    let rig = Rig::new(2);
    let together = Barrier::new(2);
    let cross = |to: u32| {
        let together = &together;
        move |me: &mut rig::Ctx| {
            together.wait();
            let queues = me.queues.clone();
            queues.call_from(me, to, None, |other| other.bell().id())
        }
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| rig.call(0, None, cross(1)));
        assert_eq!(rig.call(1, None, cross(0)), Ok(Ok(0)));
        assert_eq!(first.join().unwrap(), Ok(Ok(1)));
    });
}

#[test]
fn an_emt_can_be_called_back_by_the_one_it_calls() {
    let rig = Rig::new(2);
    let answer = rig.call(0, None, |me| {
        let queues = me.queues.clone();
        queues.call_from(me, 1, None, |other| {
            let queues = other.queues.clone();
            queues.call_from(other, 0, None, |me| me.bell().id())
        })
    });
    assert_eq!(answer, Ok(Ok(Ok(0))));
}

#[test]
fn t_q24_an_emt_does_not_sleep_on_what_only_it_could_run() {
    let rig = Rig::new(1);
    let answers = rig.call(0, None, |me| {
        let queues = me.queues.clone();
        let mut ticket = queues.post(Dest::Any, |_| ());
        (
            queues.call(0, None, |_| ()),
            ticket.wait(None),
            matches!(ticket.wait(NOW), Err(CallError::Timeout { .. })),
        )
    });
    assert_eq!(
        answers,
        Ok((Err(CallError::OnEmt), Err(CallError::OnEmt), true))
    );
}

#[test]
fn an_emt_takes_a_result_that_is_there() {
    let rig = Rig::new(1);
    let mut ticket = rig.post(Dest::Vcpu(0), |_| 7);
    assert_eq!(
        rig.call(0, None, |_| ()),
        Ok(()),
        "and so the one before it"
    );
    let taken = rig.call(0, None, move |_| ticket.wait(None));
    assert_eq!(taken, Ok(Ok(7)));
}

#[test]
fn t_q25_an_ordinary_request_left_by_a_priority_wait_runs_afterwards() {
    let rig = Rig::new(2);
    let hold = rig.hold(1);
    let waiting = Barrier::new(2);
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            rig.call(0, None, |me| {
                let queues = me.queues.clone();
                waiting.wait();
                let answer = queues.call_from(me, 1, None, |_| ());
                me.log.push("waited");
                answer
            })
        });
        waiting.wait();
        let mut ordinary = rig.post(Dest::Vcpu(0), |me| me.log.push("ordinary"));
        assert_eq!(
            rig.call_priority(0, None, |me| me.log.push("priority")),
            Ok(())
        );
        assert!(!ordinary.is_done());
        hold.release();
        assert_eq!(caller.join().unwrap(), Ok(Ok(())));
        assert_eq!(ordinary.wait(None), Ok(()));
    });
    let log = rig.call(0, None, |me| me.log.clone());
    assert_eq!(log, Ok(vec!["priority", "waited", "ordinary"]));
}

#[test]
fn what_a_request_served_during_a_wait_asked_for_reaches_the_loop() {
    let rig = Rig::new(2);
    let hold = rig.hold(1);
    let waiting = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            rig.call(0, None, |me| {
                let queues = me.queues.clone();
                waiting.wait();
                queues.call_from(me, 1, None, |_| ())
            })
        });
        waiting.wait();
        assert_eq!(rig.call_priority(0, None, |me| me.ask = Flow::Look), Ok(()));
        hold.release();
    });
    assert_eq!(
        rig.call(0, None, |me| me.asked.clone()),
        Ok(vec![Flow::Look])
    );
}

#[test]
fn an_emt_inside_a_rendezvous_does_not_call_another() {
    let rig = Rig::new(2);
    let answer = rig.call(0, None, |me| {
        let queues = me.queues.clone();
        me.bell.begin_meeting();
        let (other, own) = (
            queues.call_from(me, 1, None, |_| ()),
            queues.call_from(me, 0, None, |_| ()),
        );
        me.bell.end_meeting();
        (other, own)
    });
    assert_eq!(answer, Ok((Err(CallError::Deadlock), Ok(()))));
}

#[test]
fn t_q26_a_vcpu_that_does_not_exist_is_refused() {
    let rig = Rig::new(2);
    let refused = CallError::NoSuchVcpu { vcpu: 2, count: 2 };
    assert_eq!(rig.call(2, None, |_| ()), Err(refused));
    assert_eq!(
        rig.post(Dest::Vcpu(u32::MAX), |_| ())
            .wait(None)
            .map_err(|error| error.to_string()),
        Err("there is no vCPU 4294967295; this VM has 2, numbered from 0".to_owned())
    );
}

#[test]
fn t_q27_an_emt_of_one_vm_calls_another_vm_like_any_thread() {
    let (a, b) = (Rig::new(1), Rig::new(1));
    let queues = b.queues.clone();
    let answer = a.call(0, None, move |_| {
        queues.call(0, None, |other| {
            (other.queues.post(Dest::Any, |_| ()).is_done(), 5)
        })
    });
    assert_eq!(answer, Ok(Ok((false, 5))));
}

#[test]
#[should_panic(expected = "belongs to another VM")]
fn an_emt_context_of_another_vm_is_not_served() {
    let (bells, other) = (vm_emt::Bells::new(1), vm_emt::Bells::new(1));
    let queues = Queues::<Bare>::new(other);
    let mut me = Bare(bells.enroll(0).unwrap());
    queues.process(&mut me, vm_req::Which::All);
}

struct Bare(vm_emt::Bell);

impl Emt for Bare {
    fn bell(&self) -> &vm_emt::Bell {
        &self.0
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue
    }
}

#[test]
fn a_request_that_panics_is_reported_and_its_emt_lives_on() {
    let rig = Rig::new(1);
    assert_eq!(
        rig.call(0, None, |_| panic!("on purpose")),
        Err::<(), _>(CallError::Panicked)
    );
    let mut ticket = rig.post(Dest::Vcpu(0), |_| panic!("on purpose"));
    assert_eq!(ticket.wait(None), Err::<(), _>(CallError::Panicked));
    assert_eq!(rig.call(0, None, |_| 1), Ok(1));
}

#[test]
fn a_result_that_panics_when_dropped_unseen_does_not_end_its_emt() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(thread::panicking(), "on purpose");
        }
    }
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    drop(rig.post(Dest::Vcpu(0), |_| Bomb));
    hold.release();
    assert_eq!(rig.call(0, None, |_| 1), Ok(1));
}

#[test]
fn a_post_to_any_takes_the_lowest_emt_that_has_time() {
    let rig = Rig::new(3);
    let hold = rig.hold(0);
    rig.until(1, Phase::Parked);
    rig.until(2, Phase::Parked);
    let mut first = rig.post(Dest::Any, |me| me.bell().id());
    assert_eq!(first.wait(None), Ok(1));
    assert_eq!(
        rig.bells.counts(2).wakes,
        0,
        "one idle EMT is woken, not all"
    );
    hold.release();
}

#[test]
fn a_post_to_any_of_a_vm_without_emts_is_refused() {
    let rig = Rig::empty(2);
    assert_eq!(
        rig.post(Dest::Any, |_| ()).wait(None),
        Err(CallError::NotLive { vcpu: 0 })
    );
}

#[test]
fn calls_that_time_out_race_the_emt_and_each_runs_once_or_never() {
    const CALLS: u32 = if cfg!(miri) { 60 } else { 3000 };
    let rig = Rig::new(1);
    let ran = AtomicU32::new(0);
    let answered: u32 = thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    (0..CALLS)
                        .filter(|n| {
                            let limit = Duration::from_nanos(u64::from(n % 64) * 200);
                            rig.call(0, Some(limit), |_| ran.fetch_add(1, SeqCst))
                                .is_ok()
                        })
                        .fold(0, |sum, _| sum + 1)
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .sum()
    });
    assert_eq!(rig.call(0, None, |_| ()), Ok(()));
    assert_eq!(ran.load(SeqCst), answered);
    assert_eq!(rig.stats().cancelled, u64::from(3 * CALLS - answered));
}

#[test]
fn what_is_sent_runs_in_order_with_what_is_posted_and_nobody_waits() {
    let rig = Rig::new(1);
    let hold = rig.hold(0);
    rig.send(Dest::Vcpu(0), |me| me.log.push("sent"));
    drop(rig.post(Dest::Vcpu(0), |me| me.log.push("posted")));
    rig.send(Dest::Vcpu(0), |_| panic!("nobody hears of it"));
    rig.send(Dest::Any, |me| me.log.push("to any"));
    hold.release();
    let log = rig.call(0, None, |me| me.log.clone()).unwrap();
    assert_eq!(log[..2], ["sent", "posted"]);
    while rig.stats().processed < 6 {
        thread::yield_now();
    }
    assert_eq!(
        rig.call(0, None, |me| me.log.clone()).unwrap(),
        ["sent", "posted", "to any"]
    );
}

#[test]
fn what_is_sent_to_nobody_is_dropped_where_that_is_found_out() {
    let rig = Rig::new(1);
    let (kept, told) = (Arc::new(()), Arc::new(()));
    let (a, b) = (kept.clone(), told.clone());
    rig.send(Dest::Vcpu(7), move |_| drop(a));
    rig.close();
    rig.send(Dest::Vcpu(0), move |_| drop(b));
    assert_eq!((Arc::strong_count(&kept), Arc::strong_count(&told)), (1, 1));
    assert_eq!(rig.stats().refused, 2);
}

#[test]
fn producers_that_do_not_wait_lose_nothing_beside_an_emt_that_parks() {
    let rig = Rig::new(1);
    let ran = Arc::new(AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let ran = ran.clone();
                    rig.send(Dest::Vcpu(0), move |_| {
                        ran.fetch_add(1, SeqCst);
                    });
                }
            });
        }
    });
    while ran.load(SeqCst) != 2000 {
        thread::yield_now(); // nothing else rings: a lost ring hangs here
    }
}
