// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An initiator's half of the board: its place in the line, and the round that it has open.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use vm_emt::Flow;

use crate::board::{Bed, Board, Initiator, Shared, Who};
use crate::how::{How, Order};
use crate::op::Op;
use crate::round::{Nudge, Stage, Summary};
use crate::set::CpuSet;
use crate::sync::MutexGuard;

impl Shared {
    /// Stands in line; the board is ours when it is first. `None`: this thread holds the EMTs
    /// already, so its turn would never come.
    pub(crate) fn queue_up(&self, who: Who) -> Option<Place<'_>> {
        let mut board = self.lock();
        if board.here.is_some_and(|id| id == crate::sync::thread_id()) {
            return None;
        }
        board.tickets += 1;
        let ticket = board.tickets;
        let first = board.line.is_empty();
        board.line.push_back(Initiator { ticket, who });
        Some(Place {
            shared: self,
            ticket,
            first,
            sleepers: Cell::new(None),
        })
    }

    /// Opens the outermost round with every EMT that is live, and rings those that have to come. Only
    /// for the first in line; `me`, if it is an EMT, is not rung.
    pub(crate) fn open_outermost<'a>(
        &'a self,
        place: &'a Place<'a>,
        how: How,
        op: Option<Op>,
        me: Option<u32>,
        bed: Bed,
    ) -> Open<'a> {
        let mut board = self.lock();
        board.sequence += 1;
        // Active first, then who is live: an EMT that enrolls after we looked at it finds the round
        // in its first attendance, which comes before it can enter the guest.
        self.active.store(board.sequence, SeqCst);
        if how.order == Order::Here {
            board.here = Some(crate::sync::thread_id());
        }
        let round = &mut board.rounds[0];
        round.open(how, op);
        let sleepers = how.order.holds_sleepers();
        for v in 0..self.bells.count() {
            if sleepers && self.bells.hold(v) {
                round.add_sleeper(v);
            } else if self.bells.word_for_certain(v).live() {
                round.add_member(v);
            }
        }
        let nudge = round.begin_if_complete(None);
        // If one was fetched, the others sleep, and it is rung for that.
        let first = match nudge {
            Nudge::Fetch(_) => None,
            Nudge::Nobody | Nudge::One(_) | Nudge::Everybody | Nudge::Owner => round.missing(),
        };
        board.nudge(nudge);
        let known = match board.rounds[0].stage() {
            Stage::Running => Known::Begun,
            Stage::Gathering | Stage::Over | Stage::Withdrawn => Known::Nothing,
        };
        board.depth = 1;
        self.unlock(board);
        let open = Open {
            shared: self,
            level: 0,
            bed,
            place: Some(place),
            known,
        };
        if sleepers {
            open.ring_missing(first, me);
        } else {
            open.ring_all(me);
        }
        open
    }

    /// Opens a round inside the innermost one, for the EMT whose callback runs there. `None`: none
    /// can be opened.
    pub(crate) fn open_nested(&self, how: How, op: Op, v: u32) -> Option<Open<'_>> {
        let mut board = self.lock();
        let level = board.depth;
        let (below, above) = board.rounds.split_at_mut_checked(level)?;
        let (outer, round) = (below, above.first_mut()?);
        if outer.last()?.order() == Order::Together {
            return None;
        }
        let mut fetched = None;
        if !how.order.holds_sleepers() {
            for (n, round) in outer.iter_mut().enumerate() {
                let sleepers = round.fetch_sleepers();
                if n == 0 {
                    fetched = Some(sleepers);
                } else {
                    round.put_back(sleepers);
                }
            }
        }
        round.open(how, Some(op));
        round.copy_members(outer.last()?);
        board.depth += 1;
        board.nudge(Nudge::Everybody);
        self.unlock(board);
        if let Some(sleepers) = fetched {
            sleepers.iter().for_each(|v| self.fetch(v));
            self.lock().rounds[0].put_back(sleepers);
        }
        Some(Open {
            shared: self,
            level,
            bed: Bed::Gate(v),
            place: None,
            known: Known::Nothing,
        })
    }
}

/// A place in the line of initiators, given up when dropped.
pub(crate) struct Place<'a> {
    shared: &'a Shared,
    ticket: u64,
    /// It was first when it was taken. What is first stays first.
    first: bool,
    /// A set that the outermost round has to get back before the next initiator's turn.
    sleepers: Cell<Option<CpuSet>>,
}

impl Place<'_> {
    pub(crate) fn is_first(&self) -> bool {
        self.first || self.shared.lock().owner_is(self.ticket)
    }

    pub(crate) fn bed(&self) -> Bed {
        Bed::Home(self.ticket)
    }

    /// Waits until it is first, on a thread that is no EMT. `false`: `deadline` passed.
    pub(crate) fn wait(&self, deadline: impl FnOnce() -> Option<Instant>) -> bool {
        if self.first {
            return true;
        }
        let deadline = deadline();
        let mut board = self.shared.lock();
        while !board.owner_is(self.ticket) {
            let in_time;
            (board, in_time) = self.shared.sleep(board, self.bed(), deadline);
            if !in_time {
                return board.owner_is(self.ticket);
            }
        }
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut board = self.shared.lock();
        if let Some(sleepers) = self.sleepers.take() {
            board.rounds[0].put_back(sleepers);
        }
        let was_first = board.owner_is(self.ticket);
        board.line.retain(|other| other.ticket != self.ticket);
        if was_first && let Some(next) = board.line.front().copied() {
            match next.who {
                Who::Thread => board.wakes.home |= Bed::Home(next.ticket).mask(),
                Who::Emt(v) => board.wakes.ring = Some(v),
            }
        }
        self.shared.unlock(board);
    }
}

/// An open round, on its initiator's stack. Dropping it withdraws it if no callback has run, and in
/// any case waits until every EMT has left: only then may the callback go away.
pub(crate) struct Open<'a> {
    shared: &'a Shared,
    level: usize,
    bed: Bed,
    /// Its initiator's, if it is the outermost.
    place: Option<&'a Place<'a>>,
    known: Known,
}

/// What an initiator knows of its round without the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// Everybody was held at once.
    Begun,
    Closed,
}

impl<'a> Open<'a> {
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// Rings everybody but `me`.
    fn ring_all(&self, me: Option<u32>) {
        if self.rings_came_first() {
            return;
        }
        let bells = &self.shared.bells;
        (0..bells.count())
            .filter(|&v| me != Some(v))
            .for_each(|v| bells.ring(v));
    }

    /// Rings those that have to come, from `first` on, but `me`, and nobody who sleeps. No lock is
    /// held at a ring.
    fn ring_missing(&self, first: Option<u32>, me: Option<u32>) {
        if self.rings_came_first() {
            return;
        }
        let mut next = first;
        while let Some(v) = next {
            if me != Some(v) {
                self.shared.bells.ring(v);
            }
            next = self.shared.lock().rounds[self.level].missing_from(v + 1);
        }
    }

    #[cfg(any(loom, shuttle))]
    fn rings_came_first(&self) -> bool {
        self.shared.bells.fault() == vm_emt::Fault::PublishAfterRing
    }

    #[cfg(not(any(loom, shuttle)))]
    #[expect(clippy::unused_self, reason = "a mistake that models make")]
    fn rings_came_first(&self) -> bool {
        false
    }

    /// Waits until everybody is held. If that is not by `deadline`, withdraws; then, and if there is
    /// nobody, `false`. For the kind whose callback runs on this thread.
    pub(crate) fn gathered(&self, deadline: impl Fn() -> Option<Instant>) -> bool {
        if self.known == Known::Begun {
            return true;
        }
        let mut board = self.shared.lock();
        loop {
            match board.rounds[self.level].stage() {
                Stage::Gathering => {
                    let in_time;
                    (board, in_time) = self.shared.sleep(board, self.bed, deadline());
                    if !in_time {
                        let nudge = board.rounds[self.level].withdraw();
                        board.nudge(nudge);
                    }
                }
                Stage::Running => return true,
                Stage::Over | Stage::Withdrawn => {
                    self.shared.unlock(board);
                    return false;
                }
            }
        }
    }

    /// The callback on this thread ended: as [`end`](Self::end).
    pub(crate) fn end_here(mut self, flow: Flow) -> (Summary, Option<u32>) {
        let shared = self.shared;
        let mut board = shared.lock();
        let nudge = board.rounds[self.level].ran_here(flow);
        board.nudge(nudge);
        self.close(board, None)
    }

    /// Waits until everybody has left, and closes the round. If gathering is not complete by
    /// `deadline`, withdraws first; then the answer names who had not come.
    pub(crate) fn end(mut self, deadline: Option<Instant>) -> (Summary, Option<u32>) {
        let shared = self.shared;
        self.close(shared.lock(), deadline)
    }

    fn close(
        &mut self,
        mut board: MutexGuard<'a, Board>,
        mut deadline: Option<Instant>,
    ) -> (Summary, Option<u32>) {
        let shared = self.shared;
        while !board.rounds[self.level].is_empty() {
            let in_time;
            (board, in_time) = shared.sleep(board, self.bed, deadline);
            if !in_time {
                deadline = None;
                let nudge = board.rounds[self.level].withdraw();
                board.nudge(nudge);
            }
        }
        self.known = Known::Closed;
        let round = &mut board.rounds[self.level];
        let summary = round.summary();
        let missing = match summary.stage {
            Stage::Withdrawn => round.missing(),
            Stage::Gathering | Stage::Running | Stage::Over => None,
        };
        round.close();
        board.depth = self.level;
        if self.level == 0 {
            self.let_sleepers_go(board, summary);
        } else {
            shared.unlock(board);
        }
        (summary, missing)
    }

    /// The end of an outermost round, for those who did not come to it.
    fn let_sleepers_go(&self, mut board: MutexGuard<'_, Board>, summary: Summary) {
        let shared = self.shared;
        shared.active.store(0, SeqCst);
        board.here = None;
        let told = summary.stage == Stage::Over && summary.flow > Flow::Continue;
        let round = &mut board.rounds[0];
        if told {
            for v in (0..shared.bells.count()).filter(|&v| round.missed_end(v)) {
                if shared.bells.live(v) {
                    shared.owe(v, summary.flow);
                }
            }
        }
        let sleepers = round.take_sleepers();
        shared.unlock(board);
        for v in sleepers.iter() {
            if told {
                shared.fetch(v);
            } else {
                shared.bells.let_go(v);
            }
        }
        if let Some(place) = self.place {
            place.sleepers.set(Some(sleepers));
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.known == Known::Closed {
            return;
        }
        // On unwinding.
        let shared = self.shared;
        let mut board = shared.lock();
        let round = &mut board.rounds[self.level];
        let nudges = [round.withdraw(), round.ran_here(Flow::Continue)];
        for nudge in nudges {
            board.nudge(nudge);
        }
        self.close(board, None);
    }
}
