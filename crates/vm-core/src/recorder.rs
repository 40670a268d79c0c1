// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The flight recorder: what an EMT did last, in a bounded ring of its own.

use std::fmt;
use std::sync::Arc;

use vm_cpu::Exit;
use vm_state::State;

use crate::observe::EmtCounts;

/// Exit codes that an EMT publishes beside its doorbell word, so that an error can say what a late
/// vCPU did last. Index is the code.
pub(crate) const EXIT_NAMES: [&str; 14] = [
    "none",
    "pio-read",
    "pio-write",
    "mmio-read",
    "mmio-write",
    "halt",
    "kicked",
    "irq-window",
    "eoi",
    "shutdown",
    "fail-entry",
    "internal-error",
    "memory-fault",
    "host-error",
];

/// The name of a published exit code.
pub(crate) fn exit_name(code: u32) -> &'static str {
    usize::try_from(code)
        .ok()
        .and_then(|i| EXIT_NAMES.get(i))
        .copied()
        .unwrap_or("unknown")
}

/// The code to publish for `exit`; a host error is [`HOST_ERROR`].
pub(crate) fn exit_code(exit: &Exit) -> u32 {
    match exit {
        Exit::PioRead { .. } => 1,
        Exit::PioWrite { .. } => 2,
        Exit::MmioRead { .. } => 3,
        Exit::MmioWrite { .. } => 4,
        Exit::Halt { .. } => 5,
        Exit::Kicked => 6,
        Exit::IrqWindow => 7,
        Exit::Eoi { .. } => 8,
        Exit::Shutdown => 9,
        Exit::FailEntry { .. } => 10,
        Exit::InternalError { .. } => 11,
        Exit::MemoryFault { .. } => 12,
    }
}

/// Code of an exit that the host failed.
pub(crate) const HOST_ERROR: u32 = 13;

/// Entries a recorder keeps.
const KEPT: usize = 32;

/// Something an EMT did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flight {
    /// The vCPU left the guest.
    Exit(Exit),
    /// It served a request.
    Request,
    /// It did its part of an operation.
    Part(&'static str),
    /// It moved the VM's state here.
    State(State),
    /// It could not go on.
    Guru,
}

impl fmt::Display for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(exit) => write!(f, "exit {exit:x?}"),
            Self::Request => f.write_str("request served"),
            Self::Part(op) => write!(f, "part of {op}"),
            Self::State(state) => write!(f, "state {state}"),
            Self::Guru => f.write_str("could not go on"),
        }
    }
}

/// The last deeds of one EMT, newest last. Owned by the EMT; others see a copy in a report.
#[derive(Debug)]
pub(crate) struct Recorder {
    ring: [Option<Flight>; KEPT],
    next: usize,
    exits: u64,
    counts: Arc<EmtCounts>,
}

impl Recorder {
    /// Counts in `counts`, which is this EMT's alone.
    pub(crate) fn new(counts: Arc<EmtCounts>) -> Self {
        Self {
            counts,
            ring: [None; KEPT],
            next: 0,
            exits: 0,
        }
    }

    pub(crate) fn record(&mut self, flight: Flight) {
        self.counts.count(&flight);
        self.exits += u64::from(matches!(flight, Flight::Exit(_)));
        self.ring[self.next] = Some(flight);
        self.next = (self.next + 1) % KEPT;
    }

    /// Exits since the VM was created.
    pub(crate) fn exits(&self) -> u64 {
        self.exits
    }

    /// The last deeds, oldest first.
    pub(crate) fn last(&self) -> Vec<Flight> {
        (0..KEPT)
            .filter_map(|i| self.ring[(self.next + i) % KEPT])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_keeps_the_newest_deeds_in_order() {
        let mut recorder = Recorder::new(Arc::default());
        for port in 0..100 {
            recorder.record(Flight::Exit(Exit::PioRead { port, size: 1 }));
        }
        let expected: Vec<Flight> = (68..100)
            .map(|port| Flight::Exit(Exit::PioRead { port, size: 1 }))
            .collect();
        assert_eq!(recorder.last(), expected);
        assert_eq!(recorder.exits(), 100);
    }

    #[test]
    fn every_exit_publishes_the_code_of_its_own_name() {
        let exits = [
            Exit::PioRead { port: 0, size: 1 },
            Exit::PioWrite {
                port: 0,
                size: 1,
                value: 0,
            },
            Exit::MmioRead { addr: 0, size: 1 },
            Exit::MmioWrite {
                addr: 0,
                size: 1,
                value: 0,
            },
            Exit::Halt {
                interruptible: true,
            },
            Exit::Kicked,
            Exit::IrqWindow,
            Exit::Eoi { vector: 0 },
            Exit::Shutdown,
            Exit::FailEntry { reason: 0 },
            Exit::InternalError {
                suberror: 0,
                data: 0,
            },
            Exit::MemoryFault { addr: None },
        ];
        for exit in exits {
            assert_eq!(exit_name(exit_code(&exit)), exit.name());
        }
        assert_eq!(exit_name(HOST_ERROR), "host-error");
        assert_eq!(exit_name(u32::MAX), "unknown");
    }
}
