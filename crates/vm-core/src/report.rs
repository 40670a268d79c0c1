// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM tells of itself: plain data, made on request.

use serde::Serialize;
use vm_cpu::Exit;
use vm_cpu::x86::Start;

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
    /// Host thread ids of the EMTs, in order of vCPU; `None` where the host does not tell.
    pub tids: Vec<Option<u32>>,
    /// Hard resets so far.
    pub hard_resets: u64,
    /// Soft resets so far.
    pub soft_resets: u64,
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
    /// Its last exits, oldest first.
    pub exits: Vec<Exit>,
    /// Exits since the VM was created.
    pub exit_count: u64,
}

impl std::fmt::Display for GuruReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "vCPU {} could not go on: {}", self.vcpu, self.why)?;
        if let Some(Start { gprs: g, system: s }) = &self.registers {
            writeln!(
                f,
                "  rip {:016x}  rflags {:016x}  rsp {:016x}",
                g.rip, g.rflags, g.rsp
            )?;
            writeln!(
                f,
                "  rax {:016x}  rbx {:016x}  rcx {:016x}",
                g.rax, g.rbx, g.rcx
            )?;
            writeln!(
                f,
                "  rdx {:016x}  rsi {:016x}  rdi {:016x}",
                g.rdx, g.rsi, g.rdi
            )?;
            writeln!(
                f,
                "  rbp {:016x}  r8  {:016x}  r9  {:016x}",
                g.rbp, g.r8, g.r9
            )?;
            writeln!(
                f,
                "  r10 {:016x}  r11 {:016x}  r12 {:016x}",
                g.r10, g.r11, g.r12
            )?;
            writeln!(
                f,
                "  r13 {:016x}  r14 {:016x}  r15 {:016x}",
                g.r13, g.r14, g.r15
            )?;
            writeln!(
                f,
                "  cr0 {:016x}  cr2 {:016x}  cr3 {:016x}",
                s.cr0, s.cr2, s.cr3
            )?;
            writeln!(
                f,
                "  cr4 {:016x}  efer {:015x}  cs {:04x}:{:x}",
                s.cr4, s.efer, s.cs.selector, s.cs.base
            )?;
            writeln!(
                f,
                "  gdt {:016x}+{:04x}  idt {:016x}+{:04x}",
                s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit
            )?;
        }
        writeln!(
            f,
            "  last {} of {} exits:",
            self.exits.len(),
            self.exit_count
        )?;
        for exit in &self.exits {
            writeln!(f, "    {exit:x?}")?;
        }
        Ok(())
    }
}
