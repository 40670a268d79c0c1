// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a CPU backend can fail with.

/// A failure of a CPU backend. Each variant is something a caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The host cannot run this engine, or lacks something the machine needs.
    #[error("{what}: {hint}")]
    Unavailable {
        /// What is missing, e.g. `/dev/kvm` or `KVM_CAP_SPLIT_IRQCHIP`.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// An operation of the host failed.
    #[error("{op} failed{}", vcpu.map(|v| format!(" on vCPU {v}")).unwrap_or_default())]
    Host {
        /// The operation, e.g. `KVM_RUN`.
        op: &'static str,
        /// The vCPU concerned, if one was.
        vcpu: Option<u32>,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A state or request does not fit this machine.
    #[error("{what}: {why}")]
    Invalid {
        /// The field or argument.
        what: String,
        /// What would be right.
        why: String,
    },
    /// The vCPU's pending exit is not finished: call `Vcpu::settle` first.
    #[error("vCPU {vcpu} has an unfinished exit")]
    Unsettled {
        /// The vCPU.
        vcpu: u32,
    },
}
