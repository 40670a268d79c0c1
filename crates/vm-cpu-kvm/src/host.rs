// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host's KVM offers, and what to do where it lacks something.

use std::io;
use std::path::Path;

use kvm_bindings as kb;
use kvm_ioctls::Kvm;
use vm_cpu::{CpuError, IrqMode};

use crate::ioctl;

/// The only version of the KVM API that ever was stable (KVM API, section 4.1).
const API_VERSION: i32 = 12;

/// Who needs a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every machine.
    Always,
    /// Machines with [`IrqMode::Split`].
    SplitIrqchip,
    /// Nobody; it is used where it is there.
    Optional,
}

/// One capability and its value on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Name as in `linux/kvm.h`.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// What `KVM_CHECK_EXTENSION` says; 0 is "no".
    pub value: i32,
    /// Who needs it.
    pub need: Need,
    /// What it is used for.
    pub used_for: &'static str,
}

impl Capability {
    /// Whether the host has it.
    pub fn present(&self) -> bool {
        self.value > 0
    }
}

/// Facts about the host's KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Version of the API.
    pub api_version: i32,
    /// The vendor module behind `/dev/kvm` (`kvm_intel`, `kvm_amd`, ...), if sysfs names one.
    pub module: Option<String>,
    /// Most vCPUs a VM can have.
    pub max_vcpus: usize,
    /// Number of vCPUs up to which KVM recommends to go.
    pub recommended_vcpus: usize,
    /// Number of memory slots.
    pub memory_slots: usize,
    /// The capabilities this engine looks at.
    pub capabilities: Vec<Capability>,
}

impl Host {
    pub(crate) fn read(kvm: &Kvm) -> Self {
        let value = |number: u32| kvm.check_extension_raw(number.into());
        Self {
            api_version: kvm.get_api_version(),
            module: module_in(Path::new("/sys/module")),
            max_vcpus: kvm.get_max_vcpus(),
            recommended_vcpus: kvm.get_nr_vcpus(),
            memory_slots: kvm.get_nr_memslots(),
            capabilities: LOOKED_AT
                .iter()
                .map(|&(name, number, need, used_for)| Capability {
                    name,
                    number,
                    value: value(number),
                    need,
                    used_for,
                })
                .collect(),
        }
    }

    /// Value of the capability with this number, 0 if this engine does not look at it.
    pub fn value(&self, number: u32) -> i32 {
        self.capabilities
            .iter()
            .find(|cap| cap.number == number)
            .map_or(0, |cap| cap.value)
    }

    /// Checks that a machine with this interrupt mode can be made.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] naming the API version or the capability.
    pub fn check(&self, irq: IrqMode) -> Result<(), CpuError> {
        if self.api_version != API_VERSION {
            return Err(CpuError::Unavailable {
                what: format!("KVM API version {}", self.api_version),
                hint: format!("{API_VERSION} is needed: run a kernel of 2.6.22 or later"),
            });
        }
        let needed = |need| match need {
            Need::Always => true,
            Need::SplitIrqchip => irq == IrqMode::Split,
            Need::Optional => false,
        };
        match self
            .capabilities
            .iter()
            .find(|cap| needed(cap.need) && !cap.present())
        {
            None => Ok(()),
            Some(cap) => Err(CpuError::Unavailable {
                what: cap.name.into(),
                hint: format!(
                    "this host's KVM lacks it and it is needed for {}: run a newer kernel, or \
                     another machine",
                    cap.used_for
                ),
            }),
        }
    }
}

/// Why `/dev/kvm` did not open, with what to do.
pub(crate) fn open_error(path: &str, error: io::Error) -> CpuError {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "it does not exist: enable virtualisation in the firmware, or nested virtualisation \
             around this machine, and load kvm_intel or kvm_amd"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "no permission to open it: join the group that owns it (often `kvm`), or run as root"
        }
        Some(libc::ENODEV | libc::ENXIO) => {
            "no driver is behind it: load kvm_intel or kvm_amd, and see the kernel log if that fails"
        }
        Some(libc::EBUSY) => "another hypervisor holds the processor: unload it",
        _ => {
            return CpuError::Host {
                op: "open of /dev/kvm",
                vcpu: None,
                source: error,
            };
        }
    };
    CpuError::Unavailable {
        what: path.into(),
        hint: hint.into(),
    }
}

/// Checks that the file speaks KVM's ioctls.
pub(crate) fn check_is_kvm(path: &str, kvm: &Kvm) -> Result<(), CpuError> {
    ioctl::api_version(kvm)
        .map(drop)
        .map_err(|_| CpuError::Unavailable {
            what: path.into(),
            hint: "it does not answer as KVM does: check which device it is".into(),
        })
}

fn module_in(modules: &Path) -> Option<String> {
    let names = std::fs::read_dir(modules).ok()?.flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("kvm_")).min()
}

type Row = (&'static str, u32, Need, &'static str);

const LOOKED_AT: &[Row] = &[
    (
        "KVM_CAP_USER_MEMORY",
        kb::KVM_CAP_USER_MEMORY,
        Need::Always,
        "guest memory",
    ),
    (
        "KVM_CAP_IMMEDIATE_EXIT",
        kb::KVM_CAP_IMMEDIATE_EXIT,
        Need::Always,
        "kicks that are not lost",
    ),
    (
        "KVM_CAP_EXT_CPUID",
        kb::KVM_CAP_EXT_CPUID,
        Need::Always,
        "the guest's CPUID",
    ),
    (
        "KVM_CAP_MP_STATE",
        kb::KVM_CAP_MP_STATE,
        Need::Always,
        "saving halted vCPUs",
    ),
    (
        "KVM_CAP_VCPU_EVENTS",
        kb::KVM_CAP_VCPU_EVENTS,
        Need::Always,
        "saving pending events",
    ),
    (
        "KVM_CAP_DEBUGREGS",
        kb::KVM_CAP_DEBUGREGS,
        Need::Always,
        "saving debug registers",
    ),
    (
        "KVM_CAP_XSAVE",
        kb::KVM_CAP_XSAVE,
        Need::Always,
        "saving vector registers",
    ),
    (
        "KVM_CAP_XCRS",
        kb::KVM_CAP_XCRS,
        Need::Always,
        "saving XCR0",
    ),
    (
        "KVM_CAP_ADJUST_CLOCK",
        kb::KVM_CAP_ADJUST_CLOCK,
        Need::Always,
        "a clock that can stop",
    ),
    (
        "KVM_CAP_GET_TSC_KHZ",
        kb::KVM_CAP_GET_TSC_KHZ,
        Need::Always,
        "the TSC's frequency",
    ),
    (
        "KVM_CAP_SPLIT_IRQCHIP",
        kb::KVM_CAP_SPLIT_IRQCHIP,
        Need::SplitIrqchip,
        "LAPICs",
    ),
    (
        "KVM_CAP_SIGNAL_MSI",
        kb::KVM_CAP_SIGNAL_MSI,
        Need::SplitIrqchip,
        "interrupts of devices",
    ),
    (
        "KVM_CAP_IRQ_ROUTING",
        kb::KVM_CAP_IRQ_ROUTING,
        Need::SplitIrqchip,
        "EOI of IOAPIC pins",
    ),
    (
        "KVM_CAP_TSC_DEADLINE_TIMER",
        kb::KVM_CAP_TSC_DEADLINE_TIMER,
        Need::Optional,
        "the timer",
    ),
    (
        "KVM_CAP_TSC_CONTROL",
        kb::KVM_CAP_TSC_CONTROL,
        Need::Optional,
        "TSC of another frequency",
    ),
    (
        "KVM_CAP_VCPU_ATTRIBUTES",
        kb::KVM_CAP_VCPU_ATTRIBUTES,
        Need::Optional,
        "a TSC that can stop",
    ),
    (
        "KVM_CAP_BINARY_STATS_FD",
        kb::KVM_CAP_BINARY_STATS_FD,
        Need::Optional,
        "what the host counts of a VM",
    ),
    (
        "KVM_CAP_XSAVE2",
        kb::KVM_CAP_XSAVE2,
        Need::Optional,
        "vector registers beyond 4 KiB",
    ),
    (
        "KVM_CAP_SREGS2",
        kb::KVM_CAP_SREGS2,
        Need::Optional,
        "saving PAE page directory pointers",
    ),
    (
        "KVM_CAP_NESTED_STATE",
        kb::KVM_CAP_NESTED_STATE,
        Need::Optional,
        "saving nested guests",
    ),
    (
        "KVM_CAP_X86_SMM",
        kb::KVM_CAP_X86_SMM,
        Need::Optional,
        "saving system management mode",
    ),
    (
        "KVM_CAP_X86_TRIPLE_FAULT_EVENT",
        kb::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        Need::Optional,
        "saving a pending triple fault",
    ),
    (
        "KVM_CAP_SYNC_REGS",
        kb::KVM_CAP_SYNC_REGS,
        Need::Optional,
        "where a late vCPU was last",
    ),
    (
        "KVM_CAP_MEMORY_FAULT_INFO",
        kb::KVM_CAP_MEMORY_FAULT_INFO,
        Need::Optional,
        "fault addresses",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Host {
        let present = |&(name, number, need, used_for): &Row| Capability {
            name,
            number,
            value: 1,
            need,
            used_for,
        };
        Host {
            api_version: API_VERSION,
            module: None,
            max_vcpus: 8,
            recommended_vcpus: 8,
            memory_slots: 32,
            capabilities: LOOKED_AT.iter().map(present).collect(),
        }
    }

    fn without(number: u32) -> Host {
        let mut host = complete();
        host.capabilities
            .iter_mut()
            .filter(|cap| cap.number == number)
            .for_each(|c| c.value = 0);
        host
    }

    fn refusal(host: &Host, irq: IrqMode) -> String {
        host.check(irq)
            .map_or_else(|e| e.to_string(), |()| "accepted".into())
    }

    #[test]
    fn another_api_version_is_refused_with_both_numbers() {
        let host = Host {
            api_version: 11,
            ..complete()
        };
        let text = refusal(&host, IrqMode::None);
        assert!(
            text.contains("version 11") && text.contains("12 is needed"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_capability_is_refused_by_name() {
        let text = refusal(&without(kb::KVM_CAP_IMMEDIATE_EXIT), IrqMode::None);
        assert!(text.starts_with("KVM_CAP_IMMEDIATE_EXIT: "), "{text}");
    }

    #[test]
    fn the_split_irqchip_is_only_asked_for_where_it_is_used() {
        let host = without(kb::KVM_CAP_SPLIT_IRQCHIP);
        assert_eq!(refusal(&host, IrqMode::None), "accepted");
        assert!(refusal(&host, IrqMode::Split).starts_with("KVM_CAP_SPLIT_IRQCHIP: "));
    }

    #[test]
    fn optional_capabilities_are_not_asked_for() {
        assert_eq!(
            refusal(&without(kb::KVM_CAP_NESTED_STATE), IrqMode::Split),
            "accepted"
        );
    }

    #[test]
    fn each_way_in_which_the_device_does_not_open_has_its_own_advice() {
        let advice = |code| {
            format!(
                "{:?}",
                open_error("/dev/kvm", io::Error::from_raw_os_error(code))
            )
        };
        assert!(advice(libc::ENOENT).contains("does not exist"));
        assert!(advice(libc::EACCES).contains("permission"));
        assert!(advice(libc::ENODEV).contains("no driver"));
        assert!(advice(libc::EMFILE).contains("Host"));
    }
}
