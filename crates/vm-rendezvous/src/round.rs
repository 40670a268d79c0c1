// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One round as a state machine: who has come, whose turn it is, when it is over. No threads here.
//!
//! Invariants: no callback begins before every member has arrived; in the ordered kinds at most one
//! callback runs; nobody leaves before the round is over. A member may arrive without coming: held in
//! its sleep. It never has a turn; where one is needed, it is fetched.

use vm_emt::Flow;

use crate::how::{How, OnError, Order};
use crate::op::{Op, Outcome};
use crate::set::CpuSet;

/// Where a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Members arrive.
    Gathering,
    /// All have arrived; callbacks run.
    Running,
    /// The last callback has ended; members leave.
    Over,
    /// Given up before a callback ran; members leave.
    Withdrawn,
}

/// Who has to look at the round now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nudge {
    Nobody,
    One(u32),
    Everybody,
    /// The initiator, whose thread runs the callback.
    Owner,
    /// A member that is held in its sleep has to come after all: let it go and ring it.
    Fetch(u32),
}

/// What a member that is inside does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Wait,
    Run(Op),
    Leave(Flow),
}

/// One round. Made once per level and reused.
#[derive(Debug)]
pub(crate) struct Round {
    how: How,
    op: Option<Op>,
    stage: Stage,
    /// Who has to come.
    members: CpuSet,
    /// Who has come, or is held in its sleep.
    arrived: CpuSet,
    /// Who of these is held in its sleep.
    held: CpuSet,
    /// Whose callback has begun.
    begun: CpuSet,
    /// Whose turn it is, in the kinds that have turns.
    turn: Option<u32>,
    /// How many have come and not left.
    inside: u32,
    ran: u32,
    flow: Flow,
    failed: Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    None,
    Some,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) stage: Stage,
    pub(crate) flow: Flow,
    pub(crate) held: u32,
    pub(crate) ran: u32,
}

impl Round {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            how: How::once(),
            op: None,
            stage: Stage::Over,
            members: CpuSet::new(count),
            arrived: CpuSet::new(count),
            held: CpuSet::new(count),
            begun: CpuSet::new(count),
            turn: None,
            inside: 0,
            ran: 0,
            flow: Flow::Continue,
            failed: Failure::None,
        }
    }

    /// Begins a new round without members.
    pub(crate) fn open(&mut self, how: How, op: Option<Op>) {
        self.how = how;
        self.op = op;
        self.stage = Stage::Gathering;
        self.members.clear();
        self.arrived.clear();
        self.held.clear();
        self.begun.clear();
        self.turn = None;
        self.inside = 0;
        self.ran = 0;
        self.flow = Flow::Continue;
        self.failed = Failure::None;
    }

    /// Forgets the callback: its owner goes away.
    pub(crate) fn close(&mut self) {
        self.op = None;
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn order(&self) -> Order {
        self.how.order
    }

    pub(crate) fn add_member(&mut self, v: u32) {
        self.members.insert(v);
    }

    /// Adds a member that was parked and is held there.
    pub(crate) fn add_sleeper(&mut self, v: u32) {
        self.members.insert(v);
        self.arrived.insert(v);
        self.held.insert(v);
    }

    /// Takes over the members of the round this one is nested in, all of which are inside it or held
    /// in their sleep.
    pub(crate) fn copy_members(&mut self, parent: &Self) {
        self.members.copy_from(&parent.members);
        self.arrived.copy_from(&parent.held);
        self.held.copy_from(&parent.held);
    }

    /// Takes out who is held in its sleep, to let them go.
    pub(crate) fn take_sleepers(&mut self) -> CpuSet {
        self.held.take()
    }

    /// Takes out who is held in its sleep, to have them come: they have not arrived, then.
    pub(crate) fn fetch_sleepers(&mut self) -> CpuSet {
        let held = self.held.take();
        held.iter().for_each(|v| self.arrived.remove(v));
        held
    }

    /// Gives the set back for the next round.
    pub(crate) fn put_back(&mut self, mut held: CpuSet) {
        held.clear();
        self.held = held;
    }

    /// Whoever did not leave through [`step`](Self::step) and so has not heard what the round came
    /// to: members held in their sleep, and those fetched too late.
    pub(crate) fn missed_end(&self, v: u32) -> bool {
        self.members.contains(v) && (self.held.contains(v) || !self.arrived.contains(v))
    }

    pub(crate) fn is_member(&self, v: u32) -> bool {
        self.members.contains(v)
    }

    pub(crate) fn has_arrived(&self, v: u32) -> bool {
        self.arrived.contains(v)
    }

    /// A member that has not come.
    pub(crate) fn missing(&self) -> Option<u32> {
        self.missing_from(0)
    }

    /// The first such from `v` on.
    pub(crate) fn missing_from(&self, v: u32) -> Option<u32> {
        let late = |&other: &u32| other >= v && !self.arrived.contains(other);
        self.members.iter().find(late)
    }

    /// Whoever is keeping the round from its end: one that has not come, or whose turn it is.
    pub(crate) fn holder(&self) -> Option<u32> {
        self.missing().or(self.turn)
    }

    /// Whether nobody is inside and nobody will come any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.inside == 0 && matches!(self.stage, Stage::Over | Stage::Withdrawn)
    }

    pub(crate) fn arrive(&mut self, v: u32) -> Nudge {
        self.arrived.insert(v);
        self.inside += 1;
        self.begin_if_complete(Some(v))
    }

    /// A member that has not come never will. One that has come cannot leave its VM from inside, nor
    /// one that is held.
    pub(crate) fn drop_member(&mut self, v: u32) -> Nudge {
        if self.arrived.contains(v) {
            return Nudge::Nobody;
        }
        match self.stage {
            Stage::Gathering | Stage::Running => {
                self.members.remove(v);
                self.begin_if_complete(None)
            }
            Stage::Over => {
                self.arrived.insert(v); // what the round came to is no longer for it
                Nudge::Nobody
            }
            Stage::Withdrawn => Nudge::Nobody, // it is still the one that was late
        }
    }

    /// The callback on the initiator's thread ended. Only in the kind that has it there.
    pub(crate) fn ran_here(&mut self, flow: Flow) -> Nudge {
        if self.stage != Stage::Running || self.how.order != Order::Here {
            return Nudge::Nobody;
        }
        self.ran = 1;
        self.flow = flow;
        self.stage = Stage::Over;
        Nudge::Everybody
    }

    pub(crate) fn withdraw(&mut self) -> Nudge {
        if self.stage != Stage::Gathering {
            return Nudge::Nobody;
        }
        self.stage = Stage::Withdrawn;
        Nudge::Everybody
    }

    pub(crate) fn step(&mut self, v: u32) -> Step {
        match self.stage {
            Stage::Gathering => Step::Wait,
            Stage::Withdrawn => Step::Leave(Flow::Continue),
            Stage::Over => Step::Leave(self.common_flow()),
            Stage::Running => {
                let mine = self.turn == Some(v) || self.how.order == Order::Together;
                match self.op {
                    Some(op) if mine && !self.begun.contains(v) => {
                        self.begun.insert(v);
                        Step::Run(op)
                    }
                    Some(_) | None => Step::Wait,
                }
            }
        }
    }

    /// Vcpu `v`'s callback ended.
    pub(crate) fn ran(&mut self, v: u32, outcome: Outcome) -> Nudge {
        self.ran += 1;
        match outcome {
            Outcome::Done(flow) => self.flow = self.flow.max(flow),
            Outcome::Failed => self.failed = Failure::Some,
        }
        let stop = self.failed == Failure::Some && self.how.on_error == OnError::Stop;
        self.turn = if stop { None } else { self.successor(v) };
        match self.turn {
            Some(next) => Nudge::One(next),
            None if self.how.order == Order::Together && self.ran < self.members.len() => {
                Nudge::Nobody
            }
            None => {
                self.stage = Stage::Over;
                Nudge::Everybody
            }
        }
    }

    /// A member leaves. `true`: it was the last one inside.
    pub(crate) fn leave(&mut self) -> bool {
        self.inside = self.inside.saturating_sub(1);
        self.inside == 0
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            stage: self.stage,
            flow: self.common_flow(),
            held: self.members.len(),
            ran: self.ran,
        }
    }

    /// A failure is the initiator's business; the others go on as they were.
    fn common_flow(&self) -> Flow {
        match self.failed {
            Failure::None => self.flow,
            Failure::Some => Flow::Continue,
        }
    }

    /// Begins the callbacks if every member has arrived; `last` is the one that just did.
    pub(crate) fn begin_if_complete(&mut self, last: Option<u32>) -> Nudge {
        if self.stage != Stage::Gathering || self.arrived.len() < self.members.len() {
            return Nudge::Nobody;
        }
        if self.members.len() == 0 {
            self.stage = Stage::Over;
            return Nudge::Everybody;
        }
        let turn = match self.how.order {
            Order::Ascending => self.members.iter().next(),
            Order::Descending => self.members.iter().next_back(),
            // Whoever is awake: the last to arrive, if it was an arrival that completed the round.
            Order::OneByOne => last.or_else(|| self.members.iter().next()),
            Order::Once => match last.or_else(|| self.somebody_inside()) {
                None => return self.fetch_one(),
                inside => inside,
            },
            Order::Together | Order::Here => None,
        };
        self.stage = Stage::Running;
        self.turn = turn;
        match turn {
            Some(v) => Nudge::One(v),
            None if self.how.order == Order::Here => Nudge::Owner,
            None => Nudge::Everybody,
        }
    }

    fn somebody_inside(&self) -> Option<u32> {
        self.arrived.iter().find(|&v| !self.held.contains(v))
    }

    /// All members sleep: the first has to come, so that the callback has an EMT to run on.
    fn fetch_one(&mut self) -> Nudge {
        let Some(v) = self.held.iter().next() else {
            return Nudge::Nobody;
        };
        self.held.remove(v);
        self.arrived.remove(v);
        Nudge::Fetch(v)
    }

    fn successor(&self, v: u32) -> Option<u32> {
        match self.how.order {
            Order::Ascending => self.members.iter().find(|&next| next > v),
            Order::Descending => self.members.iter().rev().find(|&next| next < v),
            Order::OneByOne => self.members.iter().find(|&next| !self.begun.contains(next)),
            Order::Together | Order::Once | Order::Here => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn idle_op() -> Op {
        let callback = &|_: &mut (), _| Outcome::Done(Flow::Continue);
        Op::new::<(), _>(callback)
    }

    fn how() -> impl Strategy<Value = How> {
        prop_oneof![
            Just(How::ascending().into()),
            Just(How::descending().into()),
            Just(How::one_by_one().into()),
            Just(How::ascending().stop_on_error().into()),
            Just(How::together()),
            Just(How::once()),
        ]
    }

    /// A run of a round of `members`, who come in the order of `coming`, some leaving the VM
    /// instead; `failing` callbacks fail. Answers who ran, in order.
    fn play(round: &mut Round, coming: &[(u32, bool)], failing: u64) -> Vec<u32> {
        let inside: Vec<u32> = coming
            .iter()
            .filter(|(_, leaves)| !leaves)
            .map(|c| c.0)
            .collect();
        for &(v, leaves) in coming {
            assert_eq!(round.stage(), Stage::Gathering, "it waits for everybody");
            if leaves {
                round.drop_member(v)
            } else {
                round.arrive(v)
            };
        }
        let mut ran = Vec::new();
        while round.stage() == Stage::Running {
            let mut running = Vec::new();
            for &v in &inside {
                match round.step(v) {
                    Step::Run(_) => running.push(v),
                    Step::Wait => {}
                    Step::Leave(_) => unreachable!("nobody leaves before the end"),
                }
            }
            assert!(
                running.len() == 1 || round.order() == Order::Together,
                "{running:?}"
            );
            for v in running {
                ran.push(v);
                let failed = failing & (1 << v) != 0;
                round.ran(
                    v,
                    if failed {
                        Outcome::Failed
                    } else {
                        Outcome::Done(Flow::Look)
                    },
                );
            }
        }
        for (n, &v) in inside.iter().enumerate() {
            assert!(matches!(round.step(v), Step::Leave(_)));
            assert_eq!(round.leave(), n + 1 == inside.len());
        }
        assert!(round.is_empty());
        ran
    }

    proptest! {
        #[test]
        fn whoever_comes_in_whatever_order_runs_as_asked(
            how in how(),
            coming in proptest::collection::vec(any::<bool>(), 1..8)
                .prop_map(|leaves| (0..).zip(leaves).collect::<Vec<(u32, bool)>>())
                .prop_shuffle(),
            failing in any::<u64>(),
        ) {
            let mut round = Round::new(8);
            round.open(how, Some(idle_op()));
            for &(v, _) in &coming {
                round.add_member(v);
            }
            let ran = play(&mut round, &coming, failing);
            let mut expected: Vec<u32> =
                coming.iter().filter(|(_, leaves)| !leaves).map(|c| c.0).collect();
            expected.sort_unstable();
            let summary = round.summary();
            prop_assert_eq!(summary.held as usize, expected.len());
            prop_assert_eq!(summary.ran as usize, ran.len());
            let any_failed = ran.iter().any(|&v| failing & (1 << v) != 0);
            let look = !ran.is_empty() && !any_failed;
            prop_assert_eq!(summary.flow, if look { Flow::Look } else { Flow::Continue });
            let mut sorted = ran.clone();
            sorted.sort_unstable();
            if how.order == Order::Descending {
                expected.reverse();
            }
            match (how.order, how.on_error) {
                (Order::Once | Order::Here, _) => prop_assert_eq!(ran.len(), expected.len().min(1)),
                (Order::OneByOne | Order::Together, _) => prop_assert_eq!(sorted, expected),
                (_, OnError::GoOn) => prop_assert_eq!(ran, expected),
                (_, OnError::Stop) => {
                    let first = expected.iter().position(|&v| failing & (1 << v) != 0);
                    let until = first.map_or(expected.len(), |at| at + 1);
                    prop_assert_eq!(&ran, &expected[..until]);
                }
            }
        }
    }

    #[test]
    fn a_round_is_withdrawn_only_before_a_callback_has_begun() {
        let mut round = Round::new(2);
        round.open(How::once(), Some(idle_op()));
        round.add_member(0);
        round.add_member(1);
        round.arrive(0);
        assert_eq!((round.missing(), round.holder()), (Some(1), Some(1)));
        assert_eq!(round.withdraw(), Nudge::Everybody);
        assert!(matches!(round.step(0), Step::Leave(Flow::Continue)));
        assert!(round.leave());

        round.open(How::once(), Some(idle_op()));
        round.add_member(1);
        round.arrive(1);
        assert_eq!(round.withdraw(), Nudge::Nobody);
        assert_eq!((round.stage(), round.holder()), (Stage::Running, Some(1)));
    }
    #[test]
    fn what_the_initiator_ran_itself_counts_only_in_such_a_round_and_while_it_runs() {
        let mut round = Round::new(2);
        round.open(How::here(), None);
        round.add_member(0);
        assert_eq!(round.ran_here(Flow::Stop), Nudge::Nobody, "it gathers");
        assert_eq!(round.stage(), Stage::Gathering);
        round.arrive(0);
        assert_eq!(round.ran_here(Flow::Look), Nudge::Everybody);
        assert_eq!(round.summary().flow, Flow::Look);

        round.open(How::together(), Some(idle_op()));
        round.add_member(0);
        round.arrive(0);
        assert_eq!(round.ran_here(Flow::Stop), Nudge::Nobody, "an EMT runs it");
        assert_eq!(round.stage(), Stage::Running);
    }
}
