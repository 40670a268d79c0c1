// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small vCPU loop built on a doorbell, request queues and a rendezvous.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vm_emt::{Bell, Bells, Emt, Flow, Kick};
use vm_rendezvous::kit::{EntryHook, MeetOp, Op, Trouble, VcpuLoop};
use vm_rendezvous::{How, MeetError, Rendezvous};
use vm_req::{CallError, Queues, Which};

use super::Guest;

#[derive(Debug)]
struct Leave(Arc<Guest>);

impl Kick for Leave {
    fn kick(&self) {
        self.0.kick();
    }
}

/// What all threads of the VM share.
#[derive(Debug)]
struct Shared {
    bells: Arc<Bells>,
    queues: Arc<Queues<Ctx>>,
    rendezvous: Arc<Rendezvous<Ctx>>,
    suspended: AtomicBool,
    over: AtomicBool,
    guests: Vec<Arc<Guest>>,
}

struct Ctx {
    bell: Bell,
}

impl Emt for Ctx {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        Flow::Continue // no EMT of this VM waits for another
    }
}

#[derive(Debug)]
pub(crate) struct Ours {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ours {
    pub(crate) fn new(vcpus: u32) -> Self {
        let bells = Bells::new(vcpus);
        let shared = Arc::new(Shared {
            queues: Queues::new(bells.clone()),
            rendezvous: Rendezvous::new(bells.clone()),
            bells,
            suspended: AtomicBool::new(false),
            over: AtomicBool::new(false),
            guests: (0..vcpus).map(|_| Arc::default()).collect(),
        });
        let start = |v: u32| {
            let emt = {
                let shared = shared.clone();
                move || emt(&shared, v)
            };
            let thread = Builder::new().name(format!("emt-{v}")).spawn(emt).unwrap();
            assert!(shared.bells.wait_live(v, None));
            thread
        };
        let threads = (0..vcpus).map(start).collect();
        Self {
            shared,
            threads: Mutex::new(threads),
        }
    }
}

fn emt(shared: &Shared, v: u32) {
    let guest = shared.guests[v as usize].clone();
    let bell = shared.bells.enroll(v).unwrap();
    bell.install_kick(Arc::new(Leave(guest.clone())));
    let mut me = Ctx { bell };
    while !shared.over.load(SeqCst) {
        me.bell.clear();
        // What both answer is not needed: the loop looks at its flags each time.
        shared.rendezvous.attend(&mut me);
        shared.queues.process(&mut me, Which::All);
        if shared.suspended.load(SeqCst) && !shared.over.load(SeqCst) {
            me.bell.park(None);
        } else if let Some(_inside) = me.bell.enter() {
            guest.at_door();
            guest.run();
        }
    }
}

fn from_meeting(error: MeetError<Infallible>) -> Trouble {
    match error {
        MeetError::Late { vcpu, .. } => Trouble::Late { vcpu },
        MeetError::NoEmts => Trouble::Ended,
        other => Trouble::Refused(other.to_string()),
    }
}

impl VcpuLoop for Ours {
    fn vcpus(&self) -> u32 {
        self.shared.bells.count()
    }

    fn suspend(&self, limit: Duration) -> Result<(), Trouble> {
        let set = |_: &mut Ctx| {
            self.shared.suspended.store(true, SeqCst);
            Ok(Flow::Look)
        };
        let met = self.shared.rendezvous.meet(How::once().limit(limit), set);
        met.map(drop).map_err(from_meeting)
    }

    fn resume(&self) -> Result<(), Trouble> {
        self.shared.suspended.store(false, SeqCst);
        self.shared.bells.ring_all();
        Ok(())
    }

    fn call(&self, vcpu: u32, limit: Duration, op: Op) -> Result<u64, Trouble> {
        let answer = self.shared.queues.call(vcpu, Some(limit), |_| op());
        answer.map_err(|error| match error {
            CallError::Timeout { vcpu, .. } => Trouble::Late { vcpu },
            CallError::Killed | CallError::NotLive { .. } => Trouble::Ended,
            other => Trouble::Refused(other.to_string()),
        })
    }

    fn progress(&self, vcpu: u32) -> u64 {
        self.shared.guests[vcpu as usize].progress.load(SeqCst)
    }

    fn destroy(&self) {
        self.shared.over.store(true, SeqCst);
        self.shared.queues.close();
        self.shared.bells.ring_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn meet(&self, limit: Duration, op: MeetOp) -> Result<(), Trouble> {
        let run = |me: &mut Ctx| {
            op(me.bell.id());
            Ok(Flow::Continue)
        };
        let met = self
            .shared
            .rendezvous
            .meet(How::together().limit(limit), run);
        met.map(drop).map_err(from_meeting)
    }

    fn hook_entry(&self, vcpu: u32, hook: EntryHook) -> bool {
        self.shared.guests[vcpu as usize].set_hook(hook);
        true
    }

    fn exits(&self, vcpu: u32) -> Option<u64> {
        Some(self.shared.guests[vcpu as usize].exits.load(SeqCst))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.destroy();
    }
}
