// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The same loop on a doorbell, request queues and a rendezvous.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use port_your_pause::{Fallible, Guest};
use vm_emt::{Bell, Bells, Flow};
use vm_rendezvous::{How, MeetError, Met, Rendezvous};
use vm_req::{CallError, Queues, Which};

use crate::kick::Door;

/// A vCPU's thread, as requests and callbacks see it.
pub struct Emt {
    pub bell: Bell,
    pub vcpu: VcpuFd,
}

impl vm_emt::Emt for Emt {
    fn bell(&self) -> &Bell {
        &self.bell
    }
    fn serve(&mut self) -> Flow {
        Flow::Continue // no vCPU of this VMM waits for another
    }
}

pub struct Vm {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    bells: Arc<Bells>,
    queues: Arc<Queues<Emt>>,
    rendezvous: Arc<Rendezvous<Emt>>,
    paused: AtomicBool,
    over: AtomicBool,
}

impl Shared {
    fn run(&self, mut me: Emt, door: &Door, guest: &Guest) {
        loop {
            me.bell.clear(); // clear first, then look at everything
            self.rendezvous.attend(&mut me);
            self.queues.process(&mut me, Which::All);
            if self.over.load(SeqCst) {
                break;
            }
            if self.paused.load(SeqCst) {
                me.bell.park(None);
            } else if let Some(_inside) = me.bell.enter() {
                guest.at_door(me.bell.id());
                let _exit = me.vcpu.run(); // a real VMM handles it after the next line
                door.shut();
            }
        }
    }
}

impl Vm {
    pub fn start(guest: &Arc<Guest>) -> Fallible<Self> {
        let bells = Bells::new(guest.vcpus);
        let shared = Arc::new(Shared {
            queues: Queues::new(bells.clone()),
            rendezvous: Rendezvous::new(bells.clone()),
            bells: bells.clone(),
            paused: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for v in 0..guest.vcpus {
            let (vcpu, guest, shared) = (guest.vcpu(v)?, guest.clone(), shared.clone());
            let door = Arc::new(Door::new(&vcpu)?);
            threads.push(Builder::new().name(format!("emt-{v}")).spawn(move || {
                let bell = shared.bells.enroll(v).expect("each vCPU has one thread");
                door.opens_on_this_thread();
                bell.install_kick(door.clone());
                shared.run(Emt { bell, vcpu }, &door, &guest);
            })?);
            assert!(bells.wait_live(v, None), "no limit");
        }
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    pub fn pause(&self, limit: Duration) -> Result<Met, MeetError<Infallible>> {
        self.shared.rendezvous.meet(How::once().limit(limit), |_| {
            self.shared.paused.store(true, SeqCst);
            Ok(Flow::Look)
        })
    }

    pub fn resume(&self) {
        self.shared.paused.store(false, SeqCst);
        self.shared.bells.ring_all();
    }

    /// Runs `op` on a vCPU's thread.
    pub fn call<T: Send>(
        &self,
        v: u32,
        limit: Duration,
        op: impl FnOnce(&mut Emt) -> T + Send,
    ) -> Result<T, CallError> {
        self.shared.queues.call(v, Some(limit), op)
    }

    /// Runs `op` on all vCPUs while all are out of the guest.
    pub fn meet(
        &self,
        limit: Duration,
        op: impl Fn(&mut Emt) + Sync,
    ) -> Result<Met, MeetError<Infallible>> {
        self.shared.rendezvous.meet(How::together().limit(limit), |me| {
            op(me);
            Ok(Flow::Continue)
        })
    }

    /// Ends the threads.
    pub fn stop(&self) {
        self.shared.over.store(true, SeqCst);
        self.shared.queues.close();
        self.shared.bells.ring_all();
        for thread in std::mem::take(&mut *self.threads.lock().expect("no panic")) {
            thread.join().expect("no panic");
        }
    }
}
