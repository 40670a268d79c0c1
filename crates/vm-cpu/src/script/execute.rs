// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Executing one step, or one unit of it.

use vm_memory::{Bytes, GuestAddress};

use super::vcpu::{IF, Pending, ScriptVcpu};
use super::{Fault, Step};
use crate::x86::{Activity, Bit};
use crate::{CpuError, Exit};

/// Interrupt shadow after STI, in `Events::shadow`.
const STI: u8 = 2;

impl ScriptVcpu {
    /// Executes until the next boundary at which a kick or an interrupt can be seen.
    pub(super) fn execute_one(&mut self) -> Result<Option<Exit>, CpuError> {
        self.state.activity = Activity::Running;
        self.state.events.shadow = 0;
        let done = self.state.gprs.rcx;
        let Some(step) = self.step() else {
            self.state.gprs.rflags &= !IF;
            self.state.activity = Activity::Halted;
            return Ok(None);
        };
        if let Some(exit) = item(step, done, self.state.gprs.rdx) {
            self.pending = Some(Pending::Step);
            return Ok(Some(exit));
        }
        match step.clone() {
            Step::Work(units) => {
                self.work(done, units);
                return Ok(None);
            }
            Step::Deaf(units) => {
                for unit in 0..units {
                    self.mix(unit);
                    self.account(1);
                }
            }
            Step::NeverLeave(gate) => gate.pass(),
            Step::Halt => self.state.activity = Activity::Halted,
            Step::Interrupts(Bit::Set) => {
                // As after STI: the next step still runs undisturbed.
                if self.state.gprs.rflags & IF == 0 {
                    self.state.events.shadow = STI;
                }
                self.state.gprs.rflags |= IF;
            }
            Step::Interrupts(Bit::Clear) => self.state.gprs.rflags &= !IF,
            Step::Store { addr, value } => {
                let stored = self.shared.ram.write_obj(value.to_le(), GuestAddress(addr));
                if stored.is_err() {
                    return Ok(Some(Exit::MemoryFault { addr: Some(addr) }));
                }
            }
            Step::Fault(fault) => return self.fail(fault).map(Some),
            Step::Repeat { to, times } => {
                if self.state.gprs.rbx < times {
                    self.state.gprs.rbx += 1;
                    return Ok(self.jump(to));
                }
                self.state.gprs.rbx = 0;
            }
            Step::Forever { to } => return Ok(self.jump(to)),
            // Accesses: `item` has handed them out. An empty string does nothing.
            Step::PioWrite { .. }
            | Step::PioRead { .. }
            | Step::PioWriteEach { .. }
            | Step::PioReadEach { .. }
            | Step::Echo { .. }
            | Step::MmioWrite { .. }
            | Step::MmioRead { .. } => {}
        }
        self.mix(0);
        self.account(1);
        self.next_step();
        Ok(None)
    }

    fn work(&mut self, done: u64, units: u64) {
        if done < units {
            self.mix(done);
            self.account(1);
            self.state.gprs.rcx += 1;
        }
        if self.state.gprs.rcx >= units {
            self.next_step();
        }
    }

    fn jump(&mut self, to: usize) -> Option<Exit> {
        self.account(1);
        self.state.gprs.rcx = 0;
        self.state.gprs.rip = u64::try_from(to).unwrap_or(u64::MAX);
        None
    }

    fn fail(&mut self, fault: Fault) -> Result<Exit, CpuError> {
        Ok(match fault {
            Fault::Shutdown => Exit::Shutdown,
            Fault::InternalError(suberror) => Exit::InternalError { suberror, data: 0 },
            Fault::FailEntry(reason) => Exit::FailEntry { reason },
            Fault::MemoryFault(addr) => Exit::MemoryFault { addr: Some(addr) },
            Fault::Host => {
                self.next_step();
                return Err(CpuError::Host {
                    op: "scripted entry",
                    vcpu: Some(self.id),
                    source: std::io::Error::other("the script says so"),
                });
            }
        })
    }
}

/// Item `at` of an access, or `None` if it has no such item or is no access.
pub(super) fn item(step: &Step, at: u64, last_read: u64) -> Option<Exit> {
    let index = usize::try_from(at).ok()?;
    let only = |exit| (at == 0).then_some(exit);
    match *step {
        Step::PioWrite { port, size, value } => only(Exit::PioWrite { port, size, value }),
        Step::PioRead { port, size, .. } => only(Exit::PioRead { port, size }),
        Step::PioWriteEach {
            port,
            size,
            ref values,
        } => values.get(index).map(|value| Exit::PioWrite {
            port,
            size,
            value: *value,
        }),
        Step::PioReadEach { port, size, count } => {
            (at < count).then_some(Exit::PioRead { port, size })
        }
        Step::Echo { port, size } => {
            let kept = last_read & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 4))));
            only(Exit::PioWrite {
                port,
                size,
                value: u32::try_from(kept).unwrap_or(u32::MAX),
            })
        }
        Step::MmioWrite { addr, size, value } => only(Exit::MmioWrite { addr, size, value }),
        Step::MmioRead { addr, size, .. } => only(Exit::MmioRead { addr, size }),
        Step::Work(_)
        | Step::Deaf(_)
        | Step::NeverLeave(_)
        | Step::Store { .. }
        | Step::Halt
        | Step::Interrupts(_)
        | Step::Fault(_)
        | Step::Repeat { .. }
        | Step::Forever { .. } => None,
    }
}
