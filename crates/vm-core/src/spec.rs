// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a VM is made from, as plain data.

use std::time::Duration;

use vm_cpu::{CpuSpec, IrqMode};

use crate::VmError;

/// Most vCPUs a VM can have.
pub const MAX_VCPUS: u32 = 64;

/// What becomes of a VM whose guest triple-faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TripleFault {
    /// Guru meditation: kept for inspection.
    #[default]
    Guru,
    /// Hard reset.
    Reset,
    /// Power off.
    PowerOff,
}

/// What becomes of a VM whose guest asks for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReset {
    /// Reset.
    #[default]
    Reset,
    /// Power off instead.
    PowerOff,
    /// The vCPU that asked halts and nothing is reset, so that the machine can be looked at.
    Halt,
}

/// What a VM is made from.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Name, for logs.
    pub name: String,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// How many of them the guest has from the start, 1 or more; the others can be plugged later.
    /// `None`: all.
    pub plugged: Option<u32>,
    /// How much of a host CPU each vCPU may use, 1 to 100 percent.
    pub cap_percent: u32,
    /// Guest memory in bytes, a multiple of 4096.
    pub memory_bytes: u64,
    /// Interrupt controllers.
    pub irq: IrqMode,
    /// Which CPU the guest sees.
    pub cpu: CpuSpec,
    /// What a guest's reset does.
    pub on_reset: OnReset,
    /// What a triple fault does.
    pub on_triple_fault: TripleFault,
    /// How long an operation waits for the EMTs to meet before it names the late one and gives up.
    pub gather_limit: Duration,
    /// How long an operation waits for devices that are pending before it names them and gives up.
    pub quiesce_limit: Duration,
    /// A mistake that a model must catch.
    #[cfg(shuttle)]
    #[doc(hidden)]
    pub fault: crate::Fault,
}

impl Default for VmSpec {
    fn default() -> Self {
        Self {
            name: "vm".into(),
            vcpus: 1,
            plugged: None,
            cap_percent: crate::cap::FULL,
            memory_bytes: 256 << 20,
            irq: IrqMode::default(),
            cpu: CpuSpec::default(),
            on_reset: OnReset::default(),
            on_triple_fault: TripleFault::default(),
            gather_limit: Duration::from_secs(10),
            quiesce_limit: Duration::from_secs(10),
            #[cfg(shuttle)]
            fault: crate::Fault::None,
        }
    }
}

impl VmSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// [`VmError::Spec`] naming the first field that is wrong and what would be right.
    pub fn check(&self) -> Result<(), VmError> {
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(VmError::Spec {
                field: "cpus",
                why: format!("{} is not between 1 and {MAX_VCPUS}", self.vcpus),
            });
        }
        let vcpus = self.vcpus;
        if let Some(n) = self.plugged
            && (n == 0 || n > vcpus)
        {
            return Err(VmError::Spec {
                field: "cpus",
                why: format!("{n} at the start is not between 1 and the {vcpus} that there can be"),
            });
        }
        crate::processors::check_cap(self.cap_percent)?;
        if self.memory_bytes == 0 || !self.memory_bytes.is_multiple_of(4096) {
            return Err(VmError::Spec {
                field: "memory",
                why: format!(
                    "{} bytes is not a positive multiple of 4096",
                    self.memory_bytes
                ),
            });
        }
        Ok(())
    }
}
