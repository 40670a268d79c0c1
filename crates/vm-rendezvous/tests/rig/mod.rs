// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A VM whose EMTs attend, serve requests, and park or pretend to run a guest.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use vm_emt::{Bell, Bells, Emt, Flow, Kick};
use vm_rendezvous::Rendezvous;
use vm_req::{Dest, Queues, Ticket, Which};

pub(crate) struct Ctx {
    pub(crate) bell: Bell,
    pub(crate) rendezvous: Arc<Rendezvous<Ctx>>,
    pub(crate) queues: Arc<Queues<Ctx>>,
    /// What the rendezvous answered the loop, other than to go on.
    pub(crate) flows: Vec<Flow>,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        let (rendezvous, queues) = (self.rendezvous.clone(), self.queues.clone());
        rendezvous
            .attend(self)
            .max(queues.process(self, Which::Priority))
    }
}

pub(crate) struct Rig {
    pub(crate) bells: Arc<Bells>,
    pub(crate) rendezvous: Arc<Rendezvous<Ctx>>,
    pub(crate) queues: Arc<Queues<Ctx>>,
    pub(crate) guests: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Deref for Rig {
    type Target = Rendezvous<Ctx>;

    fn deref(&self) -> &Rendezvous<Ctx> {
        &self.rendezvous
    }
}

/// Lets a held EMT go when told to.
pub(crate) struct Hold {
    release: mpsc::Sender<()>,
    ticket: Ticket<()>,
}

impl Hold {
    pub(crate) fn release(mut self) {
        drop(self.release);
        assert_eq!(self.ticket.wait(None), Ok(()));
    }
}

/// A guest that spins until it is kicked.
#[derive(Debug, Default)]
struct Kicked(AtomicBool);

impl Kick for Kicked {
    fn kick(&self) {
        self.0.store(true, SeqCst);
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
        Self {
            rendezvous: Rendezvous::new(bells.clone()),
            queues: Queues::new(bells.clone()),
            bells,
            guests: Arc::default(),
            over: Arc::default(),
            threads: Vec::new(),
        }
    }

    pub(crate) fn start(&mut self, v: u32) {
        let (bells, rendezvous) = (self.bells.clone(), self.rendezvous.clone());
        let (queues, over, guests) = (self.queues.clone(), self.over.clone(), self.guests.clone());
        let emt = move || {
            let bell = bells.enroll(v).unwrap();
            run(
                Ctx {
                    bell,
                    rendezvous,
                    queues,
                    flows: Vec::new(),
                },
                &over,
                &guests,
            );
        };
        self.threads
            .push(Builder::new().name(format!("emt-{v}")).spawn(emt).unwrap());
        assert!(self.bells.wait_live(v, None));
    }

    /// Keeps EMT `v` inside a request; it is inside when this returns.
    pub(crate) fn hold(&self, v: u32) -> Hold {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let ticket = self.queues.post(Dest::Vcpu(v), move |_| {
            begin.send(()).unwrap();
            let _ended = released.recv();
        });
        begun.recv().unwrap();
        Hold { release, ticket }
    }

    /// What rendezvous answered EMT `v`'s loop so far.
    pub(crate) fn flows(&self, v: u32) -> Vec<Flow> {
        self.queues
            .call(v, None, |me| std::mem::take(&mut me.flows))
            .unwrap()
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

fn run(mut me: Ctx, over: &AtomicBool, guests: &AtomicBool) {
    let (rendezvous, queues) = (me.rendezvous.clone(), me.queues.clone());
    let kick = Arc::new(Kicked::default());
    me.bell.install_kick(kick.clone());
    while !over.load(SeqCst) {
        me.bell.clear();
        let met = rendezvous.attend(&mut me);
        if met == Flow::Look {
            me.flows.push(met); // before a request can ask for it
        }
        let asked = queues.process(&mut me, Which::All);
        match met.max(asked) {
            Flow::Stop => break,
            Flow::Look if asked == Flow::Look => me.flows.push(asked),
            Flow::Look => {}
            Flow::Continue if over.load(SeqCst) => break,
            Flow::Continue if guests.load(SeqCst) => {
                if let Some(_guest) = me.bell.enter() {
                    while !kick.0.swap(false, SeqCst) {
                        std::thread::yield_now();
                    }
                }
            }
            Flow::Continue => {
                me.bell.park(None);
            }
        }
    }
}
