// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a request has no result.

use vm_emt::Word;

/// Why a request has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The VM has fewer vCPUs.
    #[error("there is no vCPU {vcpu}; this VM has {count}, numbered from 0")]
    NoSuchVcpu {
        /// The vCPU asked for.
        vcpu: u32,
        /// How many there are.
        count: u32,
    },
    /// The caller is an EMT of this VM and would have slept without serving its own bell.
    #[error("an EMT cannot wait for a request like this; use call_from, which serves meanwhile")]
    OnEmt,
    /// The limit passed and the request had not begun. A call is withdrawn; a ticket may be waited
    /// for again.
    #[error(
        "vCPU {vcpu} did not take the request in time: it is {word}, its last exit was {exit} at \
         {rip:#x}; kick it, or give it more time"
    )]
    Timeout {
        /// Who was late.
        vcpu: u32,
        /// Its doorbell word.
        word: Word,
        /// The embedder's code of its last exit.
        exit: u32,
        /// The guest's RIP there, 0 if unknown.
        rip: u64,
    },
    /// The queues were closed before the request ran: the VM is being destroyed.
    #[error("the request was dropped because the VM is being destroyed")]
    Killed,
    /// The request panicked. The EMT lives on.
    #[error("the request panicked on its EMT; the panic message says where")]
    Panicked,
    /// The request could never be answered: its target is held in the rendezvous the caller is in.
    #[error("an EMT in a rendezvous cannot call another: all are held; call after the rendezvous")]
    Deadlock,
    /// No thread is enrolled as that EMT (or as any).
    #[error("vCPU {vcpu} has no EMT; start its thread first")]
    NotLive {
        /// The vCPU asked for; 0 for "any".
        vcpu: u32,
    },
    /// The result was taken by an earlier wait.
    #[error("the ticket's result was taken already; wait for it once")]
    Taken,
}
