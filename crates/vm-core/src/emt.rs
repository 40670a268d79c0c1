// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The EMT's context and its loop: the only place that enters the guest.
//!
//! A turn is: attend to what rang, look at the VM's state, then enter the guest, wait in a halt, or
//! park. The decision is level-triggered: it comes from the state word itself after every
//! attendance, never from a flag that somebody set and somebody else might have cleared.
//!
//! Before any rendezvous or request is served the vCPU's pending exit is settled, so code that runs
//! on an EMT always finds a vCPU whose registers are whole.

mod deeds;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use vm_cpu::{CpuError, Entry, Exit, GuestRam, Machine, Settled, Vcpu};
use vm_emt::{Bell, Flow};
use vm_pdm::{Action, Buses, Devices, IoCtx, ResetKind, RuntimeError};
use vm_req::Which;

use self::deeds::Deed;
use crate::cap::{self, Slice, Turn};
use crate::component::Pipeline;
use crate::fault::Fault;
use crate::ops::{Depth, serve_errors};
use crate::recorder::{Flight, HOST_ERROR, Recorder, exit_code};
use crate::report::Seen;
use crate::shared::Shared;
use crate::{Ending, GuruReport, TripleFault, VmSpec};

/// Called with a vector that the guest acknowledged.
pub type EoiHandler = Arc<dyn Fn(u8) + Send + Sync>;

/// What only EMT 0 holds: the parts of the machine that are built once.
#[derive(Default)]
pub(crate) struct Primary {
    pub(crate) pipeline: Pipeline,
    pub(crate) ram: Option<GuestRam>,
    pub(crate) machine: Option<Arc<dyn Machine>>,
    pub(crate) devices: Option<Devices>,
}

/// An EMT's context: what requests, rendezvous callbacks and components get.
///
/// It never leaves its thread.
pub struct Emt {
    bell: Bell,
    shared: Arc<Shared>,
    vcpu: Option<Box<dyn Vcpu>>,
    buses: Option<Arc<Buses>>,
    eoi: Option<EoiHandler>,
    pub(crate) primary: Primary,
    entry: Entry,
    /// The last exit was an access that the engine finishes at the next entry.
    unfinished: bool,
    activity: Activity,
    memory: Memory,
    /// What the guest asked for and has not got yet.
    deeds: VecDeque<Deed>,
    io: IoCtx,
    recorder: Recorder,
    flow: Flow,
    slice: Slice,
}

impl std::fmt::Debug for Emt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emt")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// What a vCPU of a running VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Executes guest code, or waits inside the engine.
    Runs,
    /// Halted, and the engine has nothing to wait for.
    Halted,
}

/// Whether guest memory could be had from the host at the last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Had,
    Wanting,
}

impl vm_emt::Emt for Emt {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    fn serve(&mut self) -> Flow {
        let shared = Arc::clone(&self.shared);
        let met = shared.rendezvous.attend(self);
        if shared.errors.attention() {
            serve_errors(self, Depth::Wait);
        }
        met.max(shared.queues.process(self, Which::Priority))
    }

    fn take_flow(&mut self) -> Flow {
        // Asked once after each request.
        self.recorder.record(Flight::Request);
        let asked = std::mem::take(&mut self.flow);
        // A rendezvous does not wait behind whatever else is queued.
        if self.shared.rendezvous.pending(self.id()) {
            asked.max(Flow::Look)
        } else {
            asked
        }
    }
}

impl Emt {
    pub(crate) fn new(bell: Bell, shared: Arc<Shared>) -> Self {
        let counts = shared.observed.emt(bell.id());
        Self {
            bell,
            shared,
            vcpu: None,
            buses: None,
            eoi: None,
            primary: Primary::default(),
            entry: Entry::Go,
            unfinished: false,
            activity: Activity::Runs,
            memory: Memory::Had,
            deeds: VecDeque::new(),
            io: IoCtx::new(),
            recorder: Recorder::new(counts),
            flow: Flow::Continue,
            slice: Slice::default(),
        }
    }

    /// Number of its vCPU.
    pub fn id(&self) -> u32 {
        self.bell.id()
    }

    /// What the VM was made from.
    pub fn spec(&self) -> &VmSpec {
        &self.shared.spec
    }

    /// The machine; on EMT 0, from the processor component's `init` to its `term`.
    pub fn machine(&self) -> Option<&Arc<dyn Machine>> {
        self.primary.machine.as_ref()
    }

    /// Guest memory; on EMT 0, from the memory component's `init` to its `term`.
    pub fn ram(&self) -> Option<&GuestRam> {
        self.primary.ram.as_ref()
    }

    /// The vCPU's state; its pending exit is finished first, which may call devices.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] if the vCPU does not exist (yet, or any more), else what the engine
    /// failed with.
    pub fn settled(&mut self) -> Result<Settled<'_>, CpuError> {
        self.settle()?;
        match &mut self.vcpu {
            Some(vcpu) => vcpu.settled(),
            None => Err(CpuError::Invalid {
                what: "vCPU".into(),
                why: "not created".into(),
            }),
        }
    }

    /// Tells the loop what to do after the request being served.
    pub fn want(&mut self, flow: Flow) {
        self.flow = self.flow.max(flow);
    }

    pub(crate) fn record(&mut self, flight: Flight) {
        self.recorder.record(flight);
    }

    /// What this EMT did, and its vCPU's registers.
    pub(crate) fn seen(&mut self) -> Seen {
        let registers = self.settled().and_then(|settled| settled.start());
        Seen {
            exits: self.recorder.exits(),
            flights: self.recorder.last(),
            registers: registers.ok(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn take_vcpu(&mut self) -> Option<Box<dyn Vcpu>> {
        self.unfinished = false;
        self.vcpu.take()
    }

    pub(crate) fn install_vcpu(&mut self, mut vcpu: Box<dyn Vcpu>) -> Result<(), CpuError> {
        self.bell.install_kick(vcpu.kicker()?);
        self.vcpu = Some(vcpu);
        Ok(())
    }

    pub(crate) fn install_buses(&mut self, buses: Option<Arc<Buses>>, eoi: Option<EoiHandler>) {
        self.buses = buses;
        self.eoi = eoi;
    }

    /// The vCPU's part of a hard reset. What an access had asked for is void: the machine that
    /// asked is gone.
    pub(crate) fn reset_vcpu(&mut self) -> Result<(), CpuError> {
        self.entry = Entry::Go;
        self.unfinished = false;
        self.activity = Activity::Runs;
        self.deeds.clear();
        match &mut self.vcpu {
            Some(vcpu) => vcpu.reset(),
            None => Ok(()),
        }
    }

    /// The loop. Returns when the EMT is told to leave.
    pub(crate) fn run(&mut self) {
        loop {
            let rung = if self.shared.is_broken(Fault::ClearAfterLook) {
                self.bell.pending()
            } else {
                self.bell.clear()
            };
            if rung && (self.attend() == Flow::Stop || self.shared.leaves(self.id())) {
                return;
            }
            if self.shared.is_broken(Fault::ClearAfterLook) {
                self.bell.clear();
            }
            if self.shared.errors.attention() {
                self.settle_or_guru();
                serve_errors(self, Depth::Loop);
            }
            if !self.shared.state.read().is_running() {
                self.settle_or_guru();
                self.memory = Memory::Had;
                self.bell.park(None);
            } else if self.shared.errors.attention() {
                // Somebody moved the VM meanwhile: look again.
            } else if let Some(deed) = self.deeds.pop_front() {
                self.act(deed);
            } else if self.activity == Activity::Halted || !self.is_here() {
                self.bell.park(None);
            } else if let Some(until) = self.waits_for_slice() {
                self.bell.park(Some(until));
            } else {
                self.enter();
            }
        }
    }

    /// Whether there is a vCPU, and the guest has it.
    fn is_here(&self) -> bool {
        self.vcpu.is_some() && self.shared.plugged.has(self.id())
    }

    /// When the next slice begins, if this one's share is used up.
    fn waits_for_slice(&mut self) -> Option<Instant> {
        let percent = self.shared.cap.percent();
        if percent >= cap::FULL {
            return None;
        }
        let now = Instant::now();
        if self.slice.holds(percent, now) {
            return None;
        }
        match self.slice.decide(percent, now, cap::thread_time()) {
            Turn::Wait(until) => Some(until),
            Turn::Run(until) => {
                if let Err(e) = self.shared.cap.alarm(self.id(), until) {
                    log::error!(target: "vm.cap", "the cap holds only at exits: cannot start its thread: {e}");
                }
                None
            }
        }
    }

    /// Looks at every source after the bell was cleared.
    fn attend(&mut self) -> Flow {
        self.settle_or_guru();
        let shared = Arc::clone(&self.shared);
        let met = shared.rendezvous.attend(self);
        met.max(shared.queues.process(self, Which::All))
    }

    fn enter(&mut self) {
        let Some(vcpu) = &mut self.vcpu else { return };
        let Some(in_guest) = self.bell.enter() else {
            return;
        };
        let exit = vcpu.run(std::mem::take(&mut self.entry));
        drop(in_guest);
        match exit {
            Ok(exit) => self.take_exit(exit),
            Err(e) => {
                self.bell.note_exit(HOST_ERROR, 0);
                if wants_memory(&e) {
                    self.starve(&describe(&e));
                } else {
                    self.guru(&describe(&e));
                }
            }
        }
    }

    fn take_exit(&mut self, exit: Exit) {
        let rip = self.vcpu.as_ref().map_or(0, |vcpu| vcpu.last_rip());
        self.bell.note_exit(exit_code(&exit), rip);
        self.recorder.record(Flight::Exit(exit));
        self.unfinished = false;
        if !matches!(exit, Exit::MemoryFault { .. } | Exit::Kicked) {
            self.memory = Memory::Had;
        }
        match exit {
            Exit::PioRead { .. }
            | Exit::PioWrite { .. }
            | Exit::MmioRead { .. }
            | Exit::MmioWrite { .. } => {
                self.access(exit);
            }
            Exit::Kicked | Exit::IrqWindow => {}
            Exit::Halt { .. } => self.activity = Activity::Halted,
            Exit::Eoi { vector } => {
                if let Some(eoi) = self.eoi.clone() {
                    eoi(vector);
                }
            }
            Exit::Shutdown => self.triple_fault(),
            Exit::FailEntry { reason } => {
                self.guru(&format!(
                    "the processor refused to enter the guest, reason {reason:#x}"
                ));
            }
            Exit::InternalError { suberror, data } => self.guru(&format!(
                "the engine could not execute the guest, suberror {suberror}, data {data:#x}"
            )),
            Exit::MemoryFault { addr } => self.starve(&match addr {
                Some(addr) => format!("guest memory at {addr:#x} could not be had from the host"),
                None => "guest memory could not be had from the host".to_owned(),
            }),
        }
    }

    /// Serves one access; what the handler asks for is kept until the exit is finished.
    fn access(&mut self, exit: Exit) {
        self.unfinished = true;
        let Some(buses) = &self.buses else {
            self.entry = Entry::Data(u64::MAX);
            return;
        };
        let io = &mut self.io;
        self.entry = match exit {
            Exit::PioRead { port, size } => Entry::Data(buses.pio_read(io, port, size).into()),
            Exit::PioWrite { port, size, value } => {
                buses.pio_write(io, port, size, value);
                Entry::Go
            }
            Exit::MmioRead { addr, size } => Entry::Data(buses.mmio_read(io, addr, size)),
            Exit::MmioWrite { addr, size, value } => {
                buses.mmio_write(io, addr, size, value);
                Entry::Go
            }
            Exit::Halt { .. }
            | Exit::Kicked
            | Exit::IrqWindow
            | Exit::Eoi { .. }
            | Exit::Shutdown
            | Exit::FailEntry { .. }
            | Exit::InternalError { .. }
            | Exit::MemoryFault { .. } => Entry::Go,
        };
        if !self.io.is_empty() {
            for effect in self.io.take() {
                self.ask(effect);
            }
        }
    }

    /// Finishes the pending exit, serving its further parts.
    fn settle(&mut self) -> Result<(), CpuError> {
        while self.unfinished {
            let Some(vcpu) = &mut self.vcpu else { break };
            match vcpu.settle(std::mem::take(&mut self.entry))? {
                None => self.unfinished = false,
                Some(exit) => self.take_exit(exit),
            }
        }
        Ok(())
    }

    fn settle_or_guru(&mut self) {
        if let Err(e) = self.settle() {
            self.unfinished = false;
            self.guru(&describe(&e));
        }
    }

    /// The host had no memory for the guest. The instruction has not been executed, and is when the
    /// vCPU enters again: an engine's `run` that gives this exit, or fails for want of memory, leaves
    /// the guest at the instruction that needed it (KVM API, section 4.10 and `KVM_EXIT_MEMORY_FAULT`
    /// in section 5: the entry fails, nothing is completed, and an event that was being delivered is
    /// queued again). So the VM is suspended, and resume tries again. If it was not suspended since
    /// the last time, trying again at once would not end.
    fn starve(&mut self, what: &str) {
        if std::mem::replace(&mut self.memory, Memory::Wanting) == Memory::Wanting {
            return self.guru(what);
        }
        self.shared.raise(RuntimeError {
            id: "HostMemory",
            source: format!("vCPU {}", self.id()),
            message: format!("{what}: make memory free on the host and resume"),
            action: Action::Suspend,
        });
    }

    fn triple_fault(&mut self) {
        match self.shared.spec.on_triple_fault {
            TripleFault::Guru => self.guru("triple fault"),
            TripleFault::Reset => self.deeds.push_back(Deed::Reset(ResetKind::Hard)),
            TripleFault::PowerOff => self.deeds.push_back(Deed::PowerOff(Ending::TripleFault)),
        }
    }

    /// This vCPU cannot go on: the VM is kept for inspection.
    pub(crate) fn guru(&mut self, why: &str) {
        self.doom(vm_state::Cause::Vcpu(self.id()), why);
    }

    /// The VM cannot go on, as this EMT found: it is kept for inspection.
    pub(crate) fn doom(&mut self, cause: vm_state::Cause, why: &str) {
        self.recorder.record(Flight::Guru);
        log::error!(target: "vm.guru", "vCPU {}: {why}", self.id());
        let registers = self
            .vcpu
            .as_mut()
            .and_then(|v| v.settled().ok().and_then(|s| s.start().ok()));
        self.shared.keep_guru(GuruReport {
            vcpu: self.id(),
            why: why.to_owned(),
            registers,
            flights: self.recorder.last(),
            exit_count: self.recorder.exits(),
        });
        self.shared.state.raise_fatal(cause);
        self.shared.follow_state();
        self.shared.cancel_save();
        self.shared.bells.ring_all();
    }
}

/// Whether an entry failed because the host had no memory for it (`ENOMEM`).
fn wants_memory(error: &CpuError) -> bool {
    matches!(error, CpuError::Host { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory)
}

/// An error with its causes on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
