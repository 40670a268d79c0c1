// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU's complete state, out of KVM and into it.
//!
//! **Order of setting.** CPUID is set when the vCPU is made and does not change. Then:
//!
//! 1. system registers: mode, APIC base and EFER decide what later steps accept;
//! 2. general registers;
//! 3. XCR0, then the XSAVE image, whose components XCR0 must allow;
//! 4. the TSC, frequency first: timers are set in its units. While time is held its offset is set,
//!    exactly. Otherwise the first vCPU's value starts a new count; KVM takes those of the others,
//!    less than a second away, for the same one, so that vCPUs stay in step (Linux,
//!    `kvm_synchronize_tsc`);
//! 5. MSRs but the TSC deadline; 6. nested state, which needs EFER and the VMX MSRs;
//! 7. the LAPIC page, which needs the APIC base; 8. the TSC deadline, which needs the LAPIC timer's
//!    mode;
//! 9. events, because earlier steps may drop them; 10. debug registers; 11. what the vCPU waits for.
//!
//! What can be told to be wrong is refused before anything is set. If KVM itself refuses a value later,
//! the steps before it are done: set a good state, or reset.
//!
//! Reading goes the other way where it matters: KVM acts on waiting INITs when asked for the MP
//! state, so that comes first.

use kvm_bindings as kb;
use vm_cpu::x86::{
    Activity, Bit, DebugRegs, Delivery, Events, Exception, Interrupt, Msr, Nmi, Smi, Start, Tsc,
    VcpuState,
};
use vm_cpu::{CpuError, IrqMode, Registers};

use crate::errno::{host_error, invalid};
use crate::vcpu::KvmVcpu;
use crate::{convert, ioctl, msrs, tsc};

/// CR0.WP (Intel SDM vol. 3, section 2.5).
const CR0_WP: u64 = 1 << 16;

/// LVT entries of the LAPIC (Intel SDM vol. 3, section 11.5.1) and what firmware leaves in them.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const EXTINT: u32 = 7 << 8;
const NMI: u32 = 4 << 8;

/// What firmware leaves in two MSRs: fast strings on; MTRRs on, write-back.
const FIRMWARE_MSRS: [Msr; 2] = [
    Msr {
        index: msrs::MISC_ENABLE,
        value: 1,
    },
    Msr {
        index: msrs::MTRR_DEF_TYPE,
        value: 1 << 11 | 6,
    },
];

impl KvmVcpu {
    /// Brings a new vCPU to its power-on state and remembers it.
    pub(crate) fn power_on(&mut self) -> Result<(), CpuError> {
        msrs::write(&self.fd, self.id, &FIRMWARE_MSRS)?;
        match self.inner.spec.irq {
            IrqMode::Split => {
                let mut page = self.lapic()?;
                page[LVT_LINT0..LVT_LINT0 + 4].copy_from_slice(&EXTINT.to_le_bytes());
                page[LVT_LINT1..LVT_LINT1 + 4].copy_from_slice(&NMI.to_le_bytes());
                self.set_lapic(&page)?;
            }
            IrqMode::None if self.id != 0 => self.activity = Activity::WaitForInit,
            IrqMode::None => {}
        }
        self.power_on = Some(Box::new(self.state()?));
        Ok(())
    }

    pub(crate) fn back_to_power_on(&mut self) -> Result<(), CpuError> {
        self.drop_pending()?;
        self.forget_window();
        let Some(state) = self.power_on.clone() else {
            return Ok(());
        };
        // KVM on AMD clears its control block after a triple fault, and with it where the nested page
        // tables are, which it sets again only if the mode changes: a guest without paging would never
        // get on. So its mode is another before it is what it was.
        let mut other = (*state).clone();
        other.system.cr0 ^= CR0_WP;
        self.set_system(&other)?;
        self.set_all(&state, None)?;
        self.renew_tsc()
    }

    fn host_fail(&self, op: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError + use<> {
        let id = self.id;
        move |error| host_error(op, Some(id), error)
    }

    /// `op` failed: `EINVAL` is about the field, anything else about the host.
    fn refused<E: Into<std::io::Error>>(
        &self,
        field: &'static str,
        op: &'static str,
    ) -> impl Fn(E) -> CpuError + use<E> {
        let id = self.id;
        move |error| {
            let error = error.into();
            if error.raw_os_error() == Some(libc::EINVAL) {
                return CpuError::Invalid {
                    what: field.into(),
                    why: format!(
                        "{op} refuses the value: it does not fit this vCPU's CPUID or itself"
                    ),
                };
            }
            host_error(op, Some(id), error)
        }
    }

    pub(crate) fn has(&self, cap: u32) -> bool {
        self.inner.facts.host.value(cap) > 0
    }

    fn lapic(&self) -> Result<Vec<u8>, CpuError> {
        let page = self
            .fd
            .get_lapic()
            .map_err(self.host_fail("KVM_GET_LAPIC"))?;
        Ok(page.regs.iter().map(|byte| byte.to_le_bytes()[0]).collect())
    }

    fn set_lapic(&self, page: &[u8]) -> Result<(), CpuError> {
        let mut lapic = kb::kvm_lapic_state::default();
        for (to, from) in lapic.regs.iter_mut().zip(page) {
            *to = std::ffi::c_char::from_le_bytes([*from]);
        }
        self.fd
            .set_lapic(&lapic)
            .map_err(self.host_fail("KVM_SET_LAPIC"))
    }

    fn activity(&self) -> Result<Activity, CpuError> {
        if self.inner.spec.irq == IrqMode::None {
            return Ok(self.activity);
        }
        let state = self
            .fd
            .get_mp_state()
            .map_err(self.host_fail("KVM_GET_MP_STATE"))?;
        match state.mp_state {
            kb::KVM_MP_STATE_RUNNABLE => Ok(Activity::Running),
            kb::KVM_MP_STATE_HALTED => Ok(Activity::Halted),
            kb::KVM_MP_STATE_UNINITIALIZED => Ok(Activity::WaitForInit),
            kb::KVM_MP_STATE_INIT_RECEIVED => Ok(Activity::WaitForSipi),
            kb::KVM_MP_STATE_SIPI_RECEIVED => Ok(Activity::SipiReceived),
            other => invalid(
                "activity",
                format!("KVM's MP state {other} is not one we know"),
            ),
        }
    }

    fn set_activity(&mut self, activity: Activity) -> Result<(), CpuError> {
        self.activity = activity;
        if self.inner.spec.irq == IrqMode::None {
            return Ok(());
        }
        let mp_state = match activity {
            Activity::Running => kb::KVM_MP_STATE_RUNNABLE,
            Activity::Halted => kb::KVM_MP_STATE_HALTED,
            Activity::WaitForInit => kb::KVM_MP_STATE_UNINITIALIZED,
            Activity::WaitForSipi => kb::KVM_MP_STATE_INIT_RECEIVED,
            Activity::SipiReceived => kb::KVM_MP_STATE_SIPI_RECEIVED,
        };
        // KVM keeps this one; ours would only mislead `run`.
        self.activity = Activity::Running;
        self.fd
            .set_mp_state(kb::kvm_mp_state { mp_state })
            .map_err(self.host_fail("KVM_SET_MP_STATE"))
    }

    fn events(&self) -> Result<Events, CpuError> {
        let e = self
            .fd
            .get_vcpu_events()
            .map_err(self.host_fail("KVM_GET_VCPU_EVENTS"))?;
        let bit = |value: u8| Bit::from(value != 0);
        let raised = e.exception.injected != 0 || e.exception.pending != 0;
        Ok(Events {
            exception: raised.then(|| Exception {
                vector: e.exception.nr,
                error_code: (e.exception.has_error_code != 0).then_some(e.exception.error_code),
                delivery: match e.exception.injected {
                    0 => Delivery::Pending,
                    _ => Delivery::Injected,
                },
                payload: (e.exception_has_payload != 0).then_some(e.exception_payload),
            }),
            interrupt: (e.interrupt.injected != 0).then(|| Interrupt {
                vector: e.interrupt.nr,
                soft: bit(e.interrupt.soft),
            }),
            shadow: e.interrupt.shadow,
            nmi: Nmi {
                pending: e.nmi.pending,
                injected: bit(e.nmi.injected),
                masked: bit(e.nmi.masked),
            },
            smi: Smi {
                smm: bit(e.smi.smm),
                pending: bit(e.smi.pending),
                inside_nmi: bit(e.smi.smm_inside_nmi),
                latched_init: bit(e.smi.latched_init),
            },
            sipi_vector: None,
            triple_fault: bit(e.triple_fault.pending),
        })
    }

    fn set_events(&self, events: &Events, activity: Activity) -> Result<(), CpuError> {
        let byte = |bit: Bit| u8::from(bit.is_set());
        let mut e = kb::kvm_vcpu_events {
            flags: kb::KVM_VCPUEVENT_VALID_NMI_PENDING | kb::KVM_VCPUEVENT_VALID_SHADOW,
            ..kb::kvm_vcpu_events::default()
        };
        if let Some(exception) = events.exception {
            // Without KVM_CAP_EXCEPTION_PAYLOAD a pending exception is set as an injected one.
            e.exception.injected = 1;
            e.exception.nr = exception.vector;
            e.exception.has_error_code = u8::from(exception.error_code.is_some());
            e.exception.error_code = exception.error_code.unwrap_or(0);
        }
        if let Some(interrupt) = events.interrupt {
            e.interrupt.injected = 1;
            e.interrupt.nr = interrupt.vector;
            e.interrupt.soft = byte(interrupt.soft);
        }
        e.interrupt.shadow = events.shadow;
        e.nmi.pending = events.nmi.pending;
        e.nmi.injected = byte(events.nmi.injected);
        e.nmi.masked = byte(events.nmi.masked);
        if self.has(kb::KVM_CAP_X86_SMM) {
            e.flags |= kb::KVM_VCPUEVENT_VALID_SMM;
            e.smi.smm = byte(events.smi.smm);
            e.smi.pending = byte(events.smi.pending);
            e.smi.smm_inside_nmi = byte(events.smi.inside_nmi);
            e.smi.latched_init = byte(events.smi.latched_init);
        }
        if let (Activity::SipiReceived, Some(vector)) = (activity, events.sipi_vector) {
            e.flags |= kb::KVM_VCPUEVENT_VALID_SIPI_VECTOR;
            e.sipi_vector = vector.into();
        }
        if self.has(kb::KVM_CAP_X86_TRIPLE_FAULT_EVENT) {
            e.flags |= kb::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
            e.triple_fault.pending = byte(events.triple_fault);
        }
        self.fd
            .set_vcpu_events(&e)
            .map_err(self.host_fail("KVM_SET_VCPU_EVENTS"))
    }

    fn nested(&self) -> Result<Option<Vec<u8>>, CpuError> {
        let room = self.inner.facts.host.value(kb::KVM_CAP_NESTED_STATE);
        if room <= 0 {
            return Ok(None);
        }
        let room = usize::try_from(room).unwrap_or(0);
        let state = ioctl::nested_state(&self.fd, room).map_err(self.fail("KVM_GET_NESTED_STATE"));
        state.map(Some)
    }

    /// Everything that can be told to be wrong before anything is changed.
    fn check(&self, state: &VcpuState) -> Result<(), CpuError> {
        state.validate()?;
        match (&state.lapic, self.inner.spec.irq) {
            (Some(_), IrqMode::Split) | (None, IrqMode::None) => {}
            (Some(_), IrqMode::None) => {
                return invalid("lapic", "this machine has no interrupt controller");
            }
            (None, IrqMode::Split) => {
                return invalid(
                    "lapic",
                    "this machine has a LAPIC and needs its register page",
                );
            }
        }
        let right = self.inner.xsave_bytes();
        if state.xsave.len() != right {
            let is = state.xsave.len();
            return invalid(
                "xsave",
                format!("is {is} bytes long, {right} would be right"),
            );
        }
        if let Some(msr) = state
            .msrs
            .iter()
            .find(|msr| !self.inner.facts.msrs.contains(&msr.index))
        {
            return invalid(
                &format!("msrs[{:#x}]", msr.index),
                "this host has no such MSR",
            );
        }
        if state.nested.is_some() && !self.has(kb::KVM_CAP_NESTED_STATE) {
            return invalid("nested", "this host cannot run nested guests");
        }
        self.check_tsc(state.tsc)
    }

    fn check_tsc(&self, tsc: Tsc) -> Result<(), CpuError> {
        if tsc.khz == 0 || self.has(kb::KVM_CAP_TSC_CONTROL) {
            return Ok(());
        }
        let host = self.time.host_khz();
        if tsc::same(tsc.khz, host) {
            return Ok(());
        }
        let wanted = tsc.khz;
        invalid(
            "tsc.khz",
            format!("{wanted} kHz, this host has {host} kHz and cannot scale"),
        )
    }

    fn set_system(&self, state: &VcpuState) -> Result<(), CpuError> {
        if !self.has(kb::KVM_CAP_SREGS2) {
            return self.set_sregs(&convert::kvm_system(&state.system));
        }
        let sregs = convert::kvm_system2(&state.system, state.pdptrs);
        ioctl::set_sregs2(&self.fd, sregs).map_err(self.refused("system", "KVM_SET_SREGS2"))?;
        self.page.set_cr8(state.system.cr8);
        Ok(())
    }

    fn set_sregs(&self, sregs: &kb::kvm_sregs) -> Result<(), CpuError> {
        self.fd
            .set_sregs(sregs)
            .map_err(self.refused("system", "KVM_SET_SREGS"))?;
        self.page.set_cr8(sregs.cr8);
        Ok(())
    }

    fn set_xstate(&self, state: &VcpuState) -> Result<(), CpuError> {
        if state.xcr0 != 0 {
            let mut xcrs = kb::kvm_xcrs {
                nr_xcrs: 1,
                ..kb::kvm_xcrs::default()
            };
            xcrs.xcrs[0].value = state.xcr0;
            self.fd
                .set_xcrs(&xcrs)
                .map_err(self.refused("xcr0", "KVM_SET_XCRS"))?;
        }
        ioctl::set_xsave(&self.fd, &state.xsave, self.inner.xsave_bytes())
            .map_err(self.refused("xsave", "KVM_SET_XSAVE"))
    }

    /// Sets everything; the TSC only if one is given.
    fn set_all(&mut self, state: &VcpuState, tsc: Option<Tsc>) -> Result<(), CpuError> {
        self.set_system(state)?;
        let regs = convert::kvm_gprs(&state.gprs);
        self.fd
            .set_regs(&regs)
            .map_err(self.refused("gprs", "KVM_SET_REGS"))?;
        self.set_xstate(state)?;
        if let Some(tsc) = tsc {
            self.set_tsc(tsc)?;
        }
        let (deadline, others): (Vec<Msr>, Vec<Msr>) = state
            .msrs
            .iter()
            .partition(|msr| msr.index == msrs::TSC_DEADLINE);
        msrs::write(&self.fd, self.id, &others)?;
        if let Some(nested) = &state.nested {
            ioctl::set_nested_state(&self.fd, nested)
                .map_err(self.refused("nested", "KVM_SET_NESTED_STATE"))?;
        }
        if let Some(page) = &state.lapic {
            self.set_lapic(page)?;
        }
        msrs::write(&self.fd, self.id, &deadline)?;
        self.set_events(&state.events, state.activity)?;
        let DebugRegs { db, dr6, dr7 } = state.debug;
        let debug = kb::kvm_debugregs {
            db,
            dr6,
            dr7,
            ..kb::kvm_debugregs::default()
        };
        self.fd
            .set_debug_regs(&debug)
            .map_err(self.refused("debug", "KVM_SET_DEBUGREGS"))?;
        self.set_activity(state.activity)
    }
}

impl Registers for KvmVcpu {
    fn state(&self) -> Result<VcpuState, CpuError> {
        let activity = self.activity()?;
        let regs = self.fd.get_regs().map_err(self.host_fail("KVM_GET_REGS"))?;
        let (system, pdptrs) = if self.has(kb::KVM_CAP_SREGS2) {
            let sregs = ioctl::sregs2(&self.fd).map_err(self.fail("KVM_GET_SREGS2"))?;
            convert::system2(&sregs)
        } else {
            let sregs = self
                .fd
                .get_sregs()
                .map_err(self.host_fail("KVM_GET_SREGS"))?;
            (convert::system(&sregs), None)
        };
        let debug = self
            .fd
            .get_debug_regs()
            .map_err(self.host_fail("KVM_GET_DEBUGREGS"))?;
        let xcrs = self.fd.get_xcrs().map_err(self.host_fail("KVM_GET_XCRS"))?;
        let xcr0 = if xcrs.nr_xcrs > 0 {
            xcrs.xcrs[0].value
        } else {
            0
        };
        let xsave = ioctl::xsave(&self.fd, self.inner.xsave_bytes());
        Ok(VcpuState {
            gprs: convert::gprs(&regs),
            system,
            pdptrs,
            debug: DebugRegs {
                db: debug.db,
                dr6: debug.dr6,
                dr7: debug.dr7,
            },
            xcr0,
            xsave: xsave.map_err(self.fail("KVM_GET_XSAVE"))?,
            msrs: msrs::read(&self.fd, self.id, &self.inner.facts.msrs)?,
            lapic: match self.inner.spec.irq {
                IrqMode::Split => Some(self.lapic()?),
                IrqMode::None => None,
            },
            events: self.events()?,
            activity,
            tsc: self.tsc()?,
            nested: self.nested()?,
        })
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        self.check(state)?;
        self.set_all(state, Some(state.tsc))
    }

    fn set_start(&mut self, start: &Start) -> Result<(), CpuError> {
        let mut sregs = convert::kvm_system(&start.system);
        if sregs.apic_base == 0 {
            let is = self
                .fd
                .get_sregs()
                .map_err(self.host_fail("KVM_GET_SREGS"))?;
            sregs.apic_base = is.apic_base;
        }
        self.set_sregs(&sregs)?;
        let regs = convert::kvm_gprs(&start.gprs);
        self.fd
            .set_regs(&regs)
            .map_err(self.refused("gprs", "KVM_SET_REGS"))?;
        self.set_activity(Activity::Running)
    }

    fn start(&self) -> Result<Start, CpuError> {
        let regs = self.fd.get_regs().map_err(self.host_fail("KVM_GET_REGS"))?;
        let sregs = self
            .fd
            .get_sregs()
            .map_err(self.host_fail("KVM_GET_SREGS"))?;
        Ok(Start {
            gprs: convert::gprs(&regs),
            system: convert::system(&sregs),
        })
    }
}
