// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `--json`: one object a line to standard error for everything that happens to the VM.

use serde::Serialize;
use vm_core::{Ending, Vm};
use vm_state::Change;

use crate::exit::Status;
use crate::say;

#[derive(Serialize)]
struct StateEvent {
    event: &'static str,
    sequence: u64,
    old: String,
    new: String,
    cause: String,
}

#[derive(Serialize)]
struct EndEvent {
    event: &'static str,
    state: String,
    ending: Option<&'static str>,
    status: u8,
    hard_resets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    died: Option<String>,
}

/// The state changed.
pub(crate) fn change(change: &Change) {
    emit(&StateEvent {
        event: "state",
        sequence: change.sequence,
        old: change.old.to_string(),
        new: change.new.to_string(),
        cause: change.cause.to_string(),
    });
}

/// The run is over.
pub(crate) fn end(vm: &Vm, status: Status) {
    let now = vm.status();
    emit(&EndEvent {
        event: "end",
        state: now.state,
        ending: vm.ending().map(|ending| match ending {
            Ending::PowerOff => "power-off",
            Ending::GuestPowerOff => "guest-power-off",
            Ending::GuestReset => "guest-reset",
            Ending::DebugExit(_) => "debug-exit",
            Ending::TripleFault => "triple-fault",
        }),
        status: status.code(),
        hard_resets: now.hard_resets,
        died: vm.guru().map(|report| report.why),
    });
}

fn emit(event: &impl Serialize) {
    match serde_json::to_string(event) {
        Ok(text) => say::terminal(&format!("{text}\n")),
        Err(e) => log::error!(target: "vmm", "event not written: {e}"),
    }
}
