// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What destroy meets: another destroy, and requests that wait.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;

use common::{DESTROY, LIMIT, Machine, busy, spec, until};
use vm_core::{Component, Emt, Outcome, Vm, VmError};
use vm_state::State;

/// Tells when it is taken down.
struct Tells(mpsc::Sender<()>);

impl Component for Tells {
    fn name(&self) -> &'static str {
        "tells"
    }
    fn init(&mut self, _: &mut Emt) -> Outcome {
        Ok(())
    }
    fn term(&mut self, _: &mut Emt) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn a_second_destroy_is_refused_while_the_first_waits_for_an_emt() {
    let machine = Machine::new(busy());
    let (tell, taken_down) = mpsc::channel();
    let mut parts = machine.parts();
    parts.extra.push(Box::new(Tells(tell)));
    let vm = Vm::create(spec(2), parts).unwrap();
    vm.power_off().unwrap();
    let (begin, begun) = mpsc::channel();
    let (hold, held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let goes_on = Mutex::new(goes_on);
    // The first destroy goes no further than DESTROYING until EMT 1 is held.
    let _watches = vm.observe(move |change| {
        if change.new == State::Destroying {
            begin.send(()).unwrap();
            goes_on.lock().unwrap().recv().unwrap();
        }
    });
    thread::scope(|scope| {
        let first = scope.spawn(|| vm.destroy(DESTROY));
        begun.recv().unwrap();
        let vm = &vm;
        scope.spawn(move || {
            vm.on_emt(1, LIMIT, move |_| {
                hold.send(()).unwrap();
                released.recv().unwrap();
            })
        });
        held.recv().unwrap();
        go_on.send(()).unwrap();
        taken_down.recv().unwrap();
        let second = vm.destroy(DESTROY);
        let (alive, state) = (vm.bells().live(1), vm.state());
        release.send(()).unwrap();
        assert!(
            matches!(&second, Err(VmError::Refused { refused, .. })
                if refused.actual() == State::Destroying),
            "{second:?}"
        );
        assert!(alive, "EMT 1 was held");
        assert_eq!(state, State::Destroying);
        first.join().unwrap().unwrap();
    });
    assert_eq!(vm.state(), State::Terminated);
}

#[test]
fn sd_v09_requests_that_wait_when_the_vm_goes_each_end_once_and_nobody_hangs() {
    let machine = Machine::new(busy());
    let vm = Vm::create(spec(2), machine.parts()).unwrap();
    vm.power_off().unwrap();
    let (begin, begun) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let goes_on = Mutex::new(goes_on);
    let _watches = vm.observe(move |change| {
        if change.new == State::Destroying {
            begin.send(()).unwrap();
            goes_on.lock().unwrap().recv().unwrap();
        }
    });
    let (ran, calls) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        let (vm, ran, calls) = (&vm, &ran, &calls);
        let destroyed = scope.spawn(|| vm.destroy(DESTROY));
        begun.recv().unwrap();
        let (hold, held) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let holds = scope.spawn(move || {
            vm.on_emt(1, LIMIT, move |_| {
                hold.send(()).unwrap();
                released.recv().unwrap();
            })
        });
        held.recv().unwrap();
        // Three threads, whose requests wait behind the one that holds the EMT; then the VM goes.
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    calls.fetch_add(1, SeqCst);
                    let first = vm.on_emt(1, LIMIT, |_| ran.fetch_add(1, SeqCst));
                    let later = loop {
                        // Until the VM has gone, there may be one more.
                        match vm.on_emt(1, LIMIT, |_| ran.fetch_add(1, SeqCst)) {
                            Ok(_) => calls.fetch_add(1, SeqCst),
                            Err(e) => break e,
                        };
                    };
                    (first, later)
                })
            })
            .collect();
        until("three threads call", || calls.load(SeqCst) >= 3);
        go_on.send(()).unwrap();
        release.send(()).unwrap();
        holds.join().unwrap().unwrap();
        let mut killed = 0;
        for thread in waiting {
            let (first, later) = thread.join().unwrap();
            assert!(matches!(later, VmError::Gone { .. }), "{later:?}");
            if let Err(e) = first {
                assert!(matches!(e, VmError::Gone { .. }), "{e:?}");
                killed += 1;
            }
        }
        let answered = calls.load(SeqCst) - killed;
        assert_eq!(
            ran.load(SeqCst),
            answered,
            "each that was answered ran once"
        );
        destroyed.join().unwrap().unwrap();
    });
    assert_eq!(vm.state(), State::Terminated);
}
