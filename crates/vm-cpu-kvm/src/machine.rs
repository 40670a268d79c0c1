// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One VM.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    CpuId, KVM_CAP_BINARY_STATS_FD, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_XSAVE2, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting,
    kvm_cpuid_entry2, kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_cpu::{
    CpuError, CpuModel, GuestRam, Held, IrqMode, Machine, MachineSpec, Msi, Statistic, Vcpu,
};

use crate::cpuid::{self, Fit, Offer};
use crate::engine::Facts;
use crate::errno::{host_error, invalid};
use crate::stats::Source;
use crate::time::Time;
use crate::vcpu::KvmVcpu;
use crate::{ioctl, memory, model};

/// Pins of the IOAPIC that `KVM_CAP_SPLIT_IRQCHIP` reserves routes for.
const IOAPIC_PINS: usize = 24;
/// Highest vCPU count that 8-bit APIC IDs can name.
const APIC_ID_LIMIT: u32 = 254;
/// Where KVM may put three pages of its own on Intel processors that cannot run real mode: in the
/// hole below 4 GiB, under the flash (KVM API, `KVM_SET_TSS_ADDR`, `KVM_SET_IDENTITY_MAP_ADDR`).
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// One VM inside KVM.
#[derive(Debug)]
pub struct KvmMachine {
    /// Of the VM and of each vCPU, where the host counts. Before `inner`: their files hold the VM.
    sources: Mutex<Vec<Source>>,
    inner: Arc<Inner>,
    created: Mutex<BTreeSet<u32>>,
}

/// What a VM's vCPUs hold too, so that guest memory outlives the last of them.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) vm: VmFd,
    pub(crate) facts: Arc<Facts>,
    /// What the machine's CPU model has, before it is fitted to a vCPU.
    cpuid: Vec<kvm_cpuid_entry2>,
    pub(crate) spec: MachineSpec,
    pub(crate) time: Time,
    _ram: GuestRam,
}

impl Inner {
    /// Length of an XSAVE image. KVM fixes it when the first vCPU is made.
    pub(crate) fn xsave_bytes(&self) -> usize {
        let bytes = self.vm.check_extension_raw(KVM_CAP_XSAVE2.into());
        usize::try_from(bytes).unwrap_or(0).max(ioctl::XSAVE_BYTES)
    }
}

impl KvmMachine {
    pub(crate) fn new(
        kvm: &Kvm,
        facts: Arc<Facts>,
        spec: &MachineSpec,
        ram: &GuestRam,
    ) -> Result<Self, CpuError> {
        facts.host.check(spec.irq)?;
        let cpuid = model::mask(facts.cpuid.as_slice(), spec.cpu.model)?;
        let host_limit = u32::try_from(facts.host.max_vcpus).unwrap_or(u32::MAX);
        let limit = host_limit.min(APIC_ID_LIMIT);
        if spec.vcpus == 0 || spec.vcpus > limit {
            return invalid("vcpus", format!("{} is not 1 to {limit}", spec.vcpus));
        }
        let vm = kvm
            .create_vm()
            .map_err(|e| host_error("KVM_CREATE_VM", None, e))?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(|e| host_error("KVM_SET_IDENTITY_MAP_ADDR", None, e))?;
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(|e| host_error("KVM_SET_TSS_ADDR", None, e))?;
        memory::map(&vm, ram)?;
        if spec.irq == IrqMode::Split {
            enable(&vm, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64)?;
        }
        if facts.host.value(KVM_CAP_X86_TRIPLE_FAULT_EVENT) > 0 {
            enable(&vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1)?;
        }
        let inner = Inner {
            vm,
            facts,
            cpuid,
            spec: spec.clone(),
            time: Time::default(),
            _ram: ram.clone(),
        };
        let machine = Self {
            sources: Mutex::default(),
            inner: Arc::new(inner),
            created: Mutex::default(),
        };
        machine.count(None, &machine.inner.vm);
        Ok(machine)
    }

    /// As [`Machine::create_vcpu`], with the engine's own type.
    ///
    /// # Errors
    /// As [`Machine::create_vcpu`].
    pub fn vcpu(&self, id: u32) -> Result<KvmVcpu, CpuError> {
        let spec = &self.inner.spec;
        if id >= spec.vcpus {
            return invalid(
                "vcpu",
                format!("{id} is not below the machine's {}", spec.vcpus),
            );
        }
        if !self
            .created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id)
        {
            return invalid("vcpu", format!("{id} exists already"));
        }
        let fail = |op| move |e: kvm_ioctls::Error| host_error(op, Some(id), e);
        let fd = self
            .inner
            .vm
            .create_vcpu(id.into())
            .map_err(fail("KVM_CREATE_VCPU"))?;
        self.set_cpuid(id, &fd)?;
        self.count(Some(id), &fd);
        KvmVcpu::new(id, fd, Arc::clone(&self.inner))
    }

    /// Keeps what the host counts of the VM or a vCPU; a host that does not is no failure.
    fn count(&self, vcpu: Option<u32>, fd: &impl AsRawFd) {
        if self.inner.facts.host.value(KVM_CAP_BINARY_STATS_FD) <= 0 {
            return;
        }
        match ioctl::stats_file(fd).and_then(|file| Source::open(vcpu, file)) {
            Ok(source) => self.sources().push(source),
            Err(e) => log::debug!(target: "kvm.stats", "KVM_GET_STATS_FD, vCPU {vcpu:?}: {e}"),
        }
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_cpuid(&self, id: u32, fd: &VcpuFd) -> Result<(), CpuError> {
        let Inner { facts, spec, .. } = &*self.inner;
        let offered = facts.host.value(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
        let tsc_deadline = if offered { Offer::Yes } else { Offer::No };
        let how = Fit {
            id,
            vcpus: spec.vcpus,
            irq: spec.irq,
            tsc_deadline,
        };
        let op = "KVM_SET_CPUID2";
        let mut leaves = cpuid::fit(&self.inner.cpuid, how);
        model::take_away(&mut leaves, spec.cpu.without);
        let cpuid = CpuId::from_entries(&leaves)
            .map_err(|_| host_error(op, Some(id), std::io::Error::other("too many leaves")))?;
        fd.set_cpuid2(&cpuid)
            .map_err(|e| host_error(op, Some(id), e))?;
        if spec.cpu == CpuModel::Host.into() {
            return Ok(());
        }
        let kept = fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| host_error("KVM_GET_CPUID2", Some(id), e))?;
        model::kept(cpuid.as_slice(), kept.as_slice(), spec.cpu)
    }

    fn refuse_without_controller(&self) -> Result<(), CpuError> {
        match self.inner.spec.irq {
            IrqMode::Split => Ok(()),
            IrqMode::None => invalid("msi", "this machine has no interrupt controller"),
        }
    }
}

fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), CpuError> {
    let cap = kvm_enable_cap {
        cap,
        args: [argument, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&cap)
        .map_err(|e| host_error("KVM_ENABLE_CAP", None, e))
}

/// The halves of an MSI's address.
#[expect(
    clippy::cast_possible_truncation,
    reason = "splits a number into its halves"
)]
fn halves(addr: u64) -> (u32, u32) {
    (addr as u32, (addr >> 32) as u32)
}

fn route(pin: u32, msi: Msi) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(msi.addr);
    let msi = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: msi.data,
        ..kvm_irq_routing_msi::default()
    };
    kvm_irq_routing_entry {
        gsi: pin,
        type_: kvm_bindings::KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..kvm_irq_routing_entry::default()
    }
}

impl Machine for KvmMachine {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, CpuError> {
        Ok(Box::new(self.vcpu(id)?))
    }

    fn deliver_msi(&self, msi: Msi) -> Result<(), CpuError> {
        self.refuse_without_controller()?;
        let (address_lo, address_hi) = halves(msi.addr);
        let msi = kvm_msi {
            address_lo,
            address_hi,
            data: msi.data,
            ..kvm_msi::default()
        };
        // A guest that masks the vector, or has no such vCPU, gets nothing: not an error.
        self.inner
            .vm
            .signal_msi(msi)
            .map(drop)
            .map_err(|e| host_error("KVM_SIGNAL_MSI", None, e))
    }

    fn route_pins(&self, pins: &[Option<Msi>]) -> Result<(), CpuError> {
        self.refuse_without_controller()?;
        if pins.len() > IOAPIC_PINS {
            return invalid("pins", format!("{} is more than {IOAPIC_PINS}", pins.len()));
        }
        let routed = (0..)
            .zip(pins)
            .filter_map(|(pin, msi)| msi.map(|msi| route(pin, msi)));
        let op = "KVM_SET_GSI_ROUTING";
        let routes = KvmIrqRouting::from_entries(&routed.collect::<Vec<_>>())
            .map_err(|_| host_error(op, None, std::io::Error::other("too many routes")))?;
        self.inner
            .vm
            .set_gsi_routing(&routes)
            .map_err(|e| host_error(op, None, e))
    }

    fn clock_ns(&self) -> Result<u64, CpuError> {
        self.inner.time.clock_ns(&self.inner.vm)
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), CpuError> {
        self.inner.time.set_clock_ns(&self.inner.vm, ns)
    }

    fn hold_time(&self) -> Result<Held, CpuError> {
        self.inner.time.hold(&self.inner.vm)
    }

    fn let_time_go(&self) -> Result<(), CpuError> {
        self.inner.time.let_go(&self.inner.vm)
    }

    fn statistics(&self) -> Vec<Statistic> {
        let sources = self.sources();
        let read = sources.iter().filter_map(|source| source.read().ok());
        read.flatten().collect()
    }
}
