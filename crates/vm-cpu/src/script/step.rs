// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The steps that a scripted vCPU executes.

use std::sync::{Arc, PoisonError};

use super::sync::{Condvar, Mutex, MutexGuard};
use crate::x86::Bit;

/// A gate that a vCPU waits at, deaf to kicks, until a test opens it. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    waiting: u32,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for good. Any thread.
    pub fn release(&self) {
        self.lock().open = true;
        self.0.1.notify_all();
    }

    /// Blocks until `count` vCPUs wait at the gate or it is open. Any thread but theirs.
    pub fn wait_for_arrivals(&self, count: u32) {
        let mut state = self.lock();
        while state.waiting < count && !state.open {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn pass(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        while !state.open {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a scripted vCPU fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`crate::Exit::Shutdown`], at every entry from then on.
    Shutdown,
    /// [`crate::Exit::InternalError`] with this suberror, at every entry from then on.
    InternalError(u32),
    /// [`crate::Exit::FailEntry`] with this reason, at every entry from then on.
    FailEntry(u64),
    /// [`crate::Exit::MemoryFault`] at this address, at every entry from then on.
    MemoryFault(u64),
    /// `run` fails with [`crate::CpuError::Host`], once; the next entry goes on behind it.
    Host,
}

/// One step of a [`Script`].
#[derive(Debug, Clone)]
pub enum Step {
    /// This many units of work; kicks and interrupts are seen between any two.
    Work(u64),
    /// This many units of work in one go, deaf to kicks and interrupts.
    Deaf(u64),
    /// Waits at the gate, deaf to kicks and interrupts.
    NeverLeave(Gate),
    /// A port write.
    PioWrite {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// Value.
        value: u32,
    },
    /// A port read.
    PioRead {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// If set, another value ends in an internal error ([`super::MISMATCH`]).
        expect: Option<u32>,
    },
    /// A string of port writes: one exit for each value.
    PioWriteEach {
        /// Port.
        port: u16,
        /// Bytes of one item.
        size: u8,
        /// Values.
        values: Vec<u32>,
    },
    /// A string of port reads.
    PioReadEach {
        /// Port.
        port: u16,
        /// Bytes of one item.
        size: u8,
        /// How many.
        count: u64,
    },
    /// A port write of the value that was read last.
    Echo {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// A write to an address nothing backs.
    MmioWrite {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        size: u8,
        /// Value.
        value: u64,
    },
    /// A read of an address nothing backs.
    MmioRead {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        size: u8,
        /// As for [`Step::PioRead`].
        expect: Option<u64>,
    },
    /// Stores 8 bytes into guest memory; a memory fault if nothing is there.
    Store {
        /// Guest-physical address.
        addr: u64,
        /// Value, little-endian.
        value: u64,
    },
    /// `HLT`.
    Halt,
    /// Sets or clears RFLAGS.IF.
    Interrupts(Bit),
    /// Fails.
    Fault(Fault),
    /// Goes back to step `to`, `times` times; then goes on. Not nested.
    Repeat {
        /// Number of a step before this one.
        to: usize,
        /// How often.
        times: u64,
    },
    /// Goes back to step `to`, for ever.
    Forever {
        /// Number of a step before this one.
        to: usize,
    },
}

/// What one scripted vCPU executes. Behind its last step it is halted with interrupts off.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) report: Option<u16>,
}

impl Script {
    /// An empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends any step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Appends [`Step::Work`].
    #[must_use]
    pub fn work(self, units: u64) -> Self {
        self.then(Step::Work(units))
    }

    /// Appends [`Step::Deaf`].
    #[must_use]
    pub fn deaf(self, units: u64) -> Self {
        self.then(Step::Deaf(units))
    }

    /// Appends [`Step::NeverLeave`].
    #[must_use]
    pub fn never_leave(self, gate: &Gate) -> Self {
        self.then(Step::NeverLeave(gate.clone()))
    }

    /// Appends [`Step::PioWrite`].
    #[must_use]
    pub fn pio_write(self, port: u16, size: u8, value: u32) -> Self {
        self.then(Step::PioWrite { port, size, value })
    }

    /// Appends [`Step::PioRead`] that takes any value.
    #[must_use]
    pub fn pio_read(self, port: u16, size: u8) -> Self {
        self.then(Step::PioRead {
            port,
            size,
            expect: None,
        })
    }

    /// Appends [`Step::PioRead`] that must give `value`.
    #[must_use]
    pub fn pio_expect(self, port: u16, size: u8, value: u32) -> Self {
        self.then(Step::PioRead {
            port,
            size,
            expect: Some(value),
        })
    }

    /// Appends [`Step::MmioWrite`].
    #[must_use]
    pub fn mmio_write(self, addr: u64, size: u8, value: u64) -> Self {
        self.then(Step::MmioWrite { addr, size, value })
    }

    /// Appends [`Step::MmioRead`] that takes any value.
    #[must_use]
    pub fn mmio_read(self, addr: u64, size: u8) -> Self {
        self.then(Step::MmioRead {
            addr,
            size,
            expect: None,
        })
    }

    /// Appends [`Step::Store`].
    #[must_use]
    pub fn store(self, addr: u64, value: u64) -> Self {
        self.then(Step::Store { addr, value })
    }

    /// Appends a halt that an interrupt ends.
    #[must_use]
    pub fn halt(self) -> Self {
        self.then(Step::Interrupts(Bit::Set)).then(Step::Halt)
    }

    /// Appends a halt with interrupts off.
    #[must_use]
    pub fn halt_for_good(self) -> Self {
        self.then(Step::Interrupts(Bit::Clear)).then(Step::Halt)
    }

    /// Appends [`Step::Fault`].
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        self.then(Step::Fault(fault))
    }

    /// Appends the reset request of a keyboard controller: 0xfe to port 0x64.
    #[must_use]
    pub fn reset_request(self) -> Self {
        self.pio_write(0x64, 1, 0xfe)
    }

    /// Repeats everything so far `times` more times.
    #[must_use]
    pub fn repeat(self, times: u64) -> Self {
        self.then(Step::Repeat { to: 0, times })
    }

    /// Repeats everything so far for ever.
    #[must_use]
    pub fn forever(self) -> Self {
        self.then(Step::Forever { to: 0 })
    }

    /// Makes the guest's interrupt handlers write the vector to `port` (1 byte).
    #[must_use]
    pub fn report_interrupts(mut self, port: u16) -> Self {
        self.report = Some(port);
        self
    }

    /// Number of steps so far: where the next one will be.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
