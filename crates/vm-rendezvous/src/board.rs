// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the threads of one VM share about its rendezvous, and how they sleep and wake on it.
//!
//! One short lock guards the board; nothing is called and nobody sleeps under it. Held EMTs sleep on
//! a gate, one word for 32 of them, each with a mask bit of its own: handing the turn on wakes one of
//! them, ending a round wakes all with one system call for each gate. Initiators that are no EMT sleep on a second word, home.
//!
//! An EMT that is parked when a round opens whose callback it need not run is held in its sleep by
//! its doorbell word: it arrives and leaves without knowing. What the round asked its loop to do is
//! owed to it then, and it is rung for that. A round nested in such a one, if its callback has to
//! run everywhere, fetches the sleepers first: they come to the outermost round late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use vm_emt::{ANYONE, Bells, Departure, Flow, Futex};

use crate::op::{Op, Outcome};
use crate::round::{Nudge, Round, Stage, Step};
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, ThreadId};

/// Rounds on top of each other: the outermost and three nested ones.
pub(crate) const LEVELS: usize = 4;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bells: Arc<Bells>,
    board: Mutex<Board>,
    gates: Box<[Futex]>,
    home: Futex,
    /// The number of the outermost round, 0 if there is none. Written under the lock.
    pub(crate) active: AtomicU64,
    vcpus: Box<[Vcpu]>,
}

/// What EMT v looks at in its loop. Written under the lock.
#[derive(Debug)]
struct Vcpu {
    /// The last round it has seen to.
    seen: AtomicU64,
    /// The [`Flow`] of rounds that it slept through, by its rank.
    owed: AtomicU32,
}

#[derive(Debug)]
pub(crate) struct Board {
    /// The rounds; the first `depth` are in use, each nested in the one before.
    pub(crate) rounds: [Round; LEVELS],
    pub(crate) depth: usize,
    /// Initiators in the order in which they came; the first one has the board.
    pub(crate) line: VecDeque<Initiator>,
    pub(crate) tickets: u64,
    pub(crate) sequence: u64,
    /// Who sleeps in the innermost wait: nobody is woken who does not sleep.
    at_gate: u32,
    at_home: u32,
    /// The thread that runs a callback while it holds the EMTs: it cannot meet them meanwhile.
    pub(crate) here: Option<ThreadId>,
    pub(crate) wakes: Wakes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initiator {
    pub(crate) ticket: u64,
    pub(crate) who: Who,
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
pub(crate) struct Wakes {
    gate: Reach,
    pub(crate) home: u32,
    pub(crate) ring: Option<u32>,
    fetch: Option<u32>,
}

/// Whom a wake at the gates is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reach {
    #[default]
    Nobody,
    One(u32),
    All,
}

impl Reach {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, reach) | (reach, Self::Nobody) => reach,
            (one, other) if one == other => one,
            _ => Self::All,
        }
    }
}

impl Bed {
    pub(crate) fn mask(self) -> u32 {
        match self {
            Self::Gate(v) => 1 << (v % 32),
            Self::Home(ticket) => 1 << (ticket % 32),
        }
    }
}

impl Board {
    pub(crate) fn nudge(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::Nobody => {}
            Nudge::One(v) => self.wakes.gate = self.wakes.gate.and(Reach::One(v)),
            Nudge::Everybody => self.wakes.gate = Reach::All,
            Nudge::Owner => self.wake_owner(0),
            Nudge::Fetch(v) => self.wakes.fetch = Some(v),
        }
    }

    pub(crate) fn owner_is(&self, ticket: u64) -> bool {
        self.line
            .front()
            .is_some_and(|first| first.ticket == ticket)
    }

    /// Whom to wake when the round at `level` has become empty. A nested round's initiator is the
    /// EMT whose turn it is one level down.
    pub(crate) fn wake_owner(&mut self, level: usize) {
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
            }) => self.wakes.gate = self.wakes.gate.and(Reach::One(v)),
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
                here: None,
                wakes: Wakes::default(),
            }),
            gates: (0..count.div_ceil(32)).map(|_| Futex::new(0)).collect(),
            home: Futex::new(0),
            active: AtomicU64::new(0),
            vcpus: (0..count)
                .map(|_| Vcpu {
                    seen: AtomicU64::new(0),
                    owed: AtomicU32::new(0),
                })
                .collect(),
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
            Bed::Gate(v) => {
                board.at_gate += 1;
                self.gate(v)
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
            wakes.gate = Reach::Nobody;
        }
        if board.at_home == 0 {
            wakes.home = 0;
        }
        for gate in self.reached(wakes.gate) {
            gate.fetch_add(1);
        }
        if wakes.home != 0 {
            self.home.fetch_add(1);
        }
        wakes
    }

    fn wake(&self, wakes: Wakes) {
        let mask = match wakes.gate {
            Reach::One(v) => Bed::Gate(v).mask(),
            Reach::Nobody | Reach::All => ANYONE,
        };
        for gate in self.reached(wakes.gate) {
            gate.key().wake_all(mask);
        }
        if wakes.home != 0 {
            self.home.key().wake_all(wakes.home);
        }
        if let Some(v) = wakes.ring {
            self.bells.ring(v);
        }
        if let Some(v) = wakes.fetch {
            self.fetch(v);
        }
    }

    fn gate(&self, v: u32) -> &Futex {
        let at = usize::try_from(v / 32).unwrap_or(usize::MAX);
        self.gates.get(at).unwrap_or(&self.home) // there is no such EMT
    }

    /// The gates at which those sleep whom a wake is for.
    fn reached(&self, reach: Reach) -> &[Futex] {
        match reach {
            Reach::Nobody => &[],
            Reach::One(v) => std::slice::from_ref(self.gate(v)),
            Reach::All => &self.gates,
        }
    }

    /// Has an EMT come that is held in its sleep. The ring first: it must not get past its bell.
    pub(crate) fn fetch(&self, v: u32) {
        self.bells.ring(v);
        self.bells.let_go(v);
    }

    /// Whether a round waits for EMT `v`, or what one came to.
    pub(crate) fn pending(&self, v: u32) -> bool {
        self.gathers(v) || self.vcpu(v).is_some_and(|vcpu| vcpu.owed.load(SeqCst) != 0)
    }

    /// Whether EMT `v` has not seen to the outermost round.
    pub(crate) fn gathers(&self, v: u32) -> bool {
        let active = self.active.load(SeqCst);
        active != 0
            && self
                .vcpu(v)
                .is_some_and(|vcpu| vcpu.seen.load(SeqCst) != active)
    }

    /// Says that EMT `v` has seen to the outermost round. Under the lock.
    pub(crate) fn mark_seen(&self, v: u32) {
        if let Some(vcpu) = self.vcpu(v) {
            vcpu.seen.store(self.active.load(SeqCst), SeqCst);
        }
    }

    /// What rounds that EMT `v` slept through asked its loop to do, and forgets it.
    pub(crate) fn take_owed(&self, v: u32) -> Flow {
        let Some(vcpu) = self.vcpu(v) else {
            return Flow::Continue;
        };
        // The look before spares a locked instruction; whoever owes rings, and the bell orders it.
        if vcpu.owed.load(SeqCst) == 0 {
            return Flow::Continue;
        }
        flow_of(vcpu.owed.swap(0, SeqCst))
    }

    /// Keeps `flow` for EMT `v`'s next attendance. Under the lock; whoever does it rings.
    pub(crate) fn owe(&self, v: u32, flow: Flow) {
        if let Some(vcpu) = self.vcpu(v) {
            vcpu.owed.fetch_max(rank(flow), SeqCst);
        }
    }

    fn vcpu(&self, v: u32) -> Option<&Vcpu> {
        self.vcpus.get(usize::try_from(v).ok()?)
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
        if let Some(vcpu) = self.vcpu(v) {
            vcpu.owed.store(0, SeqCst); // the next EMT of this number owes nobody anything
        }
        // More than the outermost level: one that was fetched for a nested round may leave instead.
        for level in 0..board.depth {
            if board.rounds[level].is_member(v) {
                let nudge = board.rounds[level].drop_member(v);
                board.nudge(nudge);
                if board.rounds[level].is_empty() {
                    board.wake_owner(level); // nobody is left to do it on leaving
                }
            }
        }
        self.unlock(board);
    }
}

/// A flow as a number that grows with its urgency, 0 for none.
fn rank(flow: Flow) -> u32 {
    match flow {
        Flow::Continue => 0,
        Flow::Look => 1,
        Flow::Stop => 2,
    }
}

fn flow_of(rank: u32) -> Flow {
    match rank {
        0 => Flow::Continue,
        1 => Flow::Look,
        _ => Flow::Stop,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn neighbours_sleep_under_masks_of_their_own() {
        let masks = |bed: &dyn Fn(u32) -> Bed| (64..96).fold(0, |all, n| all | bed(n).mask());
        assert_eq!(masks(&Bed::Gate), u32::MAX);
        assert_eq!(masks(&|n| Bed::Home(n.into())), u32::MAX);
        assert_eq!(
            Bed::Gate(33).mask(),
            Bed::Gate(1).mask(),
            "its gate differs"
        );
    }

    #[test]
    fn wakes_for_two_are_wakes_for_all_and_for_one_twice_for_that_one() {
        let (one, two) = (Reach::One(1), Reach::One(2));
        assert_eq!(one.and(two), Reach::All);
        assert_eq!(one.and(one), one);
        assert_eq!(one.and(Reach::Nobody), one);
        assert_eq!(Reach::Nobody.and(two), two);
        assert_eq!(Reach::All.and(one), Reach::All);
    }
}
