// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Everything a guest can see of one vCPU.

use serde::{Deserialize, Serialize};

use super::{Activity, Events, Gprs, SystemRegs};
use crate::CpuError;

/// Debug registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DebugRegs {
    /// DR0 to DR3.
    pub db: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

/// One model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// The time stamp counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tsc {
    /// Frequency in kHz; 0 if the engine cannot tell.
    pub khz: u32,
    /// Value when the state was taken.
    pub value: u64,
}

/// Everything a guest can see of one vCPU, except CPUID, which the CPU model gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers.
    pub gprs: Gprs,
    /// System registers.
    pub system: SystemRegs,
    /// PAE page-directory-pointer registers, where the engine can tell them from memory.
    pub pdptrs: Option<[u64; 4]>,
    /// Debug registers.
    pub debug: DebugRegs,
    /// XCR0; 0 if the CPU has none.
    pub xcr0: u64,
    /// x87, SSE, AVX and later state in the standard XSAVE layout (Intel SDM vol. 1, section 13.4);
    /// empty if the engine has none.
    pub xsave: Vec<u8>,
    /// Model-specific registers except the TSC, in the order in which they are to be set.
    pub msrs: Vec<Msr>,
    /// The LAPIC's register page, [`VcpuState::LAPIC_BYTES`] long; `None` without a LAPIC.
    pub lapic: Option<Vec<u8>>,
    /// Events between two instructions.
    pub events: Events,
    /// Whether the vCPU executes.
    pub activity: Activity,
    /// Time stamp counter.
    pub tsc: Tsc,
    /// State of a guest that is itself a hypervisor, in the engine's own form (KVM API,
    /// `KVM_GET_NESTED_STATE`); `None` where the engine has none.
    pub nested: Option<Vec<u8>>,
}

impl VcpuState {
    /// Length of a LAPIC register page.
    pub const LAPIC_BYTES: usize = 1024;

    /// Longest XSAVE image accepted, in bytes. The largest one defined today (AMX) takes 11 KiB.
    pub const XSAVE_BYTES_MAX: usize = 64 << 10;

    /// Longest MSR list accepted.
    pub const MSRS_MAX: usize = 4096;

    /// Checks what no engine can accept; engines call it before they change anything.
    ///
    /// # Errors
    /// [`CpuError::Invalid`] naming the field.
    pub fn validate(&self) -> Result<(), CpuError> {
        const PE: u64 = 1;
        const PG: u64 = 1 << 31;
        const LME_LMA: u64 = 1 << 8 | 1 << 10;
        let cr0 = self.system.cr0;
        if cr0 & PG != 0 && cr0 & PE == 0 {
            return invalid(
                "system.cr0",
                format!("{cr0:#x} has paging without protection"),
            );
        }
        let efer = self.system.efer;
        if efer & LME_LMA == 1 << 10 {
            return invalid("system.efer", format!("{efer:#x} has LMA without LME"));
        }
        if let Some(page) = &self.lapic
            && page.len() != Self::LAPIC_BYTES
        {
            return invalid("lapic", wrong_length(page.len(), Self::LAPIC_BYTES));
        }
        if self.xsave.len() > Self::XSAVE_BYTES_MAX {
            return invalid(
                "xsave",
                wrong_length(self.xsave.len(), Self::XSAVE_BYTES_MAX),
            );
        }
        if self.msrs.len() > Self::MSRS_MAX {
            return invalid("msrs", wrong_length(self.msrs.len(), Self::MSRS_MAX));
        }
        self.validate_events()
    }

    /// Names of the fields in which `other` differs, for reports that a person reads: registers and
    /// MSRs by name, images by the offset of their first difference.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut names = Vec::new();
        let mut note = |differs: bool, name: &str| {
            if differs {
                names.push(name.to_owned());
            }
        };
        note(self.gprs != other.gprs, "gprs");
        note(self.system != other.system, "system");
        note(self.pdptrs != other.pdptrs, "pdptrs");
        note(self.debug != other.debug, "debug");
        note(self.xcr0 != other.xcr0, "xcr0");
        note(self.events != other.events, "events");
        note(self.activity != other.activity, "activity");
        note(self.tsc != other.tsc, "tsc");
        names.extend(image_difference("xsave", &self.xsave, &other.xsave));
        let (mine, theirs) = (self.lapic.as_deref(), other.lapic.as_deref());
        names.extend(image_difference(
            "lapic",
            mine.unwrap_or(&[]),
            theirs.unwrap_or(&[]),
        ));
        let (mine, theirs) = (self.nested.as_deref(), other.nested.as_deref());
        names.extend(image_difference(
            "nested",
            mine.unwrap_or(&[]),
            theirs.unwrap_or(&[]),
        ));
        let differing = |(a, b): (&Msr, &Msr)| (a != b).then(|| format!("msrs[{:#x}]", a.index));
        names.extend(self.msrs.iter().zip(&other.msrs).filter_map(differing));
        if self.msrs.len() != other.msrs.len() {
            names.push("msrs".into());
        }
        names
    }

    fn validate_events(&self) -> Result<(), CpuError> {
        let events = &self.events;
        if let Some(exception) = events.exception
            && exception.vector > 31
        {
            let vector = exception.vector;
            return invalid("events.exception", format!("vector {vector} is above 31"));
        }
        if events.shadow > 3 {
            return invalid("events.shadow", format!("{} is above 3", events.shadow));
        }
        if events.nmi.pending > 2 {
            return invalid(
                "events.nmi",
                format!("{} pending is above 2", events.nmi.pending),
            );
        }
        Ok(())
    }
}

fn image_difference(name: &str, mine: &[u8], theirs: &[u8]) -> Option<String> {
    let shorter = mine.len().min(theirs.len());
    let differs = (mine != theirs).then(|| mine.iter().zip(theirs).position(|(a, b)| a != b));
    differs.map(|at| format!("{name}[{:#x}]", at.unwrap_or(shorter)))
}

fn invalid(what: &str, why: String) -> Result<(), CpuError> {
    Err(CpuError::Invalid {
        what: what.into(),
        why,
    })
}

fn wrong_length(is: usize, right: usize) -> String {
    format!("has {is} elements, {right} would be right")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_refused(state: &VcpuState) -> String {
        match state.validate() {
            Err(CpuError::Invalid { what, .. }) => what,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_default_state_is_accepted() {
        assert!(VcpuState::default().validate().is_ok());
    }

    #[test]
    fn a_lapic_page_of_wrong_length_is_refused_by_name() {
        let state = VcpuState {
            lapic: Some(vec![0; 1023]),
            ..VcpuState::default()
        };
        assert_eq!(field_refused(&state), "lapic");
    }

    #[test]
    fn paging_without_protection_is_refused_by_name() {
        let mut state = VcpuState::default();
        state.system.cr0 = 1 << 31;
        assert_eq!(field_refused(&state), "system.cr0");
    }

    #[test]
    fn long_mode_active_without_enable_is_refused_by_name() {
        let mut state = VcpuState::default();
        state.system.efer = 1 << 10;
        assert_eq!(field_refused(&state), "system.efer");
    }

    #[test]
    fn differences_are_named() {
        let msr = |value| vec![Msr { index: 0x10, value }];
        let one = VcpuState {
            xsave: vec![1, 2, 3],
            msrs: msr(1),
            ..VcpuState::default()
        };
        let mut two = VcpuState {
            xsave: vec![1, 2, 4],
            msrs: msr(2),
            ..VcpuState::default()
        };
        two.gprs.rax = 1;
        assert_eq!(one.differences(&two), ["gprs", "xsave[0x2]", "msrs[0x10]"]);
        assert_eq!(one.differences(&one), [""; 0]);
    }

    #[test]
    fn an_oversized_msr_list_is_refused_by_name() {
        let msrs = vec![Msr { index: 0, value: 0 }; VcpuState::MSRS_MAX + 1];
        assert_eq!(
            field_refused(&VcpuState {
                msrs,
                ..VcpuState::default()
            }),
            "msrs"
        );
    }
}
