// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entries into and exits out of the guest: owned scalars both ways.

/// How a vCPU enters the guest: nothing, or the answer to the read it left with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entry {
    /// Go on.
    #[default]
    Go,
    /// The value that the pending [`Exit::PioRead`] or [`Exit::MmioRead`] asked for, zero-extended.
    Data(u64),
}

/// Why a vCPU left the guest.
///
/// A string instruction gives one exit for each item; the engine keeps the cursor and hands out the
/// next item at the next [`crate::Vcpu::run`] without entering the guest in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads `size` (1, 2 or 4) bytes from a port; answer with [`Entry::Data`].
    PioRead {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// The guest writes `size` (1, 2 or 4) bytes to a port.
    PioWrite {
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
        /// Value, zero-extended.
        value: u32,
    },
    /// The guest reads `size` (1 to 8) bytes of an address nothing backs; answer with [`Entry::Data`].
    MmioRead {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        size: u8,
    },
    /// The guest writes `size` (1 to 8) bytes to an address nothing backs.
    MmioWrite {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        size: u8,
        /// Value, zero-extended.
        value: u64,
    },
    /// The guest halted and the engine has no interrupt controller to wait in
    /// ([`crate::IrqMode::None`]); `interruptible` tells whether RFLAGS.IF was set.
    Halt {
        /// Whether an interrupt could end the halt.
        interruptible: bool,
    },
    /// A kick ended guest execution, or kept it from starting.
    Kicked,
    /// The guest can take an interrupt now, which [`crate::Vcpu::want_window`] had asked to hear.
    IrqWindow,
    /// The guest acknowledged a level-triggered vector that an IOAPIC pin is routed to.
    Eoi {
        /// The vector.
        vector: u8,
    },
    /// Triple fault: the processor shut down.
    Shutdown,
    /// The engine could not enter the guest at all.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// The engine could not go on executing the guest.
    InternalError {
        /// KVM's suberror (KVM API, section 5, `KVM_EXIT_INTERNAL_ERROR`), or the engine's own.
        suberror: u32,
        /// First data word, engine-specific.
        data: u64,
    },
    /// The guest reached memory that the host could not provide (`EFAULT` of `KVM_RUN`).
    MemoryFault {
        /// Guest-physical address if the engine knows it.
        addr: Option<u64>,
    },
}

impl Exit {
    /// A short stable name, for the flight recorder and for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PioRead { .. } => "pio-read",
            Self::PioWrite { .. } => "pio-write",
            Self::MmioRead { .. } => "mmio-read",
            Self::MmioWrite { .. } => "mmio-write",
            Self::Halt { .. } => "halt",
            Self::Kicked => "kicked",
            Self::IrqWindow => "irq-window",
            Self::Eoi { .. } => "eoi",
            Self::Shutdown => "shutdown",
            Self::FailEntry { .. } => "fail-entry",
            Self::InternalError { .. } => "internal-error",
            Self::MemoryFault { .. } => "memory-fault",
        }
    }
}
