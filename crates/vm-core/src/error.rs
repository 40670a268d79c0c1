// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an operation on a VM can fail with.

use std::time::Duration;

use vm_cpu::CpuError;
use vm_emt::Word;
use vm_pdm::{DeviceError, PlaceError};
use vm_rendezvous::MeetError;
use vm_req::CallError;
use vm_state::{Refused, State};

use crate::component::ComponentError;
use crate::save::SaveError;

/// A failed or refused operation.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The specification asks for something that cannot be.
    #[error("{field}: {why}")]
    Spec {
        /// The field, as the configuration spells it.
        field: &'static str,
        /// What would be right.
        why: String,
    },
    /// The state does not allow the operation; nothing changed.
    #[error("{op} refused: {refused}")]
    Refused {
        /// The operation.
        op: &'static str,
        /// What was wanted and what is.
        refused: Refused,
    },
    /// A vCPU, device or component failed for good on the way; the VM ended in this state instead.
    #[error("{op} failed: the VM is in {state} now; its report says why")]
    Fatal {
        /// The operation.
        op: &'static str,
        /// Where the VM is now.
        state: State,
    },
    /// An operation that the guest or a device asked for is void: the machine that asked for it was
    /// reset, or somebody else did it.
    #[error("{op}, asked for by the guest or a device, was overtaken")]
    Overtaken {
        /// The operation.
        op: &'static str,
    },
    /// A vCPU that cannot be plugged or unplugged; nothing changed.
    #[error("vCPU {vcpu} {why}")]
    Vcpu {
        /// Its number.
        vcpu: u32,
        /// Why.
        why: String,
    },
    /// A blocking operation was called where it would wait for its own caller.
    #[error("{op} refused: called from {from}; call it from another thread")]
    WouldBlock {
        /// The operation.
        op: &'static str,
        /// Where the call came from.
        from: &'static str,
    },
    /// A vCPU did not come to the meeting, or did not serve a request, in time. The VM is as before
    /// the operation.
    #[error("{op}: vCPU {vcpu} is late ({word}, last exit {exit}, rip {rip:#x})")]
    Late {
        /// The operation.
        op: &'static str,
        /// Who was late.
        vcpu: u32,
        /// Its doorbell word.
        word: String,
        /// Its last exit.
        exit: &'static str,
        /// Its instruction pointer at that exit, 0 if unknown.
        rip: u64,
    },
    /// A component could not be brought up or reset; those before it were taken down in reverse.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// A device's hook failed; the operation was undone.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Nothing was attached or detached, if the error does not say otherwise.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// An operation failed, and so did undoing it; the VM is in guru meditation.
    #[error("{op} failed: {error}; and undoing it failed: {undo}")]
    NotUndone {
        /// The operation.
        op: &'static str,
        /// What it failed with.
        error: Box<VmError>,
        /// What undoing it failed with.
        undo: Box<VmError>,
    },
    /// Devices did not finish in time; the operation was undone.
    #[error(
        "{op}: {devices} did not finish within {limit:?}; look at what their host end waits for"
    )]
    Pending {
        /// The operation.
        op: &'static str,
        /// Their names.
        devices: String,
        /// The limit.
        limit: Duration,
    },
    /// A save has no result.
    #[error(transparent)]
    Save {
        /// Why.
        source: SaveError,
    },
    /// The CPU backend failed.
    #[error("vCPU backend failed during {op}")]
    Cpu {
        /// The operation.
        op: &'static str,
        /// What the backend said.
        #[source]
        source: CpuError,
    },
    /// A thread could not be started.
    #[error("cannot start thread {name}")]
    Thread {
        /// Its name.
        name: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The VM is being destroyed or is gone.
    #[error("{op}: the VM is being destroyed")]
    Gone {
        /// The operation.
        op: &'static str,
    },
    /// Code run on an EMT panicked; the EMT lives on, the VM is in guru meditation if its state was
    /// half changed.
    #[error("{op}: a callback panicked on emt-{vcpu}; this is a defect, please report it")]
    Panicked {
        /// The operation.
        op: &'static str,
        /// The EMT.
        vcpu: u32,
    },
}

impl VmError {
    /// Translates what a rendezvous of `op` gave.
    pub(crate) fn from_meet(op: &'static str, e: MeetError<VmError>) -> Self {
        match e {
            MeetError::Failed { error, .. } => error,
            MeetError::Late {
                vcpu,
                word,
                exit,
                rip,
            } => Self::late(op, vcpu, word, exit, rip),
            MeetError::OnEmt => Self::WouldBlock { op, from: "an EMT" },
            MeetError::Deadlock => Self::WouldBlock {
                op,
                from: "inside a rendezvous",
            },
            MeetError::Panicked { vcpu } => Self::Panicked { op, vcpu },
            MeetError::NoEmts => Self::Gone { op },
        }
    }

    /// Translates what a request of `op` to `to` gave.
    pub(crate) fn from_call(op: &'static str, to: u32, e: CallError) -> Self {
        match e {
            CallError::Timeout {
                vcpu,
                word,
                exit,
                rip,
            } => Self::late(op, vcpu, word, exit, rip),
            CallError::OnEmt => Self::WouldBlock { op, from: "an EMT" },
            CallError::Deadlock => Self::WouldBlock {
                op,
                from: "an EMT that it would wait for",
            },
            CallError::Panicked => Self::Panicked { op, vcpu: to },
            CallError::Killed
            | CallError::NotLive { .. }
            | CallError::NoSuchVcpu { .. }
            | CallError::Taken => Self::Gone { op },
        }
    }

    fn late(op: &'static str, vcpu: u32, word: Word, exit: u32, rip: u64) -> Self {
        Self::Late {
            op,
            vcpu,
            word: word.to_string(),
            exit: crate::recorder::exit_name(exit),
            rip,
        }
    }
}
