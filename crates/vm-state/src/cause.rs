// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a VM changed its state: small plain values that travel with each change.

use std::fmt;

/// Why somebody suspended the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuspendReason {
    /// A person or a controlling program asked.
    User,
    /// The configuration is about to change.
    Reconfigure,
    /// The VMM itself needs it.
    Vm,
    /// A runtime error that can be put right, such as a full disk.
    RuntimeError,
    /// The host goes to sleep.
    HostSuspend,
    /// The host is about to lose power.
    HostBatteryLow,
}

/// Why somebody resumed the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResumeReason {
    /// A person or a controlling program asked.
    User,
    /// The configuration has been changed.
    Reconfigure,
    /// The host woke up.
    HostResume,
    /// A saved state has been restored.
    StateRestored,
    /// A saved state has been written.
    StateSaved,
    /// The VM arrived by teleport.
    Teleported,
    /// A teleport failed and the VM goes on at its source.
    TeleportFailed,
}

/// Why a VM changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A person or a controlling program asked.
    User,
    /// The guest asked: by a reset port, a power management register, a triple fault.
    Guest,
    /// A device of this kind asked or failed.
    Device(&'static str),
    /// This vCPU cannot go on.
    Vcpu(u32),
    /// A runtime error was raised.
    RuntimeError,
    /// The host cannot serve the VM any longer.
    Host,
    /// A suspend, and why.
    Suspend(SuspendReason),
    /// A resume, and why.
    Resume(ResumeReason),
    /// A save or a teleport, one of its steps.
    Save,
    /// A restore.
    Load,
    /// The owner ends the VM.
    Destroy,
    /// A transition failed, or its holder gave it up.
    Abandoned,
}

impl fmt::Display for SuspendReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::Reconfigure => "reconfigure",
            Self::Vm => "vm",
            Self::RuntimeError => "runtime error",
            Self::HostSuspend => "host suspend",
            Self::HostBatteryLow => "host battery low",
        })
    }
}

impl fmt::Display for ResumeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::Reconfigure => "reconfigure",
            Self::HostResume => "host resume",
            Self::StateRestored => "state restored",
            Self::StateSaved => "state saved",
            Self::Teleported => "teleported",
            Self::TeleportFailed => "teleport failed",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.pad("user"),
            Self::Guest => f.pad("guest"),
            Self::Device(kind) => write!(f, "device {kind}"),
            Self::Vcpu(vcpu) => write!(f, "vCPU {vcpu}"),
            Self::RuntimeError => f.pad("runtime error"),
            Self::Host => f.pad("host"),
            Self::Suspend(reason) => write!(f, "suspend ({reason})"),
            Self::Resume(reason) => write!(f, "resume ({reason})"),
            Self::Save => f.pad("save"),
            Self::Load => f.pad("load"),
            Self::Destroy => f.pad("destroy"),
            Self::Abandoned => f.pad("abandoned"),
        }
    }
}
