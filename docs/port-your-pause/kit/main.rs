// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The conformance kit on both loops: what it finds before the port, and that it finds nothing after.

#[path = "../after/vmm.rs"]
mod after;
#[path = "../before/vmm.rs"]
mod before;
#[path = "../after/kick.rs"]
mod kick;

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use port_your_pause::{Guest, kvm_opens};
use vm_rendezvous::MeetError;
use vm_rendezvous::kit::{self, Effort, EntryHook, MeetOp, Op, Trouble, VcpuLoop};
use vm_req::CallError;

struct Before(before::Vm, Arc<Guest>);

impl VcpuLoop for Before {
    fn vcpus(&self) -> u32 {
        self.1.vcpus
    }
    fn suspend(&self, _: Duration) -> Result<(), Trouble> {
        self.0.pause();
        Ok(())
    }
    fn resume(&self) -> Result<(), Trouble> {
        self.0.resume();
        Ok(())
    }
    fn call(&self, vcpu: u32, limit: Duration, op: Op) -> Result<u64, Trouble> {
        self.0.call(vcpu, limit, Box::new(|_| op())).map_err(no_answer)
    }
    fn progress(&self, vcpu: u32) -> u64 {
        self.1.progress(vcpu).into()
    }
    fn destroy(&self) {
        self.0.stop();
    }
    fn meet(&self, limit: Duration, op: MeetOp) -> Result<(), Trouble> {
        self.0.meet(limit, op).map_err(no_answer)
    }
    fn hook_entry(&self, vcpu: u32, hook: EntryHook) -> bool {
        self.1.set_hook(vcpu, hook);
        true
    }
}

fn no_answer(error: RecvTimeoutError) -> Trouble {
    match error {
        RecvTimeoutError::Timeout => Trouble::SomebodyLate,
        RecvTimeoutError::Disconnected => Trouble::Ended,
    }
}

struct After(after::Vm, Arc<Guest>);

impl VcpuLoop for After {
    fn vcpus(&self) -> u32 {
        self.1.vcpus
    }
    fn suspend(&self, limit: Duration) -> Result<(), Trouble> {
        self.0.pause(limit).map(drop).map_err(not_met)
    }
    fn resume(&self) -> Result<(), Trouble> {
        self.0.resume();
        Ok(())
    }
    fn call(&self, vcpu: u32, limit: Duration, op: Op) -> Result<u64, Trouble> {
        self.0.call(vcpu, limit, |_| op()).map_err(|error| match error {
            CallError::Timeout { vcpu, .. } => Trouble::Late { vcpu },
            CallError::Killed | CallError::NotLive { .. } => Trouble::Ended,
            other => Trouble::Refused(other.to_string()),
        })
    }
    fn progress(&self, vcpu: u32) -> u64 {
        self.1.progress(vcpu).into()
    }
    fn destroy(&self) {
        self.0.stop();
    }
    fn meet(&self, limit: Duration, op: MeetOp) -> Result<(), Trouble> {
        self.0.meet(limit, |me| op(me.bell.id())).map(drop).map_err(not_met)
    }
    fn hook_entry(&self, vcpu: u32, hook: EntryHook) -> bool {
        self.1.set_hook(vcpu, hook);
        true
    }
}

fn not_met(error: MeetError<Infallible>) -> Trouble {
    match error {
        MeetError::Late { vcpu, .. } => Trouble::Late { vcpu },
        MeetError::NoEmts => Trouble::Ended,
        other => Trouble::Refused(other.to_string()),
    }
}

fn main() -> ExitCode {
    if !kvm_opens() {
        return ExitCode::SUCCESS;
    }
    let guest = || Guest::new(2).map(Arc::new).map_err(|error| error.to_string());
    let before = Effort { patience: Duration::from_secs(1), ..Effort::default() };
    let before = kit::run(before, move || {
        let guest = guest()?;
        let vm = before::Vm::start(&guest).map_err(|error| error.to_string())?;
        Ok(Before(vm, guest))
    });
    let after = kit::run(Effort::default(), move || {
        let guest = guest()?;
        let vm = after::Vm::start(&guest).map_err(|error| error.to_string())?;
        Ok(After(vm, guest))
    });
    println!("before the port:\n{before}\nafter the port:\n{after}");
    if before.passed() || !after.passed() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
