// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device works on, changed while the VM is there.
//!
//! A change is begun by a request to EMT 0, on which every walk over the devices runs, so it meets no
//! hook; a request is not served while an operation waits for devices. It is waited for on the
//! caller's thread, and the guest goes on.

use vm_pdm::{Change, Place};
use vm_state::{Refused, State};

use crate::emt::Emt;
use crate::{Vm, VmError, ops};

/// Where a device's backend may come and go.
const STATES: [State; 3] = [State::Created, State::Running, State::Suspended];

impl Vm {
    /// Attaches to, replaces at or detaches from `place`, a device's of this VM. In CREATED, RUNNING and
    /// SUSPENDED, which it does not change. What is attached is in the state of its device from its
    /// first instant: of a suspended VM's device it is served after a resume.
    ///
    /// # Thread
    /// None of this VM's EMTs. Returns when it has happened.
    ///
    /// # Errors
    /// [`VmError::Place`], [`VmError::Refused`] in any other state, [`VmError::Late`],
    /// [`VmError::WouldBlock`], [`VmError::Gone`].
    pub fn change<B: Send>(&self, place: &dyn Place<B>, change: Change<B>) -> Result<(), VmError> {
        let op = change.name();
        self.noted(op, self.try_change(op, place, change))
    }

    fn try_change<B: Send>(
        &self,
        op: &'static str,
        place: &dyn Place<B>,
        change: Change<B>,
    ) -> Result<(), VmError> {
        let shared = self.shared();
        ops::refuse_blocking(shared, op)?;
        let begin = move |emt: &mut Emt| {
            let actual = emt.shared().state.read();
            if !STATES.contains(&actual) {
                let wanted = STATES.to_vec();
                let refused = Refused::Source { wanted, actual };
                return Err(VmError::Refused { op, refused });
            }
            Ok(place.begin(change)?)
        };
        let begun = shared
            .queues
            .call(0, Some(shared.spec.gather_limit), begin)
            .map_err(|e| VmError::from_call(op, 0, e))??;
        place.settle(begun, shared.spec.quiesce_limit)?;
        log::info!(target: "vm.place", "{}: {op} done", place.device());
        Ok(())
    }
}
