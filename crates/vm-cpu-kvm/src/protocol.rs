// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kick: taking a vCPU's thread out of `KVM_RUN`, or keeping it out, with none lost and without
//! undefined behaviour. This is the answer to rust-vmm/kvm#373.
//!
//! **The problem.** A signal alone is not enough: one that lands after the thread's last look at its
//! doorbell and before `KVM_RUN` runs its handler and is gone, and the guest then runs until its next
//! exit. KVM has `immediate_exit` in the run page for this: if it is set, `KVM_RUN` returns at once.
//! But another thread has to store to it while the vCPU's thread is inside `KVM_RUN`, and a wrapper
//! that hands out `&mut kvm_run` (or whose run method takes `&mut self` and makes one) makes that
//! store a second, aliasing access: undefined behaviour in Rust, whatever the machine does.
//!
//! **Aliasing.** No reference to `kvm_run` exists here (`run_page`). Fields of the vCPU's thread are
//! read and written through a raw pointer, `immediate_exit` only as an `AtomicU8`; those are disjoint
//! bytes. The mapping is reference-counted, so a late kick stores to memory that is still mapped.
//!
//! **No kick is lost.** A kick does (k1) `immediate_exit |= KICKED`, (k2) look whether a thread is
//! published, (k3) signal it. The vCPU does (v1) publish its thread, (v2) `KVM_RUN`, which looks at
//! `immediate_exit`, (v3) take `immediate_exit`, (v4) withdraw its thread. All are sequentially
//! consistent. If k2 sees no thread, then k1 precedes k2 precedes v1 precedes v2 in that order: the
//! next `KVM_RUN` sees the byte and returns. If k2 sees the thread, a signal arrives after k1: before
//! `KVM_RUN` it is harmless, since v2 sees the byte; in `KVM_RUN` it ends guest execution with
//! `EINTR`. A kick between v2 and v3 is used up by this very return. A kick after v3 leaves the
//! byte set for the next `KVM_RUN`. In each case the kick ends this `run` or the next one, which is
//! what `Vcpu::run` promises; the caller publishes its reason before the kick and looks for it
//! after the return.
//!
//! **Kicks merge.** A kick that finds the byte set already leaves the signal to whoever set it: that
//! kicker is on its way from k1 to k3. Without this, kickers without end could deliver signals faster
//! than the vCPU's thread can handle them, and it would never get to v3.
//!
//! **No wrong thread.** A thread number may be reused as soon as its thread ends, so k3 must not
//! happen later than that. k2 and k3 are bracketed by an increment and a decrement of `signallers`;
//! v4 withdraws the number and then waits until `signallers` is 0. If a kicker saw the number, its
//! increment precedes the withdrawal, so v4 waits for its decrement: the thread is still inside
//! `Vcpu::run`, hence alive, when it is signalled. The wait is a futex wait and is only as long as
//! other threads take to come out of tgkill(2), which does not block. It needs neither a handle that
//! someone must not join (`pthread_t`) nor a kernel that has pidfds of threads (Linux 6.9).
//!
//! `tests/loom.rs` runs this file's code through all interleavings of a vCPU and its kickers, and
//! shows that they notice a kick without its byte, an entry without its withdrawal and a withdrawal
//! that nobody wakes.

use crate::sync::{
    AtomicU8, AtomicU32,
    Ordering::{Relaxed, SeqCst},
    fence,
};

/// In `immediate_exit`: somebody kicked. Stays until `run` returns.
const KICKED: u8 = 1;
/// In `immediate_exit`: the vCPU's own thread settles.
const SETTLING: u8 = 2;

/// Looks at `signallers` before the vCPU's thread blocks: a kicker is usually nearly through.
const SPINS: u32 = if cfg!(loom) { 0 } else { 64 };

/// What the protocol stands on: the kernel, or a model of it.
pub(crate) trait Ground: Send + Sync + std::fmt::Debug {
    /// The run page's `immediate_exit`.
    fn immediate_exit(&self) -> &AtomicU8;
    /// Signals a thread, which lives.
    fn signal(&self, tid: u32);
    /// Blocks while `word` is `value`, or for less.
    fn wait(&self, word: &AtomicU32, value: u32);
    /// Ends all waits at `word`.
    fn wake(&self, word: &AtomicU32);
}

/// The kickable side of one vCPU.
#[derive(Debug)]
pub(crate) struct Target<G> {
    ground: G,
    /// Thread inside `run`, 0 for none.
    tid: AtomicU32,
    /// Kickers between their look at `tid` and the end of their signal.
    signallers: AtomicU32,
    /// 1 while the vCPU's thread waits for them.
    draining: AtomicU32,
}

impl<G: Ground> Target<G> {
    /// Nobody inside, nobody kicking.
    pub(crate) fn new(ground: G) -> Self {
        Self {
            ground,
            tid: AtomicU32::new(0),
            signallers: AtomicU32::new(0),
            draining: AtomicU32::new(0),
        }
    }

    fn byte(&self) -> &AtomicU8 {
        self.ground.immediate_exit()
    }

    /// Publishes the calling thread: from here on a kick signals it (v1).
    pub(crate) fn publish(&self, tid: u32) {
        self.tid.store(tid, SeqCst);
        fence(SeqCst);
    }

    /// Takes the kick, if there is one (v3).
    pub(crate) fn take(&self) -> bool {
        self.byte().swap(0, SeqCst) & KICKED != 0
    }

    /// Withdraws the thread (v4). Afterwards no kicker holds its number.
    pub(crate) fn withdraw(&self) {
        self.tid.store(0, SeqCst);
        fence(SeqCst);
        for _ in 0..SPINS {
            if self.signallers.load(SeqCst) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        self.draining.store(1, SeqCst);
        fence(SeqCst);
        loop {
            let inside = self.signallers.load(SeqCst);
            if inside == 0 {
                break;
            }
            self.ground.wait(&self.signallers, inside);
        }
        // Only this thread looks for its own 1 here; a kicker that still sees it wakes in vain.
        self.draining.store(0, Relaxed);
    }

    /// Makes the next `KVM_RUN` finish the pending exit and nothing else.
    pub(crate) fn begin_settling(&self) {
        self.byte().fetch_or(SETTLING, SeqCst);
    }

    /// Ends that. A kick made meanwhile stays.
    pub(crate) fn end_settling(&self) {
        self.byte().fetch_and(!SETTLING, SeqCst);
    }

    /// Kicks.
    pub(crate) fn kick(&self) {
        if self.set_byte() {
            self.signal();
        }
    }

    /// Step k1. Whether this kick is the first, whose kicker signals.
    pub(crate) fn set_byte(&self) -> bool {
        let first = self.byte().fetch_or(KICKED, SeqCst) & KICKED == 0;
        fence(SeqCst);
        first
    }

    /// Steps k2 and k3. Alone it is the kick that loses.
    pub(crate) fn signal(&self) {
        // Saves the bracket where there is nobody to signal, so that kicks without end cannot keep
        // `withdraw` waiting.
        if self.tid.load(SeqCst) == 0 {
            return;
        }
        self.signallers.fetch_add(1, SeqCst);
        fence(SeqCst);
        let tid = self.tid.load(SeqCst);
        if tid != 0 {
            self.ground.signal(tid);
        }
        let others = self.signallers.fetch_sub(1, SeqCst) - 1;
        fence(SeqCst);
        // Pairs with `withdraw`: it stores `draining` and then looks at `signallers`, so one of the
        // two sides sees the other. A wake-up too many is harmless.
        if others == 0 && self.draining.load(SeqCst) != 0 {
            self.ground.wake(&self.signallers);
        }
    }
}
