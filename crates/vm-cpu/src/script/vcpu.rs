// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One scripted vCPU: the interpreter of steps.

use std::sync::Arc;

use vm_emt::Kick;

use super::execute::item;
use super::line::{Line, Waiting};
use super::machine::Shared;
use super::sync::boundary;
use super::{ApStart, MISMATCH, Progress, Script, Step};
use crate::x86::{Activity, Bit, Interrupt, Start, Tsc, VcpuState};
use crate::{CpuError, Entry, Exit, IrqMode, Registers, Settled, Vcpu, Window};

pub(super) const IF: u64 = 1 << 9;

/// An exit that is handed out and not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    /// The item RCX of step RIP.
    Step,
    /// An interrupt handler's write of this vector.
    Report(u8),
}

#[derive(Debug)]
pub(super) struct ScriptVcpu {
    pub(super) id: u32,
    pub(super) script: Arc<Script>,
    pub(super) shared: Arc<Shared>,
    line: Arc<Line>,
    progress: Arc<Progress>,
    power_on: VcpuState,
    /// Registers; the LAPIC page in it is only filled in by `state`.
    pub(super) state: VcpuState,
    pub(super) pending: Option<Pending>,
    want: Window,
}

impl ScriptVcpu {
    pub(super) fn new(
        id: u32,
        start: ApStart,
        script: Arc<Script>,
        shared: Arc<Shared>,
        line: Arc<Line>,
        progress: Arc<Progress>,
    ) -> Self {
        let mut power_on = VcpuState {
            tsc: Tsc { khz: 1, value: 0 },
            ..VcpuState::default()
        };
        power_on.gprs.rflags = 2;
        power_on.lapic = match shared.irq {
            IrqMode::Split => Some(vec![0; VcpuState::LAPIC_BYTES]),
            IrqMode::None => None,
        };
        power_on.activity = match start {
            ApStart::AtOnce => Activity::Running,
            ApStart::AfterSipi => Activity::WaitForInit,
        };
        let state = power_on.clone();
        let want = Window::Unwanted;
        Self {
            id,
            script,
            shared,
            line,
            progress,
            power_on,
            state,
            pending: None,
            want,
        }
    }

    pub(super) fn step(&self) -> Option<&Step> {
        usize::try_from(self.state.gprs.rip)
            .ok()
            .and_then(|at| self.script.steps.get(at))
    }

    /// Accounts for something executed.
    pub(super) fn mix(&mut self, what: u64) {
        let gprs = &mut self.state.gprs;
        let salted = gprs.rax ^ what ^ gprs.rip.rotate_left(32);
        gprs.rax = salted.wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    pub(super) fn account(&mut self, units: u64) {
        self.state.tsc.value = self.state.tsc.value.wrapping_add(units);
        self.progress.note_work(units);
    }

    pub(super) fn next_step(&mut self) {
        self.state.gprs.rip += 1;
        self.state.gprs.rcx = 0;
    }

    fn refuse(why: &str) -> CpuError {
        CpuError::Invalid {
            what: "entry".into(),
            why: why.into(),
        }
    }

    /// Finishes the pending exit; `Some` if that gives another part.
    fn finish(&mut self, entry: Entry) -> Result<Option<Exit>, CpuError> {
        let pending = self.pending;
        let (reads, expect) = match (pending, self.step()) {
            (Some(Pending::Step), Some(Step::PioRead { expect, .. })) => {
                (true, expect.map(u64::from))
            }
            (Some(Pending::Step), Some(Step::MmioRead { expect, .. })) => (true, *expect),
            (Some(Pending::Step), Some(Step::PioReadEach { .. })) => (true, None),
            _ => (false, None),
        };
        let value = match (entry, reads) {
            (Entry::Data(value), true) => value,
            (Entry::Go, false) => 0,
            (Entry::Go, true) => return Err(Self::refuse("the pending read needs its data")),
            (Entry::Data(_), false) => return Err(Self::refuse("no read is pending")),
        };
        let Some(pending) = pending else {
            return Ok(None);
        };
        self.pending = None;
        let at = match pending {
            Pending::Report(vector) => {
                return Ok(self.shared.is_level(vector).then_some(Exit::Eoi { vector }));
            }
            Pending::Step => self.state.gprs.rcx + 1,
        };
        self.account(1);
        self.mix(value.wrapping_add(at));
        if reads {
            self.state.gprs.rdx = value;
        }
        self.state.gprs.rcx = at;
        if let Some(exit) = self.step().and_then(|step| item(step, at, value)) {
            self.pending = Some(Pending::Step);
            return Ok(Some(exit));
        }
        self.next_step();
        let wrong = reads && expect.is_some_and(|expect| expect != value);
        Ok(wrong.then_some(Exit::InternalError {
            suberror: MISMATCH,
            data: value,
        }))
    }

    /// Executes until something ends it.
    fn execute(&mut self) -> Result<Exit, CpuError> {
        loop {
            boundary();
            if self.line.kicked() {
                return Ok(Exit::Kicked);
            }
            let waits = self.line.interrupted() || self.state.events.interrupt.is_some();
            if let Some(exit) = waits.then(|| self.take_interrupt()).flatten() {
                return Ok(exit);
            }
            if self.want == Window::Wanted && self.can_interrupt() {
                return Ok(Exit::IrqWindow);
            }
            let exit = match self.state.activity {
                Activity::Running | Activity::SipiReceived => self.execute_one()?,
                Activity::Halted => self.wait_halted(),
                Activity::WaitForInit | Activity::WaitForSipi => self.wait_for_ipi(),
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    fn can_interrupt(&self) -> bool {
        let runs = matches!(self.state.activity, Activity::Running | Activity::Halted);
        let events = &self.state.events;
        runs && self.lets_in() && events.interrupt.is_none()
    }

    /// IF set and no shadow.
    fn lets_in(&self) -> bool {
        self.state.gprs.rflags & IF != 0 && self.state.events.shadow == 0
    }

    fn wait_halted(&mut self) -> Option<Exit> {
        let interruptible = self.state.gprs.rflags & IF != 0;
        match self.shared.irq {
            IrqMode::None => return Some(Exit::Halt { interruptible }),
            IrqMode::Split => self.line.wait_until(|waiting| {
                waiting.nmi > 0 || waiting.init || (interruptible && waiting.any_vector())
            }),
        }
        None
    }

    fn wait_for_ipi(&self) -> Option<Exit> {
        match self.shared.irq {
            IrqMode::None => Some(Exit::Halt {
                interruptible: false,
            }),
            IrqMode::Split => {
                self.line
                    .wait_until(|waiting| waiting.init || waiting.sipi.is_some());
                None
            }
        }
    }

    /// Takes whatever waits and can be taken now.
    fn take_interrupt(&mut self) -> Option<Exit> {
        let waits_for_ipi = matches!(
            self.state.activity,
            Activity::WaitForInit | Activity::WaitForSipi
        );
        let enabled = self.lets_in();
        let line = Arc::clone(&self.line);
        if line.change(|waiting| std::mem::take(&mut waiting.init)) {
            self.state = VcpuState {
                tsc: self.state.tsc,
                ..self.power_on.clone()
            };
            self.state.activity = Activity::WaitForSipi;
            return None;
        }
        if let Some(vector) = line.change(|waiting| waiting.sipi.take()) {
            // A start-up IPI that nobody waits for is dropped (Intel SDM vol. 3, section 9.4.4).
            if self.state.activity == Activity::WaitForSipi {
                self.state.activity = Activity::Running;
                self.state.gprs.r10 = u64::from(vector);
            }
            return None;
        }
        if waits_for_ipi {
            return None;
        }
        let queued = self.state.events.interrupt.take().map(|i| i.vector);
        let vector = queued.or_else(|| {
            line.change(|waiting| match waiting.take_nmi() {
                true => Some(2),
                false if enabled => waiting.take(),
                false => None,
            })
        })?;
        self.state.activity = Activity::Running;
        self.state.gprs.r9 = u64::from(vector);
        self.mix(0x1_0000 + u64::from(vector));
        self.account(1);
        self.progress.note_interrupt();
        match self.script.report {
            Some(port) => {
                self.pending = Some(Pending::Report(vector));
                Some(Exit::PioWrite {
                    port,
                    size: 1,
                    value: u32::from(vector),
                })
            }
            None => self.shared.is_level(vector).then_some(Exit::Eoi { vector }),
        }
    }

    /// What other engines save and this one has not.
    fn check_absent(state: &VcpuState) -> Result<(), CpuError> {
        let invalid = |what: String| {
            Err(CpuError::Invalid {
                what,
                why: "a scripted vCPU has none".into(),
            })
        };
        if !state.xsave.is_empty() {
            return invalid("xsave".into());
        }
        match state.msrs.first() {
            Some(msr) => invalid(format!("msrs[{:#x}]", msr.index)),
            None => Ok(()),
        }
    }

    fn check_rip(&self, rip: u64) -> Result<(), CpuError> {
        let steps = self.script.steps.len();
        if usize::try_from(rip).is_ok_and(|rip| rip <= steps) {
            return Ok(());
        }
        Err(CpuError::Invalid {
            what: "gprs.rip".into(),
            why: format!("{rip:#x} is beyond the script's {steps} steps"),
        })
    }
}

impl Vcpu for ScriptVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn kicker(&mut self) -> Result<Arc<dyn Kick>, CpuError> {
        Ok(Arc::clone(&self.line) as Arc<dyn Kick>)
    }

    fn run(&mut self, entry: Entry) -> Result<Exit, CpuError> {
        if let Some(exit) = self.finish(entry)? {
            return Ok(exit);
        }
        self.progress.note_entry();
        let result = self.execute();
        self.line.use_up_kick();
        self.progress.note_exit(result.as_ref().ok().copied());
        result
    }

    fn settle(&mut self, entry: Entry) -> Result<Option<Exit>, CpuError> {
        self.finish(entry)
    }

    fn settled(&mut self) -> Result<Settled<'_>, CpuError> {
        match self.pending {
            None => Ok(Settled::vouch(self)),
            Some(_) => Err(CpuError::Unsettled { vcpu: self.id }),
        }
    }

    fn reset(&mut self) -> Result<(), CpuError> {
        self.pending = None;
        self.want = Window::Unwanted;
        self.line.change(|waiting| *waiting = Waiting::default());
        self.state = self.power_on.clone();
        Ok(())
    }

    fn last_rip(&self) -> u64 {
        self.state.gprs.rip
    }

    fn interrupt(&mut self, vector: u8) -> Result<bool, CpuError> {
        if self.shared.irq != IrqMode::None {
            return Err(CpuError::Invalid {
                what: "interrupt".into(),
                why: "this machine has an interrupt controller: deliver an MSI".into(),
            });
        }
        let can = self.can_interrupt();
        if can {
            self.state.events.interrupt = Some(Interrupt {
                vector,
                soft: Bit::Clear,
            });
            self.state.activity = Activity::Running;
        }
        Ok(can)
    }

    fn want_window(&mut self, want: Window) {
        self.want = want;
    }
}

impl Registers for ScriptVcpu {
    fn state(&self) -> Result<VcpuState, CpuError> {
        let mut state = self.state.clone();
        if let Some(page) = &mut state.lapic {
            self.line.change(|waiting| {
                waiting.store(page);
                state.events.nmi.pending = waiting.nmi;
                state.events.smi.latched_init = waiting.init.into();
                state.events.sipi_vector = waiting.sipi;
            });
        }
        Ok(state)
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        state.validate()?;
        self.check_rip(state.gprs.rip)?;
        Self::check_absent(state)?;
        match (&state.lapic, self.shared.irq) {
            (Some(page), IrqMode::Split) => {
                let mut loaded = Waiting::load(page);
                loaded.nmi = state.events.nmi.pending;
                loaded.init = state.events.smi.latched_init.is_set();
                loaded.sipi = state.events.sipi_vector;
                self.line.change(|waiting| *waiting = loaded);
            }
            (None, IrqMode::None) => {}
            (Some(_), IrqMode::None) => {
                return Err(CpuError::Invalid {
                    what: "lapic".into(),
                    why: "this machine has no interrupt controller".into(),
                });
            }
            (None, IrqMode::Split) => {
                return Err(CpuError::Invalid {
                    what: "lapic".into(),
                    why: "this machine has a LAPIC and needs its register page".into(),
                });
            }
        }
        self.state = state.clone();
        Ok(())
    }

    fn set_start(&mut self, start: &Start) -> Result<(), CpuError> {
        self.check_rip(start.gprs.rip)?;
        self.state.gprs = start.gprs;
        let apic_base = self.state.system.apic_base;
        self.state.system = start.system;
        if start.system.apic_base == 0 {
            self.state.system.apic_base = apic_base;
        }
        self.state.activity = Activity::Running;
        Ok(())
    }

    fn start(&self) -> Result<Start, CpuError> {
        Ok(Start {
            gprs: self.state.gprs,
            system: self.state.system,
        })
    }
}
