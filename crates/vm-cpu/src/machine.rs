// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The traits a CPU backend implements, from the engine down to one settled vCPU.

use std::fmt::Debug;
use std::sync::Arc;

use vm_emt::Kick;

use crate::x86::{Start, VcpuState};
use crate::{CpuError, CpuSpec, Entry, Exit, GuestRam, Statistic};

/// Who handles interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IrqMode {
    /// LAPIC in the engine, IOAPIC outside (on KVM the split irqchip): a halted vCPU waits inside
    /// the engine.
    #[default]
    Split,
    /// No interrupt controller: bare guests. `HLT` leaves as [`Exit::Halt`].
    None,
}

/// What a machine is made from.
#[derive(Debug, Clone, Default)]
pub struct MachineSpec {
    /// Number of vCPUs, at least 1.
    pub vcpus: u32,
    /// Interrupt controllers.
    pub irq: IrqMode,
    /// Which CPU the guest sees.
    pub cpu: CpuSpec,
}

/// A message-signalled interrupt as the bus carries it (Intel SDM vol. 3, section 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Address, bits 63..0.
    pub addr: u64,
    /// Data.
    pub data: u32,
}

/// What stands still while a machine's time is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Every clock that the guest can read.
    Everything,
    /// The guest's clock, not the TSC, which this host does not let the engine move: a guest that
    /// reads it finds that time passed.
    ClockOnly,
}

/// A kind of CPU backend.
pub trait Engine: Send + Sync + Debug {
    /// Name as the command line spells it.
    fn name(&self) -> &'static str;

    /// Makes a machine whose physical memory is `ram`.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] if the host cannot, [`CpuError::Invalid`] if `spec` asks for what
    /// the engine does not do, [`CpuError::Host`] if an operation of the host failed.
    fn create(&self, spec: &MachineSpec, ram: &GuestRam) -> Result<Arc<dyn Machine>, CpuError>;
}

/// One VM inside an engine.
pub trait Machine: Send + Sync + Debug {
    /// Makes vCPU `id`, in its power-on state: vCPU 0 at the reset vector, others waiting for a
    /// start-up IPI.
    ///
    /// # Thread
    /// The EMT that will own it.
    ///
    /// # Errors
    /// As [`Engine::create`]; also if `id` exists already or is not below the vCPU count.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, CpuError>;

    /// Delivers a message-signalled interrupt. Any thread.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] in [`IrqMode::None`], [`CpuError::Host`] if the host refused.
    fn deliver_msi(&self, msi: Msi) -> Result<(), CpuError>;

    /// Tells the engine what the IOAPIC's pins are routed to, so that it can report the EOI of
    /// level-triggered ones ([`Exit::Eoi`]). `None` is a masked pin. Any thread.
    ///
    /// # Errors
    /// As [`Machine::deliver_msi`].
    fn route_pins(&self, pins: &[Option<Msi>]) -> Result<(), CpuError>;

    /// The guest's clock in ns (kvm-clock), for save. While time is held it is what it was then.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn clock_ns(&self) -> Result<u64, CpuError>;

    /// Sets the guest's clock, for load. While time is held the clock stands there until time goes on.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn set_clock_ns(&self, ns: u64) -> Result<(), CpuError>;

    /// From now on no time passes for the guest, whatever clock it reads: its clock and all its
    /// vCPUs' TSCs stand still. No effect while time is held already.
    ///
    /// The state of a vCPU has the TSC as it was when this was called, for all vCPUs at the same
    /// instant; the TSC of a state that is set is what the vCPU has when time goes on.
    ///
    /// The LAPIC's timer in the modes that count down from a register goes by the host's time in
    /// engines that leave it to the host: an interrupt may come sooner than the guest's clocks say.
    /// The TSC deadline does not.
    ///
    /// # Thread
    /// Any, while all vCPUs are out of the guest. Until [`Machine::let_time_go`] nobody calls
    /// [`Vcpu::run`]; everything else is allowed.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused; time is not held then.
    fn hold_time(&self) -> Result<Held, CpuError>;

    /// Time goes on for the guest from where it was held. A machine whose time is not held is left
    /// as it is. Each vCPU puts its TSC right at its next [`Vcpu::run`], all by the same amount, so
    /// that the differences between them stay what they are.
    ///
    /// # Thread
    /// As [`Machine::hold_time`]; what it returned must have happened before the next [`Vcpu::run`]
    /// of any vCPU, as a rendezvous gives it.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused; time is still held then.
    fn let_time_go(&self) -> Result<(), CpuError>;

    /// What the engine counts of this machine and its vCPUs; nothing if it does not count, or cannot
    /// tell now. Any thread, while vCPUs run.
    fn statistics(&self) -> Vec<Statistic> {
        Vec::new()
    }
}

/// One virtual processor. Its EMT alone touches it; only the [`Kick`] handle is for others.
pub trait Vcpu: Send + Debug {
    /// Its number.
    fn id(&self) -> u32;

    /// The handle that makes this vCPU leave the guest soon, or not enter it.
    ///
    /// # Thread
    /// The owning EMT, once, before the first [`Vcpu::run`].
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn kicker(&mut self) -> Result<Arc<dyn Kick>, CpuError>;

    /// Enters the guest and returns why it left. `entry` must be [`Entry::Data`] exactly when the
    /// last exit was a read.
    ///
    /// A kick that was made at any time since the last return ends this call with
    /// [`Exit::Kicked`] or another exit at the latest at the next instruction boundary; a stale kick
    /// may do so too. The kick is used up by the return.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host failed in a way that is not an exit; the vCPU can be tried again.
    fn run(&mut self, entry: Entry) -> Result<Exit, CpuError>;

    /// Finishes the pending exit without executing a further instruction. `Some(exit)`: finishing
    /// it gave another part (next item of a string, second half of an access); serve it and settle
    /// again. `None`: settled, [`Vcpu::settled`] will succeed.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    fn settle(&mut self, entry: Entry) -> Result<Option<Exit>, CpuError>;

    /// The proof that nothing is pending, and with it the vCPU's state.
    ///
    /// # Errors
    /// [`CpuError::Unsettled`] if an exit is pending.
    fn settled(&mut self) -> Result<Settled<'_>, CpuError>;

    /// Back to the power-on state, pending exit dropped.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn reset(&mut self) -> Result<(), CpuError>;

    /// The guest's instruction pointer at the last exit, for whoever has to say later where this vCPU
    /// was; 0 if the engine cannot tell without asking the host.
    fn last_rip(&self) -> u64;

    /// Queues an external interrupt ([`IrqMode::None`] only); the guest takes it at the next entry
    /// if it can. `false`: it cannot now, ask for a window.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] with an interrupt controller in the engine.
    fn interrupt(&mut self, vector: u8) -> Result<bool, CpuError>;

    /// Asks for [`Exit::IrqWindow`] as soon as the guest can take an interrupt.
    fn want_window(&mut self, want: Window);
}

/// Whether an interrupt window is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Leave when the guest can take an interrupt.
    Wanted,
    /// Do not.
    Unwanted,
}

/// What a backend's settled vCPU can do; callers use [`Settled`].
pub trait Registers {
    /// Everything a guest can see of this vCPU.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn state(&self) -> Result<VcpuState, CpuError>;
    /// Replaces everything.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] naming the field that does not fit, [`CpuError::Host`] if the host refused.
    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError>;
    /// Sets general and system registers only: where a boot begins.
    ///
    /// # Errors
    /// As [`Registers::set_state`].
    fn set_start(&mut self, start: &Start) -> Result<(), CpuError>;
    /// General and system registers only, for reports.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    fn start(&self) -> Result<Start, CpuError>;
}

/// Proof that a vCPU's pending exit is finished. It borrows the vCPU, so it is gone at re-entry.
pub struct Settled<'a>(&'a mut dyn Registers);

impl Debug for Settled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settled")
    }
}

impl<'a> Settled<'a> {
    /// For backends only: vouches that no exit is pending in `registers`.
    pub fn vouch(registers: &'a mut dyn Registers) -> Self {
        Self(registers)
    }
}

impl Settled<'_> {
    /// Everything a guest can see of this vCPU.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    pub fn state(&self) -> Result<VcpuState, CpuError> {
        self.0.state()
    }

    /// Replaces everything.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] naming the field that does not fit, [`CpuError::Host`] if the host refused.
    pub fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        self.0.set_state(state)
    }

    /// General and system registers only.
    ///
    /// # Errors
    /// [`CpuError::Host`] if the host refused.
    pub fn start(&self) -> Result<Start, CpuError> {
        self.0.start()
    }

    /// Sets general and system registers only: where a boot begins.
    ///
    /// # Errors
    /// As [`Settled::set_state`].
    pub fn set_start(&mut self, start: &Start) -> Result<(), CpuError> {
        self.0.set_start(start)
    }
}
