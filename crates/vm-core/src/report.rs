// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM tells of itself: plain data, made on request.

use std::fmt;

use serde::Serialize;
use vm_cpu::x86::Start;

use crate::errors::ErrorSummary;
use crate::recorder::Flight;

/// How a VM came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The embedder powered it off.
    PowerOff,
    /// The guest powered itself off.
    GuestPowerOff,
    /// The guest asked for a reset and the specification says to power off instead.
    GuestReset,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The guest triple-faulted and the specification says to power off.
    TripleFault,
}

/// A VM at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// State, as the table spells it.
    pub state: String,
    /// The state before.
    pub previous: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The vCPUs that the guest has.
    pub plugged: Vec<u32>,
    /// How much of a host CPU each vCPU may use.
    pub cap_percent: u32,
    /// Host thread ids of the EMTs, in order of vCPU; `None` where the host does not tell.
    pub tids: Vec<Option<u32>>,
    /// Hard resets so far.
    pub hard_resets: u64,
    /// Soft resets so far.
    pub soft_resets: u64,
    /// What went wrong so far.
    pub errors: ErrorSummary,
}

/// Why a VM is in guru meditation.
#[derive(Debug, Clone)]
pub struct GuruReport {
    /// The vCPU that could not go on.
    pub vcpu: u32,
    /// Why, for a person.
    pub why: String,
    /// Its registers, if the backend could still tell.
    pub registers: Option<Start>,
    /// What its EMT did last, oldest first.
    pub flights: Vec<Flight>,
    /// Exits since the VM was created.
    pub exit_count: u64,
}

impl fmt::Display for GuruReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vCPU {} could not go on: {}", self.vcpu, self.why)?;
        if let Some(start) = &self.registers {
            registers(f, start)?;
        }
        flights(f, &self.flights, self.exit_count)
    }
}

/// One EMT in a [`Report`].
#[derive(Debug, Clone)]
pub struct EmtReport {
    /// Its vCPU.
    pub vcpu: u32,
    /// Its host thread, where the host tells.
    pub tid: Option<u32>,
    /// Its doorbell word.
    pub word: String,
    /// Its last exit, by name.
    pub last_exit: &'static str,
    /// What it said of itself; `None` if it did not answer in time.
    pub seen: Option<Seen>,
}

/// What an EMT says of itself.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Exits since the VM was created.
    pub exits: u64,
    /// What it did last, oldest first.
    pub flights: Vec<Flight>,
    /// Its vCPU's registers, if the vCPU exists and the backend could tell.
    pub registers: Option<Start>,
}

/// A VM and each of its EMTs at one moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// The VM.
    pub status: Status,
    /// The EMTs in order of vCPU.
    pub emts: Vec<EmtReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            name,
            state,
            previous,
            hard_resets,
            soft_resets,
            errors,
            ..
        } = &self.status;
        writeln!(
            f,
            "{name}: {state} (before: {previous}), {hard_resets} hard and {soft_resets} soft resets"
        )?;
        writeln!(
            f,
            "{} failed operations, {} runtime errors",
            errors.vm, errors.runtime
        )?;
        for last in [&errors.last, &errors.last_runtime].into_iter().flatten() {
            writeln!(f, "  {last}")?;
        }
        for emt in &self.emts {
            writeln!(
                f,
                "vCPU {}: {}, last exit {}",
                emt.vcpu, emt.word, emt.last_exit
            )?;
            match &emt.seen {
                None => writeln!(f, "  its EMT does not answer")?,
                Some(seen) => {
                    if let Some(start) = &seen.registers {
                        registers(f, start)?;
                    }
                    flights(f, &seen.flights, seen.exits)?;
                }
            }
        }
        Ok(())
    }
}

/// One EMT for a page of its own.
pub(crate) struct CpuPage<'a>(pub(crate) &'a EmtReport);

impl fmt::Display for CpuPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EmtReport {
            vcpu,
            tid,
            word,
            last_exit,
            seen,
        } = self.0;
        write!(f, "vCPU {vcpu}: {word}, last exit {last_exit}")?;
        match tid {
            Some(tid) => writeln!(f, ", thread {tid}")?,
            None => writeln!(f)?,
        }
        let Some(seen) = seen else {
            return writeln!(f, "  its EMT does not answer");
        };
        if let Some(start) = &seen.registers {
            registers(f, start)?;
        }
        flights(f, &seen.flights, seen.exits)
    }
}

fn flights(f: &mut fmt::Formatter<'_>, flights: &[Flight], exits: u64) -> fmt::Result {
    writeln!(
        f,
        "  {exits} exits; its EMT's last {} deeds:",
        flights.len()
    )?;
    flights
        .iter()
        .try_for_each(|flight| writeln!(f, "    {flight}"))
}

fn registers(f: &mut fmt::Formatter<'_>, start: &Start) -> fmt::Result {
    let Start { gprs: g, system: s } = start;
    let named = [
        ("rip", g.rip),
        ("rflags", g.rflags),
        ("rsp", g.rsp),
        ("rax", g.rax),
        ("rbx", g.rbx),
        ("rcx", g.rcx),
        ("rdx", g.rdx),
        ("rsi", g.rsi),
        ("rdi", g.rdi),
        ("rbp", g.rbp),
        ("r8", g.r8),
        ("r9", g.r9),
        ("r10", g.r10),
        ("r11", g.r11),
        ("r12", g.r12),
        ("r13", g.r13),
        ("r14", g.r14),
        ("r15", g.r15),
        ("cr0", s.cr0),
        ("cr2", s.cr2),
        ("cr3", s.cr3),
        ("cr4", s.cr4),
        ("efer", s.efer),
        ("cs.base", s.cs.base),
        ("gdt", s.gdt.base),
        ("idt", s.idt.base),
    ];
    for row in named.chunks(3) {
        for (name, value) in row {
            write!(f, "  {name:>7} {value:016x}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}
