// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A VM whose EMTs serve requests and park, or pretend to run a guest.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use vm_emt::{Bell, Bells, Emt, Flow, Kick, Phase};
use vm_req::{Dest, Queues, Ticket, Which};

/// What the vCPU of an EMT has to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Absent,
    /// Runs until it is kicked, again and again.
    Spins,
    /// Halts as soon as it runs.
    Halts,
    Halted,
}

pub(crate) struct Ctx {
    pub bell: Bell,
    pub(crate) queues: Arc<Queues<Ctx>>,
    /// What the request that runs asks of the loop.
    pub(crate) ask: Flow,
    /// What `process` answered the loop, other than to go on.
    pub(crate) asked: Vec<Flow>,
    pub(crate) log: Vec<&'static str>,
    pub(crate) served: u32,
    /// Turns of the loop so far, the one that runs included.
    pub(crate) turns: u32,
    pub(crate) guest: Guest,
    /// How often the guest was entered.
    pub(crate) entries: u32,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        self.served += 1;
        let queues = Arc::clone(&self.queues);
        queues.process(self, Which::Priority)
    }

    fn take_flow(&mut self) -> Flow {
        std::mem::take(&mut self.ask)
    }
}

pub(crate) struct Rig {
    pub(crate) bells: Arc<Bells>,
    pub(crate) queues: Arc<Queues<Ctx>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Deref for Rig {
    type Target = Queues<Ctx>;

    fn deref(&self) -> &Queues<Ctx> {
        &self.queues
    }
}

/// Lets a held EMT go when dropped or told to.
pub(crate) struct Hold {
    release: mpsc::Sender<()>,
    pub(crate) ticket: Ticket<()>,
}

impl Hold {
    pub(crate) fn release(mut self) {
        drop(self.release);
        assert_eq!(self.ticket.wait(None), Ok(()));
    }
}

impl Rig {
    pub(crate) fn new(count: u32) -> Self {
        let mut rig = Self::empty(count);
        for v in 0..count {
            rig.start(v);
        }
        rig
    }

    pub(crate) fn empty(count: u32) -> Self {
        let bells = Bells::new(count);
        let queues = Queues::new(bells.clone());
        Self {
            bells,
            queues,
            over: Arc::default(),
            threads: Vec::new(),
        }
    }

    pub(crate) fn start(&mut self, v: u32) {
        let (bells, queues) = (self.bells.clone(), self.queues.clone());
        let over = self.over.clone();
        let emt = move || run(bells.enroll(v).unwrap(), &queues, &over);
        self.threads
            .push(Builder::new().name(format!("emt-{v}")).spawn(emt).unwrap());
        assert!(self.bells.wait_live(v, None));
    }

    /// Keeps EMT `v` inside a request; it is inside when this returns.
    pub(crate) fn hold(&self, v: u32) -> Hold {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let ticket = self.post(Dest::Vcpu(v), move |_| {
            begin.send(()).unwrap();
            let _ended = released.recv();
        });
        begun.recv().unwrap();
        Hold { release, ticket }
    }

    /// Waits until EMT `v` is there.
    pub(crate) fn until(&self, v: u32, phase: Phase) {
        while self.bells.word(v).phase() != phase {
            std::thread::yield_now();
        }
    }

    /// Ends EMT `v`'s loop and waits until it has left.
    pub(crate) fn end(&self, v: u32) {
        let _detached = self.post(Dest::Vcpu(v), |me| me.ask = Flow::Stop);
        assert!(self.bells.wait_left(v, None));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.bells.ring_all();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Ends one run of a guest that spins.
#[derive(Debug, Default)]
struct Kicked(AtomicBool);

impl Kick for Kicked {
    fn kick(&self) {
        self.0.store(true, SeqCst);
    }
}

fn run(bell: Bell, queues: &Arc<Queues<Ctx>>, over: &AtomicBool) {
    let kick = Arc::new(Kicked::default());
    bell.install_kick(kick.clone());
    let mut me = Ctx {
        bell,
        queues: queues.clone(),
        ask: Flow::Continue,
        asked: Vec::new(),
        log: Vec::new(),
        served: 0,
        turns: 0,
        guest: Guest::Absent,
        entries: 0,
    };
    while !over.load(SeqCst) {
        me.turns += 1;
        me.bell.clear();
        match queues.process(&mut me, Which::All) {
            Flow::Stop => break,
            Flow::Look => me.asked.push(Flow::Look),
            Flow::Continue if over.load(SeqCst) => break,
            Flow::Continue => enter_or_park(&mut me, &kick.0),
        }
    }
}

fn enter_or_park(me: &mut Ctx, kicked: &AtomicBool) {
    if matches!(me.guest, Guest::Absent | Guest::Halted) {
        me.bell.park(None);
    } else if let Some(_in_guest) = me.bell.enter() {
        me.entries += 1;
        if me.guest == Guest::Halts {
            me.guest = Guest::Halted;
            return;
        }
        while !kicked.swap(false, SeqCst) {
            std::thread::yield_now();
        }
    }
}
