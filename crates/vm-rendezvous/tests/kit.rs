// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kit finds nothing in loops that are right, and names the bug of each that is not.

#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a failed set-up ends the test, and all but one case are wrong"
)]

mod loops;

use std::time::Duration;

use loops::field::{Bug, Field};
use loops::ours::Ours;
use vm_rendezvous::kit::{self, Check, Effort, Finding, Outcome, Trouble};

/// For loops that are right: nothing is lost by waiting.
const QUICK: Effort = Effort {
    rounds: 40,
    callers: 4,
    patience: Duration::from_secs(30),
    window: Duration::from_millis(5),
};
/// For loops that hang.
const IMPATIENT: Effort = Effort {
    callers: 2,
    patience: Duration::from_secs(2),
    window: Duration::from_millis(20),
    ..QUICK
};

/// What one check says of a loop with `bug`.
fn verdict(check: Check, bug: Bug) -> Outcome {
    let report = kit::run_only(&[check], IMPATIENT, move || Ok(Field::new(2, bug)));
    report.outcome(check).unwrap().clone()
}

fn finding(check: Check, bug: Bug) -> Finding {
    match verdict(check, bug) {
        Outcome::Failed(finding) => finding,
        other => panic!("{check} finds nothing wrong with {bug:?}: {other:?}"),
    }
}

#[test]
fn a_loop_on_a_doorbell_passes_every_check() {
    let report = kit::run(QUICK, || Ok(Ours::new(2)));
    assert!(report.passed(), "{report}");
    assert_eq!(report.abandoned(), 0);
}

#[test]
fn a_loop_of_one_vcpu_passes() {
    let report = kit::run(QUICK, || Ok(Ours::new(1)));
    assert!(report.passed(), "{report}");
}

#[test]
fn a_careful_loop_that_is_not_ours_passes_every_check() {
    let report = kit::run(QUICK, || Ok(Field::new(2, Bug::None)));
    assert!(report.passed(), "{report}");
    assert_eq!(report.abandoned(), 0);
}

#[test]
fn a_signal_that_lands_before_the_guest_is_a_lost_kick() {
    let found = finding(Check::KickAtEntry, Bug::SignalOnly);
    assert!(matches!(found, Finding::LostKick { .. }), "{found}");
}

#[test]
fn a_suspend_that_does_not_wait_is_found() {
    let found = finding(Check::SuspendStopsGuests, Bug::NoAcknowledgement);
    assert!(
        matches!(found, Finding::RanWhileSuspended { .. }),
        "{found}"
    );
}

#[test]
fn acknowledgements_that_go_to_the_wrong_suspend_are_found() {
    let found = finding(Check::ConcurrentSuspends, Bug::CountedAcknowledgements);
    let late = Finding::Failed {
        step: "a suspend beside another",
        trouble: Trouble::Late { vcpu: 0 },
    };
    assert_eq!(found, late);
}

#[test]
fn a_suspended_vcpu_that_polls_is_found() {
    let found = verdict(Check::SuspendedVcpusSleepAndAnswer, Bug::Spins);
    let expected = matches!(
        found,
        Outcome::Failed(Finding::Spun { .. }) | Outcome::Skipped(_)
    );
    assert!(expected, "{found:?}");
}

#[test]
fn a_reply_that_comes_late_is_told_from_the_next() {
    let found = finding(Check::LateReplyIsNotTheNext, Bug::SharedReplies);
    assert!(matches!(found, Finding::WrongReply { .. }), "{found}");
}

#[test]
fn a_limit_that_names_nobody_is_found() {
    let found = finding(Check::LateVcpuIsNamed, Bug::NamesNobody);
    let unnamed = Finding::NotNamed {
        step: "suspend",
        vcpu: 0,
    };
    assert_eq!(found, unnamed);
}

#[test]
fn a_limit_that_names_the_wrong_vcpu_is_found() {
    let found = finding(Check::LateVcpuIsNamed, Bug::NamesTheFirst);
    let misnamed = Finding::WronglyNamed {
        step: "suspend",
        vcpu: 1,
        named: 0,
    };
    assert_eq!(found, misnamed);
}

#[test]
fn a_suspend_that_ignores_its_limit_is_found() {
    let found = finding(Check::LateVcpuIsNamed, Bug::NoLimit);
    let step = "a suspend while a vCPU is held up";
    assert_eq!(found, Finding::Stuck { step });
}

#[test]
fn callers_who_are_left_waiting_at_destroy_are_found() {
    let found = finding(Check::DestroyReleasesWaiters, Bug::LeavesWaiters);
    assert_eq!(found, Finding::LeftWaiting { vcpu: 1 });
}

#[test]
fn a_request_that_runs_after_destroy_is_found() {
    let found = finding(Check::DestroyReleasesWaiters, Bug::RunsAfterTheEnd);
    assert_eq!(found, Finding::RanAfterDestroy { vcpu: 1 });
}

#[test]
fn a_request_that_runs_on_its_caller_is_found() {
    let found = finding(Check::RequestsRunOnce, Bug::RunsOnTheCaller);
    assert!(matches!(found, Finding::WrongThread { .. }), "{found}");
}

#[test]
fn a_meeting_that_lets_guests_run_is_found() {
    let found = finding(Check::MeetingHoldsAll, Bug::MeetsOneByOne);
    assert!(matches!(found, Finding::RanInMeeting { .. }), "{found}");
}

#[test]
fn a_meeting_that_leaves_a_vcpu_out_is_found() {
    let found = finding(Check::MeetingHoldsAll, Bug::MeetsOnlyTheFirst);
    assert_eq!(found, Finding::NotOnce { vcpu: 1, times: 0 });
}

#[test]
fn meetings_that_wait_for_each_other_are_found() {
    let found = finding(Check::ConcurrentMeetings, Bug::MeetsInRequests);
    let late = Finding::Failed {
        step: "a meeting beside another",
        trouble: Trouble::SomebodyLate,
    };
    assert_eq!(found, late);
}

#[test]
fn a_loop_that_enters_the_guest_before_it_looks_is_found() {
    let found = finding(Check::KickAtEntry, Bug::LooksRarely);
    assert!(matches!(found, Finding::KickNotLookedAt { .. }), "{found}");
}

#[test]
fn a_loop_that_panics_is_a_finding() {
    let found = finding(Check::SuspendStopsGuests, Bug::Panics);
    assert_eq!(found, Finding::Panicked { step: "resume" });
}

#[test]
fn a_loop_that_cannot_be_made_is_a_finding_of_every_check() {
    let report = kit::run(QUICK, || Err::<Field, _>("no memory".to_owned()));
    assert_eq!(report.findings().count(), Check::ALL.len());
    let found = report.outcome(Check::SuspendStorm);
    let why = "no memory".to_owned();
    assert_eq!(found, Some(&Outcome::Failed(Finding::NotMade { why })));
}
