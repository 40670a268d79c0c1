// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which vCPUs the guest has, and how much of the host each may use.
//!
//! Every vCPU has its EMT from creation to destroy, plugged or not: requests and rendezvous count on
//! all of them. An unplugged vCPU was reset and its EMT parks; whatever start-up the guest sends it is
//! void, because plugging resets it again: then it waits for INIT and start-up as after power-on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cap::FULL;
use crate::emt::Emt;
use crate::shared::Shared;
use crate::sync::AtomicU64;
use crate::{Vm, VmError, ops};

/// A bit for each vCPU that the guest has.
#[derive(Debug)]
pub(crate) struct Plugged(AtomicU64);

impl Plugged {
    /// The first `count`.
    pub(crate) fn first(count: u32) -> Self {
        Self(AtomicU64::new(
            u64::MAX
                .checked_shr(u64::BITS - count.min(u64::BITS))
                .unwrap_or(0),
        ))
    }

    pub(crate) fn has(&self, v: u32) -> bool {
        self.0.load(Ordering::SeqCst) & bit(v) != 0
    }

    /// Whether that changed anything.
    fn set(&self, v: u32) -> bool {
        self.0.fetch_or(bit(v), Ordering::SeqCst) & bit(v) == 0
    }

    /// Whether that changed anything.
    fn clear(&self, v: u32) -> bool {
        self.0.fetch_and(!bit(v), Ordering::SeqCst) & bit(v) != 0
    }
}

fn bit(v: u32) -> u64 {
    1_u64.checked_shl(v).unwrap_or(0)
}

impl Vm {
    /// Whether the guest has vCPU `v`.
    pub fn is_plugged(&self, v: u32) -> bool {
        self.shared().plugged.has(v)
    }

    /// Gives the guest vCPU `v`, reset and waiting for its start-up, in whatever state the VM is.
    /// The guest has to be told; a machine's event device does that.
    ///
    /// # Thread
    /// None of this VM's EMTs. Returns when the vCPU is ready.
    ///
    /// # Errors
    /// [`VmError::Vcpu`] if there is no such vCPU or the guest has it; [`VmError::Late`],
    /// [`VmError::Cpu`], [`VmError::WouldBlock`], [`VmError::Gone`].
    pub fn plug(&self, v: u32) -> Result<(), VmError> {
        const OP: &str = "plug";
        let shared = self.shared();
        ops::refuse_blocking(shared, OP)?;
        let plugged = Arc::clone(shared);
        known(shared, v)?;
        let change = move |emt: &mut Emt| {
            if plugged.plugged.has(v) {
                return Err(refused(v, "is plugged already"));
            }
            emt.reset_vcpu()
                .map_err(|source| VmError::Cpu { op: OP, source })?;
            plugged.plugged.set(v);
            log::info!(target: "vm.plug", "vCPU {v} plugged");
            Ok(())
        };
        let limit = Some(shared.spec.gather_limit);
        shared
            .queues
            .call(v, limit, change)
            .map_err(|e| VmError::from_call(OP, v, e))?
    }

    /// Takes vCPU `v` from the guest, whether it is ready for that or not: when this returns the vCPU
    /// executes nothing, and is reset. In whatever state the VM is; a reset does not bring it back.
    ///
    /// # Thread
    /// None of this VM's EMTs.
    ///
    /// # Errors
    /// [`VmError::Vcpu`] if there is no such vCPU, the guest does not have it, or it is vCPU 0; and as
    /// [`Vm::plug`].
    pub fn unplug(&self, v: u32) -> Result<(), VmError> {
        const OP: &str = "unplug";
        let shared = self.shared();
        ops::refuse_blocking(shared, OP)?;
        take(shared, v)?;
        let limit = Some(shared.spec.gather_limit);
        shared
            .queues
            .call(v, limit, Emt::reset_vcpu)
            .map_err(|e| VmError::from_call(OP, v, e))?
            .map_err(|source| VmError::Cpu { op: OP, source })
    }

    /// How much of a host CPU each vCPU may use, in percent; 100 is all of it.
    pub fn cap(&self) -> u32 {
        self.shared().cap.percent()
    }

    /// Lets each vCPU use `percent` of a host CPU, 1 to 100, over slices of 100 ms. In any state, from
    /// any thread; effective at the next guest entry, which comes soon. The guest's clock goes on.
    ///
    /// # Errors
    /// [`VmError::Spec`] if `percent` is outside 1 to 100; the cap is as before.
    pub fn set_cap(&self, percent: u32) -> Result<(), VmError> {
        check_cap(percent)?;
        self.shared().cap.set(percent);
        Ok(())
    }
}

/// The cap that a VM may have.
pub(crate) fn check_cap(percent: u32) -> Result<(), VmError> {
    if (1..=FULL).contains(&percent) {
        return Ok(());
    }
    Err(VmError::Spec {
        field: "cap",
        why: format!("{percent} is not between 1 and {FULL} percent"),
    })
}

/// The guest gave vCPU `v` up, in an access of `emt`'s vCPU, which is finished.
pub(crate) fn given_up(emt: &mut Emt, v: u32) {
    let shared = Arc::clone(emt.shared());
    if let Err(e) = take(&shared, v) {
        // It does not exist, or somebody was faster.
        return log::debug!(target: "vm.plug", "given up by the guest: {e}");
    }
    let limit = Some(shared.spec.gather_limit);
    let reset = shared.queues.call_from(emt, v, limit, Emt::reset_vcpu);
    match reset.map_err(|e| VmError::from_call("unplug", v, e)) {
        Ok(Ok(())) => {}
        // It executes nothing all the same, and is reset when it is plugged.
        Ok(Err(e)) => log::warn!(target: "vm.plug", "vCPU {v}: {e}"),
        Err(e) => log::warn!(target: "vm.plug", "{e}"),
    }
}

/// From here vCPU `v` does not enter the guest again.
fn take(shared: &Shared, v: u32) -> Result<(), VmError> {
    known(shared, v)?;
    if v == 0 {
        return Err(refused(v, "cannot be unplugged: the guest began on it"));
    }
    if !shared.plugged.clear(v) {
        return Err(refused(v, "is not plugged"));
    }
    shared.bells.ring(v);
    log::info!(target: "vm.plug", "vCPU {v} unplugged");
    Ok(())
}

fn known(shared: &Shared, v: u32) -> Result<(), VmError> {
    let count = shared.spec.vcpus;
    if v < count {
        return Ok(());
    }
    Err(VmError::Vcpu {
        vcpu: v,
        why: format!("does not exist: there are {count}, numbered from 0"),
    })
}

fn refused(vcpu: u32, why: &str) -> VmError {
    VmError::Vcpu {
        vcpu,
        why: why.to_owned(),
    }
}
