// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The rendezvous as initiators and EMTs see it, typed by the EMT context.

// UNSAFETY: callbacks are erased by type; this is where their context type is C on both sides.
#![expect(
    unsafe_code,
    reason = "pairs each callback's context type with the EMT's"
)]

use std::cell::LazyCell;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vm_emt::{Bells, Emt, Flow, serve_until};

use crate::board::{Bed, Shared, Who};
use crate::error::{MeetError, Met};
use crate::how::How;
use crate::initiator::Open;
use crate::op::{Op, Outcome};
use crate::round::{Stage, Summary};

/// The rendezvous of one VM; `C` is the embedder's EMT context.
pub struct Rendezvous<C> {
    shared: Arc<Shared>,
    context: PhantomData<fn(&mut C)>,
}

/// The first failure of a round, kept on its initiator's stack.
type FirstFailure<E> = Mutex<Option<MeetError<E>>>;

/// How a round ended, and who was missing.
type End = (Summary, Option<u32>);

impl<C: Emt> Rendezvous<C> {
    /// The rendezvous of the VM that `bells` belongs to.
    #[must_use]
    pub fn new(bells: Arc<Bells>) -> Arc<Self> {
        Arc::new(Self {
            shared: Shared::new(bells),
            context: PhantomData,
        })
    }

    /// Brings all live EMTs together, runs `op` on each as `how` says, and returns when all have
    /// left. No callback begins before every EMT is held, so none is in the guest meanwhile.
    /// Initiators have their turns in the order in which they came.
    ///
    /// # Errors
    /// [`MeetError`]. With `Late` and `NoEmts` no callback ran.
    ///
    /// # Thread
    /// Any but an EMT of this VM, which uses [`meet_from`](Self::meet_from). Not while holding a lock
    /// that an EMT may want.
    pub fn meet<E: Send>(
        &self,
        how: impl Into<How>,
        op: impl Fn(&mut C) -> Result<Flow, E> + Sync,
    ) -> Result<Met, MeetError<E>> {
        if self.shared.bells.current().is_some() {
            return Err(MeetError::OnEmt);
        }
        let how = how.into();
        let deadline = Instant::now().checked_add(how.limit);
        let Some(place) = self.shared.queue_up(Who::Thread) else {
            return Err(MeetError::Deadlock);
        };
        if !place.wait(|| deadline) {
            return Err(self.blame());
        }
        let failure = FirstFailure::new(None);
        let callback = |me: &mut C, v: u32| guarded(&op, &failure, me, v);
        #[cfg(any(loom, shuttle))]
        if self.shared.bells.fault() == vm_emt::Fault::PublishAfterRing {
            self.shared.bells.ring_all();
        }
        let op = Op::new::<C, _>(&callback);
        let open = self
            .shared
            .open_outermost(&place, how, Some(op), None, place.bed());
        let end = open.end(deadline);
        self.answer(end, failure)
    }

    /// Runs `op` here, on the calling thread, while all live EMTs are held: for what no EMT's context
    /// is needed. An EMT that is parked is held in its sleep: it costs one compare-and-swap there and
    /// one atomic instruction back, no wake-up. Takes its turn among the other initiators. What `op`
    /// answers, every EMT's loop is asked to do; those that slept are woken if it is more than
    /// [`Flow::Continue`], and may hear of it after this has returned. `limit` is for gathering, as
    /// [`How::limit`].
    ///
    /// # Errors
    /// [`MeetError`]: `Late`, `NoEmts`, `OnEmt`, and `Deadlock` inside another `meet_here` of this VM.
    /// Then `op` did not run.
    ///
    /// # Panics
    /// A panic of `op` goes on to the caller, after the EMTs were let go.
    ///
    /// # Thread
    /// Any but an EMT of this VM, for which [`meet_from`](Self::meet_from) with [`How::once`] does the
    /// same. `op` must not wait for an EMT, as a request does: all are held.
    pub fn meet_here(
        &self,
        limit: Duration,
        op: impl FnOnce() -> Flow,
    ) -> Result<Met, MeetError<Infallible>> {
        if self.shared.bells.current().is_some() {
            return Err(MeetError::OnEmt);
        }
        let how = How::here().limit(limit);
        // The clock costs as much as holding two EMTs: only who has to wait looks at it.
        let deadline = LazyCell::new(|| Instant::now().checked_add(limit));
        let Some(place) = self.shared.queue_up(Who::Thread) else {
            return Err(MeetError::Deadlock);
        };
        if !place.wait(|| *deadline) {
            return Err(self.blame());
        }
        let open = self
            .shared
            .open_outermost(&place, how, None, None, place.bed());
        let end = if open.gathered(|| *deadline) {
            let flow = op();
            open.end_here(flow)
        } else {
            open.end(None)
        };
        self.answer(end, FirstFailure::new(None))
    }

    /// [`meet`](Self::meet) from an EMT, which takes part. Inside a callback whose round has turns
    /// (all but together) it nests, three levels deep at most. While it waits for its turn behind
    /// other initiators, `me` takes part in their rounds and serves what cannot wait.
    ///
    /// # Errors
    /// [`MeetError`]; `Deadlock` where nesting is not possible.
    ///
    /// # Panics
    /// If `me` is an EMT of another VM.
    ///
    /// # Thread
    /// The EMT's own.
    pub fn meet_from<E: Send>(
        &self,
        me: &mut C,
        how: impl Into<How>,
        op: impl Fn(&mut C) -> Result<Flow, E> + Sync,
    ) -> Result<Met, MeetError<E>> {
        let v = self.own_id(me);
        let how = how.into();
        let deadline = Instant::now().checked_add(how.limit);
        let failure = FirstFailure::new(None);
        let callback = |me: &mut C, v: u32| guarded(&op, &failure, me, v);
        let op = Op::new::<C, _>(&callback);
        if me.bell().in_meeting() {
            let Some(open) = self.shared.open_nested(how, op, v) else {
                return Err(MeetError::Deadlock);
            };
            let end = self.conclude(me, open, deadline, Flow::Continue);
            return self.answer_emt(me, end, failure);
        }
        let Some(place) = self.shared.queue_up(Who::Emt(v)) else {
            return Err(MeetError::Deadlock); // not on an EMT
        };
        let mut flow = Flow::Continue;
        let first = serve_until(me, deadline, |me| {
            flow = flow.max(self.attend(me));
            place.is_first()
        });
        if !first {
            me.bell().keep(flow);
            return Err(self.blame());
        }
        let open = self
            .shared
            .open_outermost(&place, how, Some(op), Some(v), Bed::Gate(v));
        let end = self.conclude(me, open, deadline, flow);
        self.answer_emt(me, end, failure)
    }

    /// Takes part in the rendezvous that waits for this EMT, if any. All EMTs of a round return the
    /// same [`Flow`], except that what was [kept](vm_emt::Bell::keep) on this EMT is merged in, and
    /// what rounds asked for that it slept through.
    ///
    /// # Panics
    /// If `me` is an EMT of another VM. A panic of a callback does not come through.
    ///
    /// # Thread
    /// The EMT's own; sleeps until the round is over.
    pub fn attend(&self, me: &mut C) -> Flow {
        let v = self.own_id(me);
        let kept = me.bell().take_kept().max(self.shared.take_owed(v));
        if !self.shared.gathers(v) {
            return kept;
        }
        let mut board = self.shared.lock();
        if !self.shared.gathers(v) {
            return kept; // withdrawn between the two looks
        }
        let round = &mut board.rounds[0];
        match round.stage() {
            Stage::Gathering => {
                round.add_member(v); // it may have enrolled since the round was opened
                kept.max(self.take_part(me, v, 0, None, board))
            }
            Stage::Running if round.is_member(v) => {
                // Held in its sleep until now; a nested round needs it.
                kept.max(self.take_part(me, v, 0, None, board))
            }
            Stage::Running => {
                self.shared.stand_by(v, board);
                kept.max(Flow::Look)
            }
            Stage::Over | Stage::Withdrawn => {
                self.shared.mark_seen(v);
                kept
            }
        }
    }

    /// Whether a rendezvous waits for EMT `v`, or what one asked for that it slept through.
    #[must_use]
    pub fn pending(&self, v: u32) -> bool {
        self.shared.pending(v)
    }

    fn take_part(
        &self,
        me: &mut C,
        v: u32,
        level: usize,
        deadline: Option<Instant>,
        board: crate::sync::MutexGuard<'_, crate::board::Board>,
    ) -> Flow {
        me.bell().begin_meeting();
        let flow = self.shared.take_part(board, v, level, deadline, &mut |op| {
            // SAFETY: the round is open, so its initiator keeps the callback alive; it was made for C.
            unsafe { op.run(me, v) }
        });
        me.bell().end_meeting();
        flow
    }

    /// The initiating EMT takes part, then waits until the others have left: until then the callback
    /// and the failure it notes stay where they are.
    fn conclude(
        &self,
        me: &mut C,
        open: Open<'_>,
        deadline: Option<Instant>,
        before: Flow,
    ) -> (End, Flow) {
        let v = me.bell().id();
        let flow = self
            .take_part(me, v, open.level(), deadline, self.shared.lock())
            .max(before);
        (open.end(None), flow)
    }

    fn answer_emt<E>(
        &self,
        me: &mut C,
        (end, flow): (End, Flow),
        failure: FirstFailure<E>,
    ) -> Result<Met, MeetError<E>> {
        match self.answer(end, failure) {
            Ok(met) => Ok(Met {
                flow: met.flow.max(flow),
                ..met
            }),
            Err(error) => {
                me.bell().keep(flow);
                Err(error)
            }
        }
    }

    fn answer<E>(
        &self,
        (summary, missing): End,
        failure: FirstFailure<E>,
    ) -> Result<Met, MeetError<E>> {
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        match missing {
            Some(vcpu) => Err(self.late(vcpu)),
            None if summary.held == 0 => Err(MeetError::NoEmts),
            None => Ok(Met {
                flow: summary.flow,
                held: summary.held,
                ran: summary.ran,
            }),
        }
    }

    /// The error of an initiator whose turn did not come: whoever holds the round before it.
    fn blame<E>(&self) -> MeetError<E> {
        let holder = {
            let board = self.shared.lock();
            board.rounds[..board.depth]
                .last()
                .and_then(crate::round::Round::holder)
        };
        self.late(holder.unwrap_or(0))
    }

    fn late<E>(&self, vcpu: u32) -> MeetError<E> {
        let bells = &self.shared.bells;
        let (exit, rip) = bells.last_exit(vcpu);
        MeetError::Late {
            vcpu,
            word: bells.word(vcpu),
            exit,
            rip,
        }
    }

    fn own_id(&self, me: &C) -> u32 {
        let bell = me.bell();
        assert!(
            Arc::ptr_eq(bell.bells(), &self.shared.bells),
            "the EMT context belongs to another VM than this rendezvous"
        );
        bell.id()
    }
}

impl<C> std::fmt::Debug for Rendezvous<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous")
            .field("shared", &self.shared)
            .finish()
    }
}

/// Runs one callback; its failure or panic is noted if it is the round's first.
fn guarded<C, E>(
    op: &impl Fn(&mut C) -> Result<Flow, E>,
    failure: &FirstFailure<E>,
    me: &mut C,
    vcpu: u32,
) -> Outcome {
    let error = match catch_unwind(AssertUnwindSafe(|| op(me))) {
        Ok(Ok(flow)) => return Outcome::Done(flow),
        Ok(Err(error)) => MeetError::Failed { vcpu, error },
        Err(payload) => {
            // A payload may panic when dropped; such a one is leaked rather than let loose here.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            MeetError::Panicked { vcpu }
        }
    };
    let later = {
        let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
            None
        } else {
            Some(error)
        }
    };
    // A later failure is dropped outside the lock, and its Drop must not take the round with it.
    let _panicked = catch_unwind(AssertUnwindSafe(|| drop(later))).map_err(std::mem::forget);
    Outcome::Failed
}
