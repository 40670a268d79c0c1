// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest's access asks of the VM, done by its EMT when the access is finished.
//!
//! In the order asked for. A reset makes void whatever was asked for after it, since the machine that
//! asked is gone: of two resets in one access the first counts.

use std::sync::Arc;

use vm_pdm::{Effect, ResetKind};
use vm_state::SuspendReason;

use super::{Activity, Emt, describe};
use crate::ops::{self, Caller, Wanted};
use crate::{Ending, OnReset, VmError, processors};

/// What the guest or a device asked for, with the VM's policy applied.
#[derive(Debug)]
pub(super) enum Deed {
    Reset(ResetKind),
    /// The vCPU that asked for a reset halts.
    Halt,
    Suspend,
    PowerOff(Ending),
    SaveAndPowerOff,
    Unplug(u32),
}

impl Deed {
    fn reset(kind: ResetKind, on_reset: OnReset) -> Self {
        match on_reset {
            OnReset::Reset => Self::Reset(kind),
            OnReset::PowerOff => Self::PowerOff(Ending::GuestReset),
            OnReset::Halt => Self::Halt,
        }
    }

    /// The operation's name.
    fn op(&self) -> &'static str {
        match self {
            Self::Reset(ResetKind::Hard) => "hard reset",
            Self::Reset(ResetKind::Soft) => "soft reset",
            Self::Halt => "halt",
            Self::Suspend => "suspend",
            Self::PowerOff(_) => "power off",
            Self::SaveAndPowerOff => "save and power off",
            Self::Unplug(_) => "unplug",
        }
    }
}

impl Emt {
    /// A handler asked for `effect`.
    pub(super) fn ask(&mut self, effect: Effect) {
        let deed = match effect {
            Effect::Reset(kind) => Deed::reset(kind, self.shared.spec.on_reset),
            Effect::Suspend => Deed::Suspend,
            Effect::PowerOff => Deed::PowerOff(Ending::GuestPowerOff),
            Effect::SaveAndPowerOff => Deed::SaveAndPowerOff,
            Effect::DebugExit(value) => Deed::PowerOff(Ending::DebugExit(value)),
            Effect::Unplug(vcpu) => Deed::Unplug(vcpu),
            Effect::Error(error) => return self.shared.raise(error),
        };
        self.deeds.push_back(deed);
    }

    /// Does what was asked for, with the exit finished. The operation may lose a race against somebody
    /// else's; then a reset or a power-off is kept and tried again when the VM runs the next time,
    /// unless that was a reset, after which nobody wants it any more.
    pub(super) fn act(&mut self, deed: Deed) {
        self.settle_or_guru();
        let shared = Arc::clone(&self.shared);
        // A reset empties the queue of deeds, so this one is of the machine as it is now.
        let wanted = Wanted::Resets(shared.resets.total());
        let result = match &deed {
            Deed::Reset(kind) => ops::reset(&shared, Caller::On(self, wanted), *kind),
            Deed::PowerOff(ending) => ops::power_off(&shared, Caller::On(self, wanted), *ending),
            Deed::Suspend => {
                return self.ask_only(&deed, |emt| {
                    ops::suspend(&shared, Caller::On(emt, wanted), SuspendReason::Vm)
                });
            }
            Deed::SaveAndPowerOff => {
                return self.ask_only(&deed, |emt| ops::save_and_power_off(emt, wanted));
            }
            Deed::Unplug(vcpu) => return processors::given_up(self, *vcpu),
            Deed::Halt => {
                log::info!(target: "vm.reset", "vCPU {} asked for a reset and halts", self.id());
                self.activity = Activity::Halted;
                return;
            }
        };
        match result {
            Ok(()) | Err(VmError::Overtaken { .. }) => {}
            Err(VmError::Refused { .. }) => self.deeds.push_front(deed),
            Err(e) => {
                let why = describe(&e);
                shared.errors.failed(deed.op(), &e);
                self.guru(&format!("{deed:?}, asked for by the guest, failed: {why}"));
            }
        }
    }

    /// What the machine can go on without.
    fn ask_only(&mut self, deed: &Deed, op: impl FnOnce(&mut Self) -> Result<(), VmError>) {
        match op(self) {
            Ok(()) | Err(VmError::Overtaken { .. }) => {}
            // Somebody else suspended it, or did something else with it.
            Err(VmError::Refused { .. }) if matches!(deed, Deed::Suspend) => {}
            Err(e) => self.shared.errors.failed(deed.op(), &e),
        }
    }
}
