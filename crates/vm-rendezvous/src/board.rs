// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the threads of one VM share about its rendezvous, and how they sleep and wake on it.
//!
//! One short lock guards the board; nothing is called and nobody sleeps under it. Held EMTs sleep on
//! one word, the gate, each with a mask bit of its own: handing the turn on wakes one of them, ending
//! a round wakes all with one system call. Initiators that are no EMT sleep on a second word, home.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use vm_emt::{ANYONE, Bells, Departure, Flow, Futex};

use crate::how::{How, Order};
use crate::op::{Op, Outcome};
use crate::round::{Nudge, Round, Stage, Step, Summary};
use crate::sync::{AtomicU64, Mutex, MutexGuard};

/// Rounds on top of each other: the outermost and three nested ones.
pub(crate) const LEVELS: usize = 4;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bells: Arc<Bells>,
    board: Mutex<Board>,
    gate: Futex,
    home: Futex,
    /// The number of the outermost round, 0 if there is none. Written under the lock.
    active: AtomicU64,
    /// Per vCPU: the last round it has seen to. Written under the lock.
    seen: Box<[AtomicU64]>,
}

#[derive(Debug)]
pub(crate) struct Board {
    /// The rounds; the first `depth` are in use, each nested in the one before.
    pub(crate) rounds: [Round; LEVELS],
    pub(crate) depth: usize,
    /// Initiators in the order in which they came; the first one has the board.
    line: VecDeque<Initiator>,
    tickets: u64,
    sequence: u64,
    /// Who sleeps in the innermost wait: nobody is woken who does not sleep.
    at_gate: u32,
    at_home: u32,
    wakes: Wakes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Initiator {
    ticket: u64,
    who: Who,
}

/// Who began a round, and so where it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Thread,
    Emt(u32),
}

/// Where a thread sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bed {
    Gate(u32),
    Home(u64),
}

/// Wakes owed when the lock is let go.
#[derive(Debug, Clone, Copy, Default)]
struct Wakes {
    gate: u32,
    home: u32,
    ring: Option<u32>,
}

impl Bed {
    fn mask(self) -> u32 {
        match self {
            Self::Gate(v) => 1 << (v % 32),
            Self::Home(ticket) => 1 << (ticket % 32),
        }
    }
}

impl Board {
    fn nudge(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::Nobody => {}
            Nudge::One(v) => self.wakes.gate |= Bed::Gate(v).mask(),
            Nudge::Everybody => self.wakes.gate = ANYONE,
        }
    }

    fn owner_is(&self, ticket: u64) -> bool {
        self.line
            .front()
            .is_some_and(|first| first.ticket == ticket)
    }

    /// Whom to wake when the round at `level` has become empty. A nested round's initiator is the
    /// EMT whose turn it is one level down.
    fn wake_owner(&mut self, level: usize) {
        let who = match level.checked_sub(1) {
            None => self.line.front().copied(),
            Some(below) => self.rounds[below].holder().map(|v| Initiator {
                ticket: 0,
                who: Who::Emt(v),
            }),
        };
        match who {
            Some(Initiator {
                who: Who::Emt(v), ..
            }) => self.wakes.gate |= Bed::Gate(v).mask(),
            Some(Initiator {
                who: Who::Thread,
                ticket,
            }) => {
                self.wakes.home |= Bed::Home(ticket).mask();
            }
            None => {}
        }
    }
}

impl Shared {
    pub(crate) fn new(bells: Arc<Bells>) -> Arc<Self> {
        let count = bells.count();
        let shared = Arc::new(Self {
            board: Mutex::new(Board {
                rounds: std::array::from_fn(|_| Round::new(count)),
                depth: 0,
                line: VecDeque::new(),
                tickets: 0,
                sequence: 0,
                at_gate: 0,
                at_home: 0,
                wakes: Wakes::default(),
            }),
            gate: Futex::new(0),
            home: Futex::new(0),
            active: AtomicU64::new(0),
            seen: (0..count).map(|_| AtomicU64::new(0)).collect(),
            bells,
        });
        let watcher = Arc::downgrade(&shared);
        shared.bells.watch(watcher);
        shared
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the lock go and does the wakes that are owed.
    pub(crate) fn unlock(&self, mut board: MutexGuard<'_, Board>) {
        let wakes = self.bump(&mut board);
        drop(board);
        self.wake(wakes);
    }

    /// Lets the lock go, sleeps in `bed` until something changed that concerns it, and locks again.
    /// `false`: `deadline` passed.
    pub(crate) fn sleep<'a>(
        &'a self,
        mut board: MutexGuard<'a, Board>,
        bed: Bed,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Board>, bool) {
        let wakes = self.bump(&mut board);
        let word = match bed {
            Bed::Gate(_) => {
                board.at_gate += 1;
                &self.gate
            }
            Bed::Home(_) => {
                board.at_home += 1;
                &self.home
            }
        };
        // Read under the lock, after our own changes: whatever changes next changes the word too.
        let seen = word.load();
        drop(board);
        self.wake(wakes);
        let in_time = word.wait(seen, bed.mask(), deadline);
        let mut board = self.lock();
        match bed {
            Bed::Gate(_) => board.at_gate -= 1,
            Bed::Home(_) => board.at_home -= 1,
        }
        (board, in_time)
    }

    /// The wakes owed, less those that nobody sleeps for.
    fn bump(&self, board: &mut Board) -> Wakes {
        let mut wakes = std::mem::take(&mut board.wakes);
        if board.at_gate == 0 {
            wakes.gate = 0;
        }
        if board.at_home == 0 {
            wakes.home = 0;
        }
        if wakes.gate != 0 {
            self.gate.fetch_add(1);
        }
        if wakes.home != 0 {
            self.home.fetch_add(1);
        }
        wakes
    }

    fn wake(&self, wakes: Wakes) {
        if wakes.gate != 0 {
            self.gate.key().wake_all(wakes.gate);
        }
        if wakes.home != 0 {
            self.home.key().wake_all(wakes.home);
        }
        if let Some(v) = wakes.ring {
            self.bells.ring(v);
        }
    }

    /// Whether a round waits for EMT `v`.
    pub(crate) fn pending(&self, v: u32) -> bool {
        let active = self.active.load(SeqCst);
        active != 0 && self.seen(v).is_some_and(|seen| seen.load(SeqCst) != active)
    }

    /// Says that EMT `v` has seen to the outermost round. Under the lock.
    pub(crate) fn mark_seen(&self, v: u32) {
        if let Some(seen) = self.seen(v) {
            seen.store(self.active.load(SeqCst), SeqCst);
        }
    }

    fn seen(&self, v: u32) -> Option<&AtomicU64> {
        self.seen.get(usize::try_from(v).ok()?)
    }

    /// Stands in line; the board is ours when it is first.
    pub(crate) fn queue_up(&self, who: Who) -> Place<'_> {
        let mut board = self.lock();
        board.tickets += 1;
        let ticket = board.tickets;
        board.line.push_back(Initiator { ticket, who });
        Place {
            shared: self,
            ticket,
        }
    }

    /// Opens the outermost round with every EMT that is live. Only for the first in line.
    pub(crate) fn open_outermost(&self, how: How, op: Op, who: Bed) -> Open<'_> {
        let mut board = self.lock();
        board.sequence += 1;
        // Active first, then who is live: an EMT that enrolls after we looked at it finds the round
        // in its first attendance, which comes before it can enter the guest.
        self.active.store(board.sequence, SeqCst);
        let round = &mut board.rounds[0];
        round.open(how, op);
        for v in 0..self.bells.count() {
            if self.bells.word_for_certain(v).live() {
                round.add_member(v);
            }
        }
        if round.missing().is_none() {
            round.withdraw();
        }
        board.depth = 1;
        self.unlock(board);
        Open {
            shared: self,
            level: 0,
            bed: who,
        }
    }

    /// Opens a round inside the innermost one, for the EMT whose callback runs there. `None`: none
    /// can be opened.
    pub(crate) fn open_nested(&self, how: How, op: Op, v: u32) -> Option<Open<'_>> {
        let mut board = self.lock();
        let level = board.depth;
        let (below, above) = board.rounds.split_at_mut_checked(level)?;
        let (parent, round) = (below.last_mut()?, above.first_mut()?);
        if parent.order() == Order::Together {
            return None;
        }
        round.open(how, op);
        round.copy_members(parent);
        board.depth += 1;
        board.nudge(Nudge::Everybody);
        self.unlock(board);
        Some(Open {
            shared: self,
            level,
            bed: Bed::Gate(v),
        })
    }

    /// EMT `v` comes to the round at `level`, runs its callback through `run` when it is its turn,
    /// comes to every round nested in it, and leaves when it is over. If gathering is not complete by
    /// `deadline`, the round is withdrawn.
    pub(crate) fn take_part<'a>(
        &'a self,
        mut board: MutexGuard<'a, Board>,
        v: u32,
        level: usize,
        mut deadline: Option<Instant>,
        run: &mut dyn FnMut(Op) -> Outcome,
    ) -> Flow {
        let mut flow = Flow::Continue;
        if level == 0 {
            self.mark_seen(v);
        }
        let nudge = board.rounds[level].arrive(v);
        board.nudge(nudge);
        loop {
            let inner = level + 1;
            if board.depth > inner && !board.rounds[inner].has_arrived(v) {
                flow = flow.max(self.take_part(board, v, inner, None, run));
                board = self.lock();
                continue;
            }
            match board.rounds[level].step(v) {
                Step::Run(op) => {
                    self.unlock(board);
                    let outcome = run(op);
                    board = self.lock();
                    let nudge = board.rounds[level].ran(v, outcome);
                    board.nudge(nudge);
                }
                Step::Leave(common) => {
                    if board.rounds[level].leave() {
                        board.wake_owner(level);
                    }
                    self.unlock(board);
                    return flow.max(common);
                }
                Step::Wait => {
                    let in_time;
                    (board, in_time) = self.sleep(board, Bed::Gate(v), deadline);
                    if !in_time {
                        deadline = None;
                        let nudge = board.rounds[level].withdraw();
                        board.nudge(nudge);
                    }
                }
            }
        }
    }

    /// EMT `v` came when callbacks already ran without it, because it has just enrolled: it waits
    /// for the end, since it must not enter the guest meanwhile.
    pub(crate) fn stand_by<'a>(&'a self, v: u32, mut board: MutexGuard<'a, Board>) {
        let sequence = board.sequence;
        self.mark_seen(v);
        while board.depth != 0
            && board.sequence == sequence
            && board.rounds[0].stage() == Stage::Running
        {
            (board, _) = self.sleep(board, Bed::Gate(v), None);
        }
        self.unlock(board);
    }
}

impl Departure for Shared {
    fn left(&self, v: u32) {
        let mut board = self.lock();
        if board.depth != 0 && board.rounds[0].is_member(v) {
            let nudge = board.rounds[0].drop_member(v);
            board.nudge(nudge);
            if board.rounds[0].is_empty() {
                board.wake_owner(0); // nobody is left to do it on leaving
            }
        }
        self.unlock(board);
    }
}

/// A place in the line of initiators, given up when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl Place<'_> {
    pub(crate) fn is_first(&self) -> bool {
        self.shared.lock().owner_is(self.ticket)
    }

    pub(crate) fn bed(&self) -> Bed {
        Bed::Home(self.ticket)
    }

    /// Waits until it is first, on a thread that is no EMT. `false`: `deadline` passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
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
#[derive(Debug)]
pub(crate) struct Open<'a> {
    shared: &'a Shared,
    level: usize,
    bed: Bed,
}

impl Open<'_> {
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// Waits until everybody has left. If gathering is not complete by `deadline`, withdraws first;
    /// then the answer names who had not come.
    pub(crate) fn wait(&self, mut deadline: Option<Instant>) -> (Summary, Option<u32>) {
        let mut board = self.shared.lock();
        while !board.rounds[self.level].is_empty() {
            let in_time;
            (board, in_time) = self.shared.sleep(board, self.bed, deadline);
            if !in_time {
                deadline = None;
                let nudge = board.rounds[self.level].withdraw();
                board.nudge(nudge);
            }
        }
        let round = &board.rounds[self.level];
        let answer = (round.summary(), round.missing());
        self.shared.unlock(board);
        answer
    }

    pub(crate) fn withdraw(&self) {
        let mut board = self.shared.lock();
        let nudge = board.rounds[self.level].withdraw();
        board.nudge(nudge);
        self.shared.unlock(board);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.withdraw();
        self.wait(None);
        let mut board = self.shared.lock();
        board.rounds[self.level].close();
        board.depth = self.level;
        if self.level == 0 {
            self.shared.active.store(0, SeqCst);
        }
        self.shared.unlock(board);
    }
}
