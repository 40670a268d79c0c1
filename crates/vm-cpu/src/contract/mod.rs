// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What every CPU backend promises, as tests that any backend runs.
//!
//! A backend supplies a [`Fixture`], which turns a list of [`Op`]s into a guest of its own form: a
//! script, or machine code. Its test then calls [`check_all`], or the [`CASES`] one by one. Every wait
//! has a limit, so a backend that breaks its promise fails and does not hang.
//!
//! ```no_run
//! # fn of(fixture: &dyn vm_cpu::contract::Fixture) {
//! vm_cpu::contract::check_all(fixture);
//! # }
//! ```

mod exits;
mod guest;
mod interrupts;
mod kicks;
mod states;
mod time;

use std::sync::Arc;

use crate::{CpuError, IrqMode, Machine, Vcpu};

/// Port that the guest's interrupt handlers write the vector to, 1 byte.
pub const VECTOR_PORT: u16 = 0x11;

/// Where unbacked addresses begin that [`Op::MmioRead`] and [`Op::MmioWrite`] use; they stay below
/// 64 KiB behind it.
pub const MMIO_BASE: u64 = 0xd_0000;

/// What a guest program does, in order. "The value read last" is kept by the guest, 4 bytes, for
/// [`Op::Echo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Writes to a port.
    Out {
        /// Port, below 256.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// Value.
        value: u32,
    },
    /// Reads a port.
    In {
        /// Port, below 256.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// Writes the value read last to a port.
    Echo {
        /// Port, below 256.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// Writes bytes to a port with one string instruction.
    OutString {
        /// Port, below 256.
        port: u16,
        /// The bytes, at most 16.
        bytes: &'static [u8],
    },
    /// Reads bytes from a port with one string instruction; the last one is the value read last.
    InString {
        /// Port, below 256.
        port: u16,
        /// How many, 1 to 16.
        count: u8,
    },
    /// Writes to an unbacked address.
    MmioWrite {
        /// Address, from [`MMIO_BASE`].
        addr: u64,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// Value.
        value: u32,
    },
    /// Reads from an unbacked address.
    MmioRead {
        /// Address, from [`MMIO_BASE`].
        addr: u64,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// Lets interrupts in.
    InterruptsOn,
    /// Keeps them out.
    InterruptsOff,
    /// `HLT`.
    Halt,
    /// Goes nowhere, for ever, with interrupts as they are.
    Spin,
    /// Ends in a triple fault.
    TripleFault,
}

/// What a backend's test supplies.
///
/// Guests handle every interrupt vector by writing it to [`VECTOR_PORT`] and, with a controller,
/// acknowledging it afterwards. Programs begin with interrupts off and end in [`Op::Spin`],
/// [`Op::Halt`] or [`Op::TripleFault`].
pub trait Fixture {
    /// A machine whose guest memory holds the program.
    ///
    /// # Errors
    /// Whatever making it gives; the suite fails with it.
    fn machine(
        &self,
        irq: IrqMode,
        vcpus: u32,
        program: &[Op],
    ) -> Result<Arc<dyn Machine>, CpuError>;

    /// Puts a vCPU of such a machine, in its power-on state, at the start of the program.
    ///
    /// # Errors
    /// Whatever setting its state gives; the suite fails with it.
    fn start(&self, irq: IrqMode, vcpu: &mut dyn Vcpu) -> Result<(), CpuError>;

    /// Vector of the start-up IPI that starts a vCPU at the program.
    fn sipi_vector(&self) -> u8;
}

/// A case: the promise, and the test of it, which panics if it is broken.
pub type Case = (&'static str, fn(&dyn Fixture));

/// All cases, by the name of the promise.
pub const CASES: &[Case] = &[
    (
        "a port write leaves with port, size and value",
        exits::port_writes,
    ),
    (
        "the answer to a port read reaches the guest",
        exits::port_reads,
    ),
    (
        "a string instruction leaves once for each item",
        exits::strings,
    ),
    (
        "accesses to unbacked memory leave with address, size and value",
        exits::unbacked_memory,
    ),
    (
        "an entry must answer exactly when a read is pending",
        exits::answers_must_fit,
    ),
    ("a triple fault leaves as shutdown", exits::triple_fault),
    (
        "a halt without controller leaves, and lasts until an interrupt",
        exits::halts,
    ),
    (
        "settling finishes an exit and executes nothing further",
        exits::settling,
    ),
    (
        "settling hands out the further items of a string",
        exits::settling_strings,
    ),
    (
        "an unsettled vCPU does not give its state",
        exits::unsettled_is_refused,
    ),
    (
        "a kick before an entry keeps the guest from running and is used up",
        kicks::before_entry,
    ),
    ("a kick during an entry ends it", kicks::during_entry),
    (
        "a kick between exit and entry is seen and loses no exit",
        kicks::between,
    ),
    (
        "a kick made before settling is seen at the next entry",
        kicks::survives_settling,
    ),
    ("a kick ends a halt inside the engine", kicks::during_halt),
    (
        "a state that is set is the state that is read",
        states::round_trip,
    ),
    (
        "a state moves to another machine and the guest goes on",
        states::moves,
    ),
    (
        "a halted vCPU is still halted after its state moved",
        states::moves_halted,
    ),
    (
        "a reset brings back the power-on state and drops what is pending",
        states::reset,
    ),
    (
        "a state that does not fit is refused by its field's name",
        states::misfits,
    ),
    (
        "a vCPU is made once, and only below the count",
        states::vcpu_numbers,
    ),
    ("the clock goes on from where it is set", states::clock),
    ("while time is held no clock of the guest moves", time::held),
    (
        "of the time that was held nothing has passed when it goes on",
        time::goes_on,
    ),
    (
        "what vCPUs' TSCs differ by outlives a hold, whichever of them ran",
        time::differences,
    ),
    (
        "a TSC and a clock that are set while time is held stand until it goes on",
        time::set_while_held,
    ),
    (
        "two machines in one process do not disturb each other",
        states::two_machines,
    ),
    (
        "a window opens when the guest lets interrupts in",
        interrupts::window,
    ),
    (
        "interrupts come as the machine has them or not",
        interrupts::wrong_kind,
    ),
    ("an MSI is taken and ends a halt", interrupts::msi),
    (
        "a level-triggered pin's acknowledgement is reported",
        interrupts::eoi,
    ),
    (
        "a vCPU other than the first waits for its start-up IPI",
        interrupts::startup,
    ),
    (
        "without controller a vCPU other than the first stays halted",
        interrupts::no_startup,
    ),
];

/// Runs all cases.
///
/// # Panics
/// If the backend breaks a promise, with its name.
pub fn check_all(fixture: &dyn Fixture) {
    let mut broken = Vec::new();
    for (promise, case) in CASES {
        let run = std::panic::AssertUnwindSafe(|| case(fixture));
        if std::panic::catch_unwind(run).is_err() {
            broken.push(*promise);
        }
    }
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}
