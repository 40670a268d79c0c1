// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU loop as one finds it: a flag, a signal, a channel there and a channel back.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use port_your_pause::{Fallible, Guest};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

type Op = Box<dyn FnOnce(&VcpuFd) -> u64 + Send>;

pub struct Vm {
    paused: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    cpus: Vec<Cpu>,
}

struct Cpu {
    thread: JoinHandle<()>,
    requests: Sender<Op>,
    replies: Mutex<Receiver<u64>>,
}

extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Vm {
    pub fn start(guest: &Arc<Guest>) -> Fallible<Self> {
        register_signal_handler(SIGRTMIN(), on_kick)?;
        let (paused, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut cpus = Vec::new();
        for v in 0..guest.vcpus {
            let (requests, inbox) = channel::<Op>();
            let (outbox, replies) = channel();
            let (mut vcpu, guest) = (guest.vcpu(v)?, guest.clone());
            let (paused, over) = (paused.clone(), over.clone());
            let thread = Builder::new().spawn(move || {
                while !over.load(SeqCst) {
                    while let Ok(op) = inbox.try_recv() {
                        let _ = outbox.send(op(&vcpu));
                    }
                    if paused.load(SeqCst) {
                        continue; // until it is resumed
                    }
                    guest.at_door(v);
                    let _exit = vcpu.run(); // a real VMM handles it here
                }
            })?;
            cpus.push(Cpu { thread, requests, replies: Mutex::new(replies) });
        }
        Ok(Self { paused, over, cpus })
    }

    pub fn pause(&self) {
        self.paused.store(true, SeqCst);
        self.cpus.iter().for_each(Cpu::kick);
    }

    pub fn resume(&self) {
        self.paused.store(false, SeqCst);
    }

    /// Runs `op` on a vCPU's thread.
    pub fn call(&self, v: u32, limit: Duration, op: Op) -> Result<u64, RecvTimeoutError> {
        let cpu = &self.cpus[v as usize];
        cpu.requests.send(op).map_err(|_| RecvTimeoutError::Disconnected)?;
        cpu.kick();
        cpu.replies.lock().expect("no panic").recv_timeout(limit)
    }

    /// Runs `op` on all vCPUs while all are out of the guest.
    pub fn meet(
        &self,
        limit: Duration,
        op: Arc<dyn Fn(u32) + Send + Sync>,
    ) -> Result<(), RecvTimeoutError> {
        let all_here = Arc::new(Barrier::new(self.cpus.len()));
        for (v, cpu) in (0..).zip(&self.cpus) {
            let (all_here, op) = (all_here.clone(), op.clone());
            let join_in = move |_: &VcpuFd| {
                all_here.wait();
                op(v);
                all_here.wait();
                0
            };
            cpu.requests.send(Box::new(join_in)).map_err(|_| RecvTimeoutError::Disconnected)?;
            cpu.kick();
        }
        let done = |cpu: &Cpu| cpu.replies.lock().expect("no panic").recv_timeout(limit).map(drop);
        self.cpus.iter().try_for_each(done)
    }

    /// Ends the threads. Kicks again and again, for a second: the usual cure.
    pub fn stop(&self) {
        self.over.store(true, SeqCst);
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline && !self.cpus.iter().all(|cpu| cpu.thread.is_finished()) {
            self.cpus.iter().for_each(Cpu::kick);
            std::thread::yield_now();
        }
    }
}

impl Cpu {
    fn kick(&self) {
        let _gone = self.thread.kill(SIGRTMIN());
    }
}
