// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Rendezvous on real EMT threads: order, what all leave with, nesting, who is late, who has left.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed set-up ends the test")]

mod rig;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use rig::{Ctx, Rig};
use vm_emt::{Flow, Phase, serve_until};
use vm_rendezvous::{How, MeetError, Met};
use vm_req::Dest;

type Met0 = Result<Met, MeetError<Infallible>>;

const SHORT: Duration = Duration::from_millis(5);
/// For who is awake to come, also on a busy machine.
const ENOUGH: Duration = Duration::from_millis(200);

fn kinds() -> [How; 5] {
    let ordered = [
        How::ascending().into(),
        How::descending().into(),
        How::one_by_one().into(),
    ];
    let [ascending, descending, one_by_one] = ordered;
    [
        ascending,
        descending,
        one_by_one,
        How::together(),
        How::once(),
    ]
}

/// Waits until all EMTs are there.
fn until(rig: &Rig, phase: Phase) {
    for v in 0..rig.bells.count() {
        while rig.bells.word(v).phase() != phase {
            thread::yield_now();
        }
    }
}

/// Meets and answers in which order the EMTs ran.
fn order(rig: &Rig, how: impl Into<How>) -> Vec<u32> {
    let (ran, at_once) = (Mutex::new(Vec::new()), AtomicU32::new(0));
    let met: Met0 = rig.meet(how, |me| {
        assert_eq!(at_once.fetch_add(1, SeqCst), 0, "one at a time");
        ran.lock().unwrap().push(me.bell.id());
        at_once.fetch_sub(1, SeqCst);
        Ok(Flow::Continue)
    });
    assert!(met.is_ok(), "{met:?}");
    ran.into_inner().unwrap()
}

#[test]
fn t_r01_descending_runs_from_highest_to_zero() {
    assert_eq!(order(&Rig::new(4), How::descending()), [3, 2, 1, 0]);
}

#[test]
fn t_r02_ascending_runs_from_zero_to_highest() {
    assert_eq!(order(&Rig::new(4), How::ascending()), [0, 1, 2, 3]);
}

#[test]
fn t_r03_one_by_one_runs_each_once() {
    let mut ran = order(&Rig::new(4), How::one_by_one());
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2, 3]);
}

#[test]
fn t_r04_together_runs_all_at_the_same_time() {
    let rig = Rig::new(4);
    let inside = Barrier::new(4);
    let met: Met0 = rig.meet(How::together(), |_| {
        inside.wait(); // ends only if all four are here
        Ok(Flow::Continue)
    });
    assert_eq!(
        met,
        Ok(Met {
            flow: Flow::Continue,
            held: 4,
            ran: 4
        })
    );
}

#[test]
fn t_r05_once_runs_on_one_emt_while_all_are_held() {
    let rig = Rig::new(4);
    let met: Met0 = rig.meet(How::once(), |_| Ok(Flow::Look));
    assert_eq!(
        met,
        Ok(Met {
            flow: Flow::Look,
            held: 4,
            ran: 1
        })
    );
    assert!((0..4).all(|v| rig.flows(v) == [Flow::Look]));
}

#[test]
fn t_r06_stop_on_error_skips_the_rest_and_only_the_initiator_sees_it() {
    let rig = Rig::new(4);
    let ran = Mutex::new(Vec::new());
    let met = rig.meet(How::descending().stop_on_error(), |me| {
        ran.lock().unwrap().push(me.bell.id());
        if me.bell.id() == 2 {
            Err(-7)
        } else {
            Ok(Flow::Look)
        }
    });
    assert_eq!(met, Err(MeetError::Failed { vcpu: 2, error: -7 }));
    assert_eq!(*ran.lock().unwrap(), [3, 2]);
    assert!((0..4).all(|v| rig.flows(v).is_empty()));
}

#[test]
fn t_r07_without_stop_all_run_and_the_first_failure_stays() {
    let rig = Rig::new(4);
    let ran = AtomicU32::new(0);
    let met = rig.meet(How::descending(), |me| {
        ran.fetch_add(1, SeqCst);
        match me.bell.id() {
            2 => Err(-7),
            1 => Err(-9),
            _ => Ok(Flow::Continue),
        }
    });
    assert_eq!(met, Err(MeetError::Failed { vcpu: 2, error: -7 }));
    assert_eq!(ran.load(SeqCst), 4);
}

#[test]
fn t_r08_every_emt_leaves_with_the_most_urgent_flow() {
    let rig = Rig::new(4);
    let met: Met0 = rig.meet(How::descending(), |me| {
        Ok(if me.bell.id() == 1 {
            Flow::Look
        } else {
            Flow::Continue
        })
    });
    assert_eq!(
        met,
        Ok(Met {
            flow: Flow::Look,
            held: 4,
            ran: 4
        })
    );
    assert!((0..4).all(|v| rig.flows(v) == [Flow::Look]));
    assert_eq!(order(&rig, How::ascending()), [0, 1, 2, 3]);
    assert!((0..4).all(|v| rig.flows(v).is_empty()));
}

#[test]
fn t_r10_initiators_have_separate_rounds() {
    let rig = Rig::new(3);
    let log = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for initiator in 0..3_u32 {
            let (rig, log) = (&rig, &log);
            scope.spawn(move || {
                let met: Met0 = rig.meet(How::descending(), |me| {
                    log.lock().unwrap().push((initiator, me.bell.id()));
                    Ok(Flow::Continue)
                });
                assert!(met.is_ok());
            });
        }
    });
    let log = log.into_inner().unwrap();
    for round in log.chunks(3) {
        let initiator = round[0].0;
        assert_eq!(round, [(initiator, 2), (initiator, 1), (initiator, 0)]);
    }
    assert_eq!(log.len(), 9);
}

#[test]
fn t_r11_emts_that_initiate_at_once_take_part_in_each_others_rounds() {
    let rig = Rig::new(3);
    let (together, held) = (Barrier::new(2), AtomicU32::new(0));
    let initiate = |me: &mut Ctx| -> Met0 {
        together.wait();
        let rendezvous = me.rendezvous.clone();
        rendezvous.meet_from(me, How::ascending(), |_| {
            held.fetch_add(1, SeqCst);
            Ok(Flow::Continue)
        })
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| rig.queues.call(0, None, initiate));
        let second = rig.queues.call(1, None, initiate).unwrap();
        for met in [first.join().unwrap().unwrap(), second] {
            assert_eq!(
                met,
                Ok(Met {
                    flow: Flow::Continue,
                    held: 3,
                    ran: 3
                })
            );
        }
    });
    assert_eq!(held.load(SeqCst), 6);
}

#[test]
fn t_r06_an_emt_that_initiates_hears_of_a_failure_on_any_emt() {
    let rig = Rig::new(3);
    for failing in 0..3 {
        let initiate = move |me: &mut Ctx| {
            let rendezvous = me.rendezvous.clone();
            // Large, so that it cannot be where it was if it was moved.
            rendezvous.meet_from(me, How::descending().stop_on_error(), move |me| {
                if me.bell.id() == failing {
                    return Err([u64::from(failing); 12]);
                }
                Ok(Flow::Continue)
            })
        };
        for initiator in 0..3 {
            let met = rig.queues.call(initiator, None, initiate).unwrap();
            let expected = MeetError::Failed {
                vcpu: failing,
                error: [u64::from(failing); 12],
            };
            assert_eq!(met, Err(expected), "from {initiator}");
        }
    }
}

#[test]
fn t_r12_a_nested_round_runs_in_the_middle_of_its_parent() {
    let rig = Rig::new(4);
    let log = Mutex::new(Vec::new());
    let met: Met0 = rig.meet(How::descending(), |me| {
        let v = me.bell.id();
        log.lock().unwrap().push(("parent", v));
        if v == 2 {
            let rendezvous = me.rendezvous.clone();
            let nested: Met0 = rendezvous.meet_from(me, How::descending(), |me| {
                log.lock().unwrap().push(("nested", me.bell.id()));
                Ok(Flow::Continue)
            });
            assert_eq!(
                nested,
                Ok(Met {
                    flow: Flow::Continue,
                    held: 4,
                    ran: 4
                })
            );
            log.lock().unwrap().push(("parent goes on", v));
        }
        Ok(Flow::Continue)
    });
    assert!(met.is_ok());
    let expected = [
        ("parent", 3),
        ("parent", 2),
        ("nested", 3),
        ("nested", 2),
        ("nested", 1),
        ("nested", 0),
        ("parent goes on", 2),
        ("parent", 1),
        ("parent", 0),
    ];
    assert_eq!(*log.lock().unwrap(), expected);
}

/// Nests `left` further rounds and answers how deep it came.
fn nest(me: &mut Ctx, how: How, left: u32) -> Result<u32, MeetError<Infallible>> {
    if left == 0 {
        return Ok(0);
    }
    let (rendezvous, deeper, first) = (me.rendezvous.clone(), Mutex::new(Ok(0)), AtomicU32::new(0));
    rendezvous.meet_from(me, how, |me| {
        if first.fetch_add(1, SeqCst) == 0 {
            *deeper.lock().unwrap() = nest(me, how, left - 1);
        }
        Ok(Flow::Continue)
    })?;
    deeper.into_inner().unwrap().map(|depth| depth + 1)
}

#[test]
fn t_r13_rounds_nest_three_deep_and_a_fourth_is_refused() {
    let rig = Rig::new(3);
    for how in [
        How::descending().into(),
        How::once(),
        How::one_by_one().into(),
    ] {
        assert_eq!(rig.queues.call(1, None, |me| nest(me, how, 4)), Ok(Ok(4)));
        assert_eq!(
            rig.queues.call(1, None, |me| nest(me, how, 5)),
            Ok(Err(MeetError::Deadlock))
        );
    }
    assert_eq!(order(&rig, How::ascending()), [0, 1, 2]);
}

#[test]
fn t_r14_nothing_nests_where_callbacks_run_together() {
    let rig = Rig::new(3);
    let met: Met0 = rig.meet(How::together(), |me| {
        assert_eq!(nest(me, How::once(), 1), Err(MeetError::Deadlock));
        Ok(Flow::Continue)
    });
    assert_eq!(met.map(|met| met.ran), Ok(3));
}

#[test]
fn t_r15_a_round_nests_inside_once() {
    for count in [1, 4] {
        let rig = Rig::new(count);
        let met: Met0 = rig.meet(How::once(), |me| {
            let rendezvous = me.rendezvous.clone();
            let nested: Met0 = rendezvous.meet_from(me, How::together(), |_| Ok(Flow::Continue));
            assert_eq!(nested.map(|met| met.ran), Ok(count));
            Ok(Flow::Continue)
        });
        assert!(met.is_ok());
    }
}

#[test]
fn t_r15_a_round_nested_in_once_fetches_the_emts_that_are_held_in_their_sleep() {
    let rig = Rig::new(4);
    until(&rig, Phase::Parked);
    let ran = Mutex::new(Vec::new());
    let met: Met0 = rig.meet(How::once(), |me| {
        let rendezvous = me.rendezvous.clone();
        let nested: Met0 = rendezvous.meet_from(me, How::once(), |me| {
            let rendezvous = me.rendezvous.clone();
            let all: Met0 = rendezvous.meet_from(me, How::ascending(), |me| {
                ran.lock().unwrap().push(me.bell.id());
                Ok(Flow::Continue)
            });
            assert_eq!(all.map(|met| met.ran), Ok(4));
            Ok(Flow::Continue)
        });
        assert_eq!(nested.map(|met| (met.held, met.ran)), Ok((4, 1)));
        Ok(Flow::Look)
    });
    assert_eq!(met.map(|met| (met.held, met.ran)), Ok((4, 1)));
    assert_eq!(*ran.lock().unwrap(), [0, 1, 2, 3]);
    assert!((0..4).all(|v| rig.flows(v) == [Flow::Look]));
}

#[test]
fn t_r16_what_a_nested_round_asked_for_is_merged_into_what_the_others_leave_with() {
    let rig = Rig::new(3);
    let met: Met0 = rig.meet(How::descending(), |me| {
        if me.bell.id() == 1 {
            let rendezvous = me.rendezvous.clone();
            let nested: Met0 = rendezvous.meet_from(me, How::once(), |_| Ok(Flow::Look));
            assert_eq!(nested.map(|met| met.flow), Ok(Flow::Look));
        }
        Ok(Flow::Continue)
    });
    assert_eq!(met.map(|met| met.flow), Ok(Flow::Continue));
    assert_eq!(
        (rig.flows(0), rig.flows(1), rig.flows(2)),
        (vec![Flow::Look], vec![], vec![Flow::Look])
    );
}

#[test]
fn t_r17_emts_are_fetched_out_of_the_guest_and_none_is_there_during_callbacks() {
    let rig = Rig::new(3);
    rig.guests.store(true, SeqCst);
    rig.bells.ring_all();
    until(&rig, Phase::InGuest);
    for how in kinds() {
        let met: Met0 = rig.meet(how, |_| {
            assert!((0..3).all(|v| rig.bells.word(v).phase() == Phase::Idle));
            Ok(Flow::Continue)
        });
        assert_eq!(met.map(|met| met.held), Ok(3));
    }
    assert!((0..3).all(|v| rig.bells.counts(v).kicks >= 1));
}

#[test]
fn t_r18_parked_emts_are_woken_once_and_park_again() {
    let rig = Rig::new(3);
    for how in kinds() {
        until(&rig, Phase::Parked);
        let before = [0, 1, 2].map(|v| rig.bells.counts(v).wakes);
        let met: Met0 = rig.meet(how, |_| Ok(Flow::Continue));
        assert_eq!(met.map(|met| met.held), Ok(3));
        let after = [0, 1, 2].map(|v| rig.bells.counts(v).wakes);
        if how == How::once() {
            // One to run it; the others are held in their sleep.
            assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1);
        } else {
            assert_eq!(after, before.map(|wakes| wakes + 1));
        }
    }
    until(&rig, Phase::Parked);
    assert!((0..3).all(|v| rig.bells.counts(v).kicks == 0));
}

#[test]
fn t_r18_an_emt_that_waits_for_another_comes_like_one_that_is_idle() {
    let rig = Rig::new(3);
    let hold = rig.hold(1);
    let waits = rig.queues.post(Dest::Vcpu(0), |me| {
        let queues = me.queues.clone();
        queues.call_from(me, 1, None, |other| other.bell.id())
    });
    while !rig.queues.pending(1) {
        thread::yield_now(); // until EMT 0 waits for EMT 1, EMT 2 being idle
    }
    thread::scope(|scope| {
        let met = scope.spawn(|| order(&rig, How::descending()));
        while !rig.pending(1) {
            thread::yield_now();
        }
        hold.release();
        assert_eq!(met.join().unwrap(), [2, 1, 0]);
    });
    let mut waits = waits;
    assert_eq!(waits.wait(None), Ok(Ok(1)));
}

#[test]
fn t_r19_while_a_callback_waits_a_priority_request_may_meet_and_others_have_to_wait() {
    let rig = Rig::new(3);
    let (log, waits, finished) = (Mutex::new(Vec::new()), Barrier::new(2), AtomicU32::new(0));
    let note = |name: &'static str| {
        let log = &log;
        move |me: &mut Ctx| {
            log.lock().unwrap().push((name, me.bell.id()));
            Ok(Flow::Continue)
        }
    };
    let run = |how: How, name| -> Met0 { rig.meet(how, note(name)) };
    thread::scope(|scope| {
        // As a suspend does whose device is not ready: EMT 0, the last, waits for it.
        let suspend = scope.spawn(|| -> Met0 {
            rig.meet(How::descending(), |me| {
                if me.bell.id() == 0 {
                    waits.wait();
                    assert!(serve_until(me, None, |_| finished.load(SeqCst) == 1));
                }
                note("suspend")(me)
            })
        });
        waits.wait();
        let refused = run(How::once().limit(Duration::ZERO), "too early");
        assert!(
            matches!(refused, Err(MeetError::Late { vcpu: 0, .. })),
            "{refused:?}"
        );
        let ordinary = scope.spawn(|| run(How::ascending().into(), "ordinary"));
        let urgent = rig.queues.call_priority(0, None, |me| {
            let rendezvous = me.rendezvous.clone();
            rendezvous.meet_from(me, How::descending(), note("urgent"))
        });
        assert_eq!(urgent.map(|met: Met0| met.map(|met| met.ran)), Ok(Ok(3)));
        finished.store(1, SeqCst);
        rig.bells.ring(0);
        assert_eq!(suspend.join().unwrap().map(|met| met.ran), Ok(3));
        assert_eq!(ordinary.join().unwrap().map(|met| met.ran), Ok(3));
    });
    let expected = [
        [("suspend", 2), ("suspend", 1), ("urgent", 2)],
        [("urgent", 1), ("urgent", 0), ("suspend", 0)],
        [("ordinary", 0), ("ordinary", 1), ("ordinary", 2)],
    ];
    assert_eq!(*log.lock().unwrap(), expected.concat());
}

#[test]
fn t_r20_a_panic_is_the_initiators_failure_and_nobody_hangs() {
    let rig = Rig::new(3);
    for how in kinds() {
        let met: Met0 = rig.meet(how, |_| panic!("on purpose"));
        assert!(matches!(met, Err(MeetError::Panicked { .. })), "{met:?}");
    }
    let met: Met0 = rig.meet(How::descending(), |me| {
        assert_ne!(me.bell.id(), 1, "on purpose");
        Ok(Flow::Continue)
    });
    assert_eq!(met, Err(MeetError::Panicked { vcpu: 1 }));
    assert_eq!(order(&rig, How::ascending()), [0, 1, 2]);
}

#[test]
fn t_r21_one_emt_goes_the_same_way_as_many() {
    let rig = Rig::new(1);
    for how in kinds() {
        let met: Met0 = rig.meet(how, |_| Ok(Flow::Look));
        assert_eq!(
            met,
            Ok(Met {
                flow: Flow::Look,
                held: 1,
                ran: 1
            })
        );
        assert_eq!(rig.flows(0), [Flow::Look]);
        let own: Met0 = rig
            .queues
            .call(0, None, |me| {
                let rendezvous = me.rendezvous.clone();
                rendezvous.meet_from(me, how, |_| Ok(Flow::Look))
            })
            .unwrap();
        assert_eq!(
            own,
            Ok(Met {
                flow: Flow::Look,
                held: 1,
                ran: 1
            })
        );
    }
    let failed = rig.meet(How::ascending().stop_on_error(), |_| Err(-7));
    assert_eq!(failed, Err(MeetError::Failed { vcpu: 0, error: -7 }));
}

#[test]
fn t_r22_many_rounds_from_threads_and_emts_lose_no_wake_up() {
    const ROUNDS: usize = if cfg!(miri) { 10 } else { 150 };
    let rig = Rig::new(3);
    rig.guests.store(true, SeqCst);
    rig.bells.ring_all();
    let ran = AtomicU32::new(0);
    let held = |met: Met0| met.map(|met| met.held);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (rig, ran, held) = (&rig, &ran, &held);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let how = kinds()[(round + thread) % 5];
                    let count = |_: &mut Ctx| {
                        ran.fetch_add(1, SeqCst);
                        Ok(Flow::Continue)
                    };
                    let to = u32::try_from(round % 3).unwrap();
                    let met = if thread == 0 {
                        rig.queues
                            .call(to, None, |me| {
                                let rendezvous = me.rendezvous.clone();
                                rendezvous.meet_from(me, how, count)
                            })
                            .unwrap()
                    } else {
                        rig.meet(how, count)
                    };
                    assert_eq!(held(met), Ok(3));
                }
            });
        }
    });
    // Per initiator as many rounds of each kind, of which "once" runs on one EMT, the rest on three.
    let expected = 3 * ROUNDS / 5 * (4 * 3 + 1);
    assert_eq!(usize::try_from(ran.load(SeqCst)), Ok(expected));
}

#[test]
fn t_r23_only_live_emts_are_waited_for() {
    let rig = Rig::new(3);
    let met: Met0 = rig.meet(How::once(), |_| Ok(Flow::Continue));
    assert_eq!(met.map(|met| met.held), Ok(3));
    for v in [1, 2] {
        let mut ticket = rig
            .queues
            .post(Dest::Vcpu(v), |me| me.bell.keep(Flow::Stop));
        assert_eq!(ticket.wait(None), Ok(()));
        assert!(rig.bells.wait_left(v, None));
    }
    assert_eq!(order(&rig, How::descending()), [0]);
    let own = rig
        .queues
        .call(0, None, |me| nest(me, How::descending().into(), 1));
    assert_eq!(own, Ok(Ok(1)));
}

#[test]
fn a_vm_without_emts_has_nobody_to_meet() {
    let rig = Rig::empty(2);
    let met: Met0 = rig.meet(How::ascending(), |_| Ok(Flow::Continue));
    assert_eq!(met, Err(MeetError::NoEmts));
}

#[test]
fn an_emt_that_leaves_while_others_gather_is_not_waited_for() {
    let rig = Rig::new(2);
    let hold = rig.hold(1);
    drop(
        rig.queues
            .post(Dest::Vcpu(1), |me| me.bell.keep(Flow::Stop)),
    );
    thread::scope(|scope| {
        let met = scope.spawn(|| order(&rig, How::ascending()));
        while !rig.pending(1) {
            thread::yield_now();
        }
        // The request after the hold ends the loop before it attends again.
        hold.release();
        assert_eq!(met.join().unwrap(), [0]);
    });
}

#[test]
fn an_emt_that_enrolls_during_callbacks_waits_for_the_end() {
    let mut rig = Rig::empty(2);
    rig.start(0);
    let (running, release) = (Barrier::new(2), Barrier::new(2));
    let rendezvous = rig.rendezvous.clone();
    thread::scope(|scope| {
        let met = scope.spawn(|| -> Met0 {
            rendezvous.meet(How::once(), |_| {
                running.wait();
                release.wait();
                Ok(Flow::Continue)
            })
        });
        running.wait();
        rig.start(1);
        let probe = rig.queues.post(Dest::Vcpu(1), |me| me.flows.clone());
        while rig.pending(1) {
            thread::yield_now(); // until it has seen the round
        }
        assert!(!probe.is_done(), "it is held, so it serves no requests");
        release.wait();
        assert_eq!(met.join().unwrap().map(|met| met.held), Ok(1));
        let mut probe = probe;
        assert_eq!(probe.wait(None), Ok(vec![Flow::Look]));
    });
    assert_eq!(order(&rig, How::ascending()), [0, 1]);
}

#[test]
fn an_emt_that_does_not_come_is_named_and_the_others_go_on() {
    let rig = Rig::new(3);
    let hold = rig.hold(1);
    let how = How::ascending().limit(ENOUGH);
    let late: Met0 = rig.meet(how, |_| panic!("must not run"));
    let Err(MeetError::Late { vcpu: 1, word, .. }) = late else {
        panic!("{late:?}")
    };
    assert!(word.live());
    assert_eq!(rig.queues.call(0, None, |_| 1), Ok(1));
    assert_eq!(rig.queues.call(2, None, |_| 1), Ok(1));
    let own = rig.queues.call(0, None, |me| nest(me, how.into(), 1));
    assert!(
        matches!(own, Ok(Err(MeetError::Late { vcpu: 1, .. }))),
        "{own:?}"
    );
    hold.release();
    assert_eq!(order(&rig, How::ascending()), [0, 1, 2]);
}

#[test]
fn callbacks_that_have_begun_are_waited_for_beyond_the_limit() {
    let rig = Rig::new(2);
    let begun = Barrier::new(2);
    thread::scope(|scope| {
        let met = scope.spawn(|| -> Met0 {
            loop {
                let met = rig.meet(How::once().limit(SHORT), |_| {
                    begun.wait(); // begun
                    begun.wait(); // released
                    Ok(Flow::Continue)
                });
                // It had not begun: withdrawn, and as good as never made.
                if !matches!(met, Err(MeetError::Late { .. })) {
                    break met;
                }
            }
        });
        begun.wait();
        // An initiator behind it with a longer limit gives up first and names who holds the round.
        let behind: Met0 = rig.meet(How::once().limit(4 * SHORT), |_| Ok(Flow::Continue));
        assert!(matches!(behind, Err(MeetError::Late { .. })), "{behind:?}");
        begun.wait();
        assert_eq!(met.join().unwrap().map(|met| met.ran), Ok(1));
    });
    assert_eq!(order(&rig, How::ascending()), [0, 1]);
}

#[test]
fn an_emt_is_told_to_use_the_call_that_takes_part() {
    let rig = Rig::new(1);
    let met = rig.queues.call(0, None, |me| {
        me.rendezvous.meet_here(SHORT, || Flow::Continue)
    });
    assert_eq!(met, Ok(Err(MeetError::OnEmt)));
    let met = rig.queues.call(0, None, |me| -> Met0 {
        let rendezvous = me.rendezvous.clone();
        rendezvous.meet(How::once(), |_| Ok(Flow::Continue))
    });
    assert_eq!(met, Ok(Err(MeetError::OnEmt)));
}

#[test]
fn t_q22_an_emt_that_waits_for_a_request_takes_part_in_rounds() {
    let rig = Rig::new(2);
    let answer = rig.queues.call(0, None, |me| {
        let queues = me.queues.clone();
        queues.call_from(me, 1, None, |other| {
            nest(other, How::descending().into(), 1)
        })
    });
    assert_eq!(answer, Ok(Ok(Ok(1))));
}

#[test]
fn a_callback_does_not_call_an_emt_that_is_held() {
    let rig = Rig::new(2);
    let met = rig.meet(How::ascending(), |me| {
        let queues = me.queues.clone();
        let to = 1 - me.bell.id();
        queues
            .call_from(me, to, None, |_| ())
            .map(|()| Flow::Continue)
    });
    assert_eq!(
        met,
        Err(MeetError::Failed {
            vcpu: 0,
            error: vm_req::CallError::Deadlock
        })
    );
}

#[test]
fn a_round_of_more_than_thirty_two_emts_keeps_its_order() {
    let rig = Rig::new(40);
    assert_eq!(
        order(&rig, How::descending()),
        (0..40).rev().collect::<Vec<_>>()
    );
}

#[test]
fn every_initiator_gets_its_turn_while_others_keep_coming() {
    let rig = Rig::new(2);
    let stop = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while stop.load(SeqCst) == 0 {
                    let met: Met0 = rig.meet(How::once(), |_| Ok(Flow::Continue));
                    assert!(met.is_ok());
                }
            });
        }
        for _ in 0..20 {
            let met: Met0 = rig.meet(How::once(), |_| Ok(Flow::Continue));
            assert!(met.is_ok());
        }
        stop.store(1, SeqCst);
    });
}
