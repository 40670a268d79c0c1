// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a processor is about to do, or waits for, between two instructions.

use serde::{Deserialize, Serialize};

/// One bit of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Bit {
    /// 0.
    #[default]
    Clear,
    /// 1.
    Set,
}

impl From<bool> for Bit {
    fn from(yes: bool) -> Self {
        if yes { Self::Set } else { Self::Clear }
    }
}

impl Bit {
    /// Whether the bit is 1.
    pub fn is_set(self) -> bool {
        self == Self::Set
    }
}

/// How far the delivery of an exception got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Raised, side effects (CR2, DR6) not applied, may still be replaced.
    Pending,
    /// Side effects applied; it will be delivered at the next entry.
    Injected,
}

/// An exception that is not delivered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error_code: Option<u32>,
    /// How far it got.
    pub delivery: Delivery,
    /// What goes to CR2 (#PF) or DR6 (#DB) when it is delivered, if it is still pending.
    pub payload: Option<u64>,
}

/// An interrupt that the guest has acknowledged but not taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Vector.
    pub vector: u8,
    /// Whether it comes from an `INT n` instruction.
    pub soft: Bit,
}

/// Non-maskable interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nmi {
    /// How many wait, at most 2.
    pub pending: u8,
    /// One will be delivered at the next entry.
    pub injected: Bit,
    /// Blocked until the next `IRET`.
    pub masked: Bit,
}

/// System management mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Smi {
    /// The processor is in SMM.
    pub smm: Bit,
    /// An SMI waits.
    pub pending: Bit,
    /// SMM was entered from an NMI handler.
    pub inside_nmi: Bit,
    /// An INIT waits for the end of SMM.
    pub latched_init: Bit,
}

/// Events between two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events {
    /// Exception to deliver.
    pub exception: Option<Exception>,
    /// Interrupt to deliver.
    pub interrupt: Option<Interrupt>,
    /// Interrupt shadow: bit 0 after `MOV SS` or `POP SS`, bit 1 after `STI`.
    pub shadow: u8,
    /// NMIs.
    pub nmi: Nmi,
    /// SMIs.
    pub smi: Smi,
    /// Vector of a start-up IPI that is accepted and not acted on.
    pub sipi_vector: Option<u8>,
    /// A triple fault is to be reported.
    pub triple_fault: Bit,
}

/// Whether a processor executes, or what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activity {
    /// It executes instructions.
    #[default]
    Running,
    /// It executed `HLT` and waits for an interrupt.
    Halted,
    /// It waits for INIT: an application processor at power-on.
    WaitForInit,
    /// It waits for a start-up IPI.
    WaitForSipi,
    /// It has a start-up IPI and is about to act on it.
    SipiReceived,
}
