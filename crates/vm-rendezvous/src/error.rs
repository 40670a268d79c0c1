// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a rendezvous answers.

use vm_emt::{Flow, Word};

/// A rendezvous that took place without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// The most urgent of what the callbacks asked for. Every EMT left with the same.
    pub flow: Flow,
    /// How many EMTs were held.
    pub held: u32,
    /// How many callbacks ran.
    pub ran: u32,
}

/// Why a rendezvous did not do what was asked. E is the callback's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeetError<E> {
    /// A callback failed; this is the first failure.
    #[error("the callback failed on vCPU {vcpu}")]
    Failed {
        /// Where.
        vcpu: u32,
        /// Its error.
        #[source]
        error: E,
    },
    /// An EMT did not come in time. No callback ran; the EMTs that had come went on.
    #[error(
        "vCPU {vcpu} did not come to the rendezvous in time: it is {word}, its last exit was {exit} \
         at {rip:#x}; kick it, or give it more time"
    )]
    Late {
        /// Who was late.
        vcpu: u32,
        /// Its doorbell word.
        word: Word,
        /// The embedder's code of its last exit.
        exit: u32,
        /// The guest's RIP there, 0 if unknown.
        rip: u64,
    },
    /// The caller is an EMT of this VM, which would wait for itself.
    #[error("an EMT cannot call a rendezvous from outside; use meet_from, which takes part")]
    OnEmt,
    /// The caller is inside a rendezvous that allows no further one: callbacks run together there,
    /// it is nested too deeply, or it runs on its initiator's thread.
    #[error(
        "no rendezvous can be nested here: all callbacks run together, it is too deep, or it \
             runs on the initiator's thread"
    )]
    Deadlock,
    /// A callback panicked; this is the first failure. Its EMT lives on.
    #[error("the callback panicked on vCPU {vcpu}; the panic message says where")]
    Panicked {
        /// Where.
        vcpu: u32,
    },
    /// No EMT is enrolled, so there is nobody to run the callback.
    #[error("the VM has no EMT; start one first")]
    NoEmts,
}
