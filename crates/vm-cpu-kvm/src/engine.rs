// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The engine: KVM opened and checked.

use std::ffi::CString;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use vm_cpu::{
    CpuError, CpuSpec, Engine, Features, GuestRam, IrqMode, Machine, MachineSpec, RamLayout,
};

use crate::errno::host_error;
use crate::host::{self, Host};
use crate::machine::KvmMachine;
use crate::signal::Signal;
use crate::{GuestSpeed, msrs, speed};

const DEVICE: &str = "/dev/kvm";
/// Memory of a machine that is never entered.
const TRIAL_BYTES: u64 = 4096;

/// KVM as a CPU backend.
#[derive(Debug)]
pub struct KvmEngine {
    kvm: Kvm,
    facts: Arc<Facts>,
}

/// What machines of an engine share: facts that do not change while the host runs.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) host: Host,
    pub(crate) signal: Signal,
    /// Supported CPUID, before it is fitted to a vCPU.
    pub(crate) cpuid: CpuId,
    /// MSRs that are part of a vCPU's state, in the order in which they are set.
    pub(crate) msrs: Vec<u32>,
}

impl KvmEngine {
    /// Opens `/dev/kvm`. Kicks use the real-time signal `SIGRTMIN + 4`.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] if the host cannot, with what to do about it.
    pub fn open() -> Result<Self, CpuError> {
        Self::with_signal(Signal::default_number())
    }

    /// Opens `/dev/kvm`; kicks use signal `number`, whose handler is installed, once for the process.
    ///
    /// # Errors
    /// As [`KvmEngine::open`]; also if the process handles that signal already.
    pub fn with_signal(number: i32) -> Result<Self, CpuError> {
        let kvm = open(DEVICE)?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| host_error("KVM_GET_SUPPORTED_CPUID", None, e))?;
        let msrs = msrs::saved(&kvm)?;
        let signal = Signal::install(number)?;
        let host = Host::read(&kvm);
        Ok(Self {
            kvm,
            facts: Arc::new(Facts {
                host,
                signal,
                cpuid,
                msrs,
            }),
        })
    }

    /// What the host offers, without making anything.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] if `/dev/kvm` does not open or is not KVM. A capability that is
    /// missing is no error here: see [`Host::check`].
    pub fn probe() -> Result<Host, CpuError> {
        Ok(Host::read(&open(DEVICE)?))
    }

    /// What this engine's host offers.
    pub fn host(&self) -> &Host {
        &self.facts.host
    }

    /// Whether the host executes guest kernels on the processor or interprets them. Takes less than
    /// 50 ms.
    ///
    /// # Errors
    /// As [`Engine::create`], for the small machine that it tries with.
    pub fn speed_probe(&self) -> Result<GuestSpeed, CpuError> {
        speed::probe(self)
    }

    /// Tries whether guests can have this CPU, by making one vCPU of it.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] with what the host lacks, or that its KVM does not keep to the model.
    pub fn try_cpu(&self, cpu: CpuSpec) -> Result<(), CpuError> {
        let ram = RamLayout { bytes: TRIAL_BYTES }.allocate()?;
        let spec = MachineSpec {
            vcpus: 1,
            irq: IrqMode::None,
            cpu,
        };
        self.machine(&spec, &ram)?.vcpu(0).map(drop)
    }

    /// The features with a name that guests can have on this host.
    pub fn features(&self) -> Features {
        crate::model::offered(self.facts.cpuid.as_slice())
    }

    /// As [`Engine::create`], with the engine's own type.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub fn machine(&self, spec: &MachineSpec, ram: &GuestRam) -> Result<KvmMachine, CpuError> {
        KvmMachine::new(&self.kvm, Arc::clone(&self.facts), spec, ram)
    }
}

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn create(&self, spec: &MachineSpec, ram: &GuestRam) -> Result<Arc<dyn Machine>, CpuError> {
        Ok(Arc::new(self.machine(spec, ram)?))
    }
}

fn open(path: &str) -> Result<Kvm, CpuError> {
    let name = CString::new(path).map_err(|e| host::open_error(path, e.into()))?;
    let kvm = Kvm::new_with_path(&name).map_err(|e| host::open_error(path, e.into()))?;
    host::check_is_kvm(path, &kvm)?;
    Ok(kvm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> String {
        match open(path) {
            Err(CpuError::Unavailable { what, hint }) => format!("{what}: {hint}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_missing_device_is_named() {
        assert!(refusal("/dev/no-such-kvm").starts_with("/dev/no-such-kvm: it does not exist"));
    }

    #[test]
    fn a_file_that_is_not_kvm_is_named() {
        assert!(refusal("/dev/null").starts_with("/dev/null: it does not answer as KVM"));
    }
}
