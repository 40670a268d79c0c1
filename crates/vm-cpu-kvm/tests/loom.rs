// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kick's protocol in all interleavings: `src/protocol.rs` on a model of the kernel, whose
//! `KVM_RUN` blocks until a signal, as with a guest that never leaves by itself.
//!
//! Run with `RUSTFLAGS="--cfg loom"`. A lost kick shows as a deadlock.
#![cfg(loom)]

#[path = "../src/protocol.rs"]
mod protocol;
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
}

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::SeqCst;
use loom::sync::{Arc, Condvar, Mutex};

use protocol::{Ground, Target};
use sync::{AtomicU8, AtomicU32};

const TID: u32 = 7;

/// A kernel with one thread that can be signalled.
#[derive(Debug)]
struct Model {
    immediate_exit: AtomicU8,
    thread_lives: AtomicBool,
    signal_pending: Mutex<bool>,
    signalled: Condvar,
    futex: Mutex<()>,
    woken: Condvar,
    wakes: Wakes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakes {
    AsTheKernel,
    Never,
}

impl Model {
    fn new(wakes: Wakes) -> Self {
        Self {
            immediate_exit: AtomicU8::new(0),
            thread_lives: AtomicBool::new(true),
            signal_pending: Mutex::new(false),
            signalled: Condvar::new(),
            futex: Mutex::new(()),
            woken: Condvar::new(),
            wakes,
        }
    }

    /// A signal that came before the call has run its handler and is gone.
    fn kvm_run(&self) {
        *self.signal_pending.lock().unwrap() = false;
        if self.immediate_exit.load(SeqCst) != 0 {
            return;
        }
        let mut pending = self.signal_pending.lock().unwrap();
        while !*pending {
            pending = self.signalled.wait(pending).unwrap();
        }
    }
}

impl Ground for Arc<Model> {
    fn immediate_exit(&self) -> &AtomicU8 {
        &self.immediate_exit
    }

    fn signal(&self, tid: u32) {
        assert_eq!(tid, TID);
        assert!(
            self.thread_lives.load(SeqCst),
            "signalled a thread that is gone"
        );
        *self.signal_pending.lock().unwrap() = true;
        self.signalled.notify_all();
    }

    fn wait(&self, word: &AtomicU32, value: u32) {
        let queue = self.futex.lock().unwrap();
        if word.load(SeqCst) == value {
            drop(self.woken.wait(queue).unwrap());
        }
    }

    fn wake(&self, _: &AtomicU32) {
        if self.wakes == Wakes::Never {
            return;
        }
        drop(self.futex.lock().unwrap());
        self.woken.notify_all();
    }
}

/// One vCPU with its kernel.
#[derive(Debug, Clone)]
struct Vcpu {
    model: Arc<Model>,
    target: Arc<Target<Arc<Model>>>,
}

impl Vcpu {
    fn new(wakes: Wakes) -> Self {
        let model = Arc::new(Model::new(wakes));
        let target = Arc::new(Target::new(Arc::clone(&model)));
        Self { model, target }
    }

    /// Enters once, as `Vcpu::run` does.
    fn enter(&self) -> bool {
        self.target.publish(TID);
        self.model.kvm_run();
        let kicked = self.target.take();
        self.target.withdraw();
        kicked
    }

    fn end_thread(&self) {
        self.model.thread_lives.store(false, SeqCst);
    }

    /// `kick` on another thread, `entries` on this one, in all interleavings.
    fn explore(wakes: Wakes, kick: fn(&Self), entries: fn(&Self)) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(3)); // LOOM_MAX_PREEMPTIONS overrides
        builder.check(move || {
            let vcpu = Self::new(wakes);
            let kicker = loom::thread::spawn({
                let vcpu = vcpu.clone();
                move || kick(&vcpu)
            });
            entries(&vcpu);
            kicker.join().unwrap();
        });
    }
}

fn enter_once_and_end(vcpu: &Vcpu) {
    assert!(vcpu.enter(), "only a kick ends this entry");
    vcpu.end_thread();
}

#[test]
fn a_kick_at_any_moment_ends_the_entry_and_signals_nobody_else() {
    Vcpu::explore(
        Wakes::AsTheKernel,
        |vcpu| vcpu.target.kick(),
        enter_once_and_end,
    );
}

#[test]
fn a_kick_while_settling_ends_the_next_entry() {
    let entries = |vcpu: &Vcpu| {
        vcpu.target.begin_settling();
        vcpu.model.kvm_run();
        vcpu.target.end_settling();
        enter_once_and_end(vcpu);
    };
    Vcpu::explore(Wakes::AsTheKernel, |vcpu| vcpu.target.kick(), entries);
}

#[test]
fn kicks_of_two_threads_merge_and_neither_reason_is_missed() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2)); // LOOM_MAX_PREEMPTIONS overrides
    builder.check(|| {
        let vcpu = Vcpu::new(Wakes::AsTheKernel);
        let reasons = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let kickers: Vec<_> = (0..2)
            .map(|i| {
                let (vcpu, reasons) = (vcpu.clone(), Arc::clone(&reasons));
                loom::thread::spawn(move || {
                    reasons[i].store(true, SeqCst);
                    vcpu.target.kick();
                })
            })
            .collect();
        while !reasons.iter().all(|reason| reason.load(SeqCst)) {
            vcpu.enter();
        }
        vcpu.end_thread();
        kickers
            .into_iter()
            .for_each(|kicker| kicker.join().unwrap());
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_without_its_byte_is_noticed() {
    Vcpu::explore(
        Wakes::AsTheKernel,
        |vcpu| vcpu.target.signal(),
        |vcpu| {
            vcpu.enter();
        },
    );
}

#[test]
#[should_panic(expected = "signalled a thread that is gone")]
fn an_entry_without_its_withdrawal_is_noticed() {
    let entries = |vcpu: &Vcpu| {
        vcpu.target.publish(TID);
        vcpu.model.kvm_run();
        vcpu.target.take();
        vcpu.end_thread();
    };
    Vcpu::explore(Wakes::AsTheKernel, |vcpu| vcpu.target.kick(), entries);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_withdrawal_that_nobody_wakes_is_noticed() {
    Vcpu::explore(Wakes::Never, |vcpu| vcpu.target.kick(), enter_once_and_end);
}
