// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The checks themselves. Each gets a loop whose guests run.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::report::{Check, Finding, Outcome};
use super::stand::{Stand, Verdict, look_on, must};
use super::threads::Threads;
use super::{EntryHook, MeetOp, Op, Trouble};

/// How long a vCPU is looked at to see whether it spins: many ticks of the accounting clock.
const SPIN_WINDOW: Duration = Duration::from_millis(100);
/// A vCPU that uses more than one part in so many of its time spins, even if its processor is shared
/// with many; one that sleeps uses none but for the answer.
const SPIN_SHARE: u32 = 50;
const CANNOT_MEET: &str = "the loop cannot meet";
/// Exits from before a request to when it runs: the one it is kicked for, and one for a kick that
/// came late for the request before.
const EXITS_FOR_A_KICK: u64 = 2;

pub(super) fn run(check: Check, stand: &Stand<'_>) -> Verdict {
    stand.runs()?;
    match check {
        Check::SuspendStopsGuests => suspend_stops_guests(stand),
        Check::SuspendedVcpusSleepAndAnswer => suspended_vcpus_sleep_and_answer(stand),
        Check::ConcurrentSuspends => concurrent_suspends(stand),
        Check::SuspendStorm => suspend_storm(stand),
        Check::RequestsRunOnce => requests_run_once(stand),
        Check::KickAtEntry => kick_at_entry(stand),
        Check::MeetingHoldsAll => meeting_holds_all(stand),
        Check::ConcurrentMeetings => concurrent_meetings(stand),
        Check::ManyInitiators => many_initiators(stand),
        Check::LateVcpuIsNamed => late_vcpu_is_named(stand),
        Check::LateReplyIsNotTheNext => late_reply_is_not_the_next(stand),
        Check::DestroyReleasesWaiters => destroy_releases_waiters(stand),
        Check::DestroyWhileSuspended => destroy_while_suspended(stand),
    }
}

fn suspend_stops_guests(stand: &Stand<'_>) -> Verdict {
    for _ in 0..(stand.effort.rounds / 10).max(1) {
        stand.suspend()?;
        stand.still(stand.effort.window)?;
        stand.resume()?;
        stand.runs()?;
    }
    Ok(())
}

fn suspended_vcpus_sleep_and_answer(stand: &Stand<'_>) -> Verdict {
    stand.suspend()?;
    for v in stand.vcpus() {
        let Some(before) = processor_time(stand, v)? else {
            return Err(Outcome::Skipped("no /proc/thread-self/schedstat"));
        };
        let started = Instant::now();
        look_on(SPIN_WINDOW);
        let of = started.elapsed();
        let after = processor_time(stand, v)?.unwrap_or(before);
        let used = Duration::from_nanos(after.saturating_sub(before));
        if used > of / SPIN_SHARE {
            return Err(Finding::Spun { vcpu: v, used, of }.into());
        }
    }
    stand.still(stand.effort.window)?;
    stand.resume()?;
    stand.runs()
}

/// Processor time of a vCPU's thread in nanoseconds, where Linux tells.
fn processor_time(stand: &Stand<'_>, vcpu: u32) -> Result<Option<u64>, Outcome> {
    let time = Arc::new(Mutex::new(None));
    let place = time.clone();
    stand.call(vcpu, 1, move || {
        let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let first = said.split_whitespace().next();
        *place.lock().unwrap_or_else(PoisonError::into_inner) =
            first.and_then(|word| word.parse().ok());
    })?;
    Ok(*time.lock().unwrap_or_else(PoisonError::into_inner))
}

fn concurrent_suspends(stand: &Stand<'_>) -> Verdict {
    for _ in 0..(stand.effort.rounds / 10).max(1) {
        stand.step("suspends at the same time");
        let start = Barrier::new(usize::try_from(stand.effort.callers).unwrap_or(1));
        let suspended = AtomicU32::new(0);
        at_once(stand, |_| {
            start.wait();
            match stand.vm.suspend(stand.effort.patience) {
                Ok(()) => {
                    suspended.fetch_add(1, SeqCst);
                    Ok(())
                }
                Err(Trouble::Refused(_)) => Ok(()), // the other one does it
                Err(trouble) => must("a suspend beside another", Err(trouble)),
            }
        })?;
        if suspended.load(SeqCst) == 0 {
            let all = Trouble::Refused("every one of the suspends".into());
            return must("suspends at the same time", Err(all));
        }
        stand.still(stand.effort.window)?;
        stand.resume()?;
        stand.runs()?;
    }
    Ok(())
}

fn suspend_storm(stand: &Stand<'_>) -> Verdict {
    let mut vcpus = stand.vcpus().cycle();
    for round in 0..stand.effort.rounds {
        stand.suspend()?;
        stand.still(Duration::ZERO)?;
        stand.resume()?;
        if let (1, Some(v)) = (round % 3, vcpus.next()) {
            stand.call(v, u64::from(round), || ())?;
        }
    }
    stand.runs()
}

fn requests_run_once(stand: &Stand<'_>) -> Verdict {
    let count = stand.vm.vcpus().max(1);
    let threads = Threads::new(count);
    at_once(stand, |caller| {
        for round in 0..stand.effort.rounds {
            let vcpu = (caller + round) % count;
            let ran = Arc::new(AtomicU32::new(0));
            let (counter, seen) = (ran.clone(), threads.clone());
            let token = u64::from(caller) << 32 | u64::from(round);
            stand.call(vcpu, token, move || {
                counter.fetch_add(1, SeqCst);
                seen.note(vcpu);
            })?;
            once(vcpu, ran.load(SeqCst))?;
        }
        threads.never_here()
    })?;
    threads.verdict()
}

fn kick_at_entry(stand: &Stand<'_>) -> Verdict {
    for v in stand.vcpus() {
        for round in 0..stand.effort.rounds {
            kicked(stand, v, round)?;
        }
        // The hook holds the vCPU at the door; meanwhile the kick is made.
        let armed = Arc::new(AtomicBool::new(false));
        let (at_door, arrived) = mpsc::channel();
        let at_door = Mutex::new(at_door);
        let (gate, window) = (armed.clone(), stand.effort.window);
        let hook: EntryHook = Arc::new(move || {
            if gate.swap(false, SeqCst) {
                let at_door = at_door.lock().unwrap_or_else(PoisonError::into_inner);
                let _gone = at_door.send(());
                look_on(window);
            }
        });
        if !stand.vm.hook_entry(v, hook) {
            continue;
        }
        for round in 0..(stand.effort.rounds / 20).max(3) {
            let gate = armed.clone();
            stand.call(v, 1, move || gate.store(true, SeqCst))?;
            if arrived.recv_timeout(stand.effort.patience).is_err() {
                return Err(Finding::NoProgress { vcpu: v }.into());
            }
            kicked(stand, v, round)?;
        }
    }
    Ok(())
}

/// A request to a vCPU whose guest never leaves by itself.
fn kicked(stand: &Stand<'_>, vcpu: u32, before: u32) -> Verdict {
    let first = stand.vm.exits(vcpu);
    match stand.call(vcpu, u64::from(before), || ()) {
        Err(Outcome::Failed(Finding::Failed {
            trouble: Trouble::Late { .. } | Trouble::SomebodyLate,
            ..
        })) => return Err(Finding::LostKick { vcpu, before }.into()),
        answered => answered?,
    }
    let exits = match (first, stand.vm.exits(vcpu)) {
        (Some(first), Some(last)) => last.saturating_sub(first),
        _ => 0,
    };
    if exits > EXITS_FOR_A_KICK {
        return Err(Finding::KickNotLookedAt { vcpu, exits }.into());
    }
    Ok(())
}

fn meeting_holds_all(stand: &Stand<'_>) -> Verdict {
    let count = stand.vm.vcpus();
    let threads = Threads::new(count);
    for _ in 0..(stand.effort.rounds / 4).max(1) {
        stand.step("a meeting");
        // The callback may only keep what is shared; the guests' counts are read before and after.
        let ran: Arc<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let (inside, may_go) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let op: MeetOp = {
            let (ran, threads) = (ran.clone(), threads.clone());
            let (inside, may_go) = (inside.clone(), may_go.clone());
            let longest = stand.effort.patience;
            Arc::new(move |v| {
                if let Some(ran) = usize::try_from(v).ok().and_then(|at| ran.get(at)) {
                    ran.fetch_add(1, SeqCst);
                }
                threads.note(v);
                inside.fetch_add(1, SeqCst);
                let deadline = Instant::now() + longest;
                while !may_go.load(SeqCst) && Instant::now() < deadline {
                    thread::yield_now();
                }
            })
        };
        let mut ran_meanwhile = None;
        let met = thread::scope(|scope| {
            let meeting = scope.spawn(|| stand.vm.meet(stand.effort.patience, op));
            // From the first callback to the last nobody is in the guest, so look on in between.
            while inside.load(SeqCst) == 0 && !meeting.is_finished() {
                thread::yield_now();
            }
            if inside.load(SeqCst) != 0 {
                ran_meanwhile = stand.moved(stand.effort.window);
            }
            may_go.store(true, SeqCst);
            meeting.join()
        });
        match met {
            Ok(Err(Trouble::Unsupported)) => return Err(Outcome::Skipped(CANNOT_MEET)),
            Ok(met) => must("a meeting", met)?,
            Err(_) => return Err(Finding::Panicked { step: "a meeting" }.into()),
        }
        if let Some(vcpu) = ran_meanwhile {
            return Err(Finding::RanInMeeting { vcpu }.into());
        }
        for (v, ran) in (0..count).zip(ran.iter()) {
            once(v, ran.load(SeqCst))?;
        }
    }
    threads.verdict()?;
    stand.runs()
}

fn concurrent_meetings(stand: &Stand<'_>) -> Verdict {
    let (callers, arrived) = (stand.effort.callers.max(1), AtomicU32::new(0));
    at_once(stand, |_| {
        for round in 1..=(stand.effort.rounds / 4).max(1) {
            stand.step("a meeting beside another");
            // Begun at the same instant, if nobody is held up.
            let together = Instant::now() + stand.effort.window;
            arrived.fetch_add(1, SeqCst);
            while arrived.load(SeqCst) < round.saturating_mul(callers) && Instant::now() < together
            {
                hint::spin_loop();
            }
            match stand.vm.meet(stand.effort.patience, Arc::new(|_| ())) {
                Err(Trouble::Unsupported) => return Err(Outcome::Skipped(CANNOT_MEET)),
                met => must("a meeting beside another", met)?,
            }
        }
        Ok(())
    })?;
    stand.runs()
}

fn many_initiators(stand: &Stand<'_>) -> Verdict {
    let count = stand.vm.vcpus().max(1);
    at_once(stand, |caller| {
        for round in 0..stand.effort.rounds {
            // One suspends: what a resume does to somebody else's suspend is the loop's own affair.
            match caller {
                0 => {
                    stand.step("a suspend beside requests and meetings");
                    match stand.vm.suspend(stand.effort.patience) {
                        // Refused: another caller has suspended it, which is what was wanted.
                        Ok(()) | Err(Trouble::Refused(_)) => {}
                        Err(trouble) => return must("a suspend beside others", Err(trouble)),
                    }
                    match stand.vm.resume() {
                        Ok(()) | Err(Trouble::Refused(_)) => {}
                        Err(trouble) => return must("a resume beside others", Err(trouble)),
                    }
                }
                1 => {
                    stand.call((caller + round) % count, u64::from(round), || ())?;
                }
                _ => {
                    stand.step("a meeting beside suspends and requests");
                    match stand.vm.meet(stand.effort.patience, Arc::new(|_| ())) {
                        Ok(()) | Err(Trouble::Unsupported) => {}
                        Err(trouble) => return must("a meeting beside others", Err(trouble)),
                    }
                }
            }
        }
        Ok(())
    })?;
    stand.runs()
}

fn late_vcpu_is_named(stand: &Stand<'_>) -> Verdict {
    for v in stand.vcpus() {
        thread::scope(|scope| {
            let held = stand.hold(scope, v)?;
            // On a busy host another vCPU may be late as well. Given more time, only this one is.
            let mut limit = stand.effort.window;
            let verdict = loop {
                stand.step("a suspend while a vCPU is held up");
                let verdict = stand.must_name("suspend", v, stand.vm.suspend(limit));
                limit = limit.saturating_mul(8);
                let other = matches!(verdict, Err(Outcome::Failed(Finding::WronglyNamed { .. })));
                if !other || limit > stand.effort.patience {
                    break verdict;
                }
                let _either_way = stand.vm.resume();
            };
            drop(held);
            verdict
        })?;
        // Whichever way the failed suspend left it, this brings it to a known state.
        stand.step("a resume after a suspend that failed");
        let _either_way = stand.vm.resume();
        stand.suspend()?;
        stand.still(stand.effort.window)?;
        stand.resume()?;
        stand.runs()?;
    }
    Ok(())
}

fn late_reply_is_not_the_next(stand: &Stand<'_>) -> Verdict {
    for v in stand.vcpus() {
        let times = Arc::new(AtomicU32::new(0));
        thread::scope(|scope| {
            let held = stand.hold(scope, v)?;
            stand.step("a request with a limit while its vCPU is held up");
            let counter = times.clone();
            let op: Op = Box::new(move || {
                counter.fetch_add(1, SeqCst);
                2
            });
            let answer = stand.vm.call(v, stand.effort.window, op);
            drop(held);
            stand.must_name("a request", v, answer.map(drop))
        })?;
        for answer in 3..6 {
            stand.call(v, answer, || ())?;
        }
        if times.load(SeqCst) > 1 {
            once(v, times.load(SeqCst))?;
        }
    }
    Ok(())
}

fn destroy_releases_waiters(stand: &Stand<'_>) -> Verdict {
    let last = stand.vm.vcpus().saturating_sub(1);
    let over = Arc::new(AtomicBool::new(false));
    let ran_late = Arc::new(AtomicBool::new(false));
    let op = |answer: u64| -> Op {
        let (over, ran_late) = (over.clone(), ran_late.clone());
        Box::new(move || {
            ran_late.fetch_or(over.load(SeqCst), SeqCst);
            answer
        })
    };
    thread::scope(|scope| {
        let held = stand.hold(scope, last)?;
        stand.step("requests that wait while the loop is destroyed");
        let waiters: Vec<_> = (0..stand.effort.callers)
            .map(|n| {
                let op = op(u64::from(n) + 7);
                let limit = stand.effort.patience;
                scope.spawn(move || (u64::from(n) + 7, stand.vm.call(last, limit, op)))
            })
            .collect();
        look_on(stand.effort.window);
        let destroyer = scope.spawn(|| {
            stand.vm.destroy();
            over.store(true, SeqCst);
        });
        look_on(stand.effort.window);
        drop(held);
        let mut verdict: Verdict = Ok(());
        for waiter in waiters {
            verdict = verdict.and(match waiter.join() {
                Ok((want, Ok(got))) if want != got => Err(Finding::WrongReply {
                    vcpu: last,
                    want,
                    got,
                }
                .into()),
                Ok((_, Err(Trouble::Late { .. } | Trouble::SomebodyLate))) => {
                    Err(Finding::LeftWaiting { vcpu: last }.into())
                }
                Ok(_) => Ok(()),
                Err(_) => Err(Finding::Panicked { step: "a request" }.into()),
            });
        }
        if destroyer.join().is_err() {
            return Err(Finding::Panicked { step: "destroy" }.into());
        }
        verdict
    })?;
    stand.step("a request after destroy");
    let answered = stand.vm.call(last, stand.effort.window, op(1)).is_ok();
    if answered || ran_late.load(SeqCst) {
        return Err(Finding::RanAfterDestroy { vcpu: last }.into());
    }
    Ok(())
}

fn destroy_while_suspended(stand: &Stand<'_>) -> Verdict {
    stand.suspend()?;
    stand.step("destroy while suspended");
    stand.vm.destroy();
    match stand.moved(stand.effort.window) {
        Some(vcpu) => Err(Finding::RanWhileSuspended { vcpu }.into()),
        None => Ok(()),
    }
}

/// Runs `act` on as many threads as the effort says; the first that finds something is reported.
fn at_once(stand: &Stand<'_>, act: impl Fn(u32) -> Verdict + Sync) -> Verdict {
    thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = (0..stand.effort.callers.max(1))
            .map(|caller| scope.spawn(move || act(caller)))
            .collect();
        let mut verdict = Ok(());
        for thread in threads {
            let step = "acts at the same time";
            let ended = thread.join();
            verdict = verdict.and(ended.unwrap_or(Err(Finding::Panicked { step }.into())));
        }
        verdict
    })
}

fn once(vcpu: u32, times: u32) -> Verdict {
    if times == 1 {
        Ok(())
    } else {
        Err(Finding::NotOnce { vcpu, times }.into())
    }
}
