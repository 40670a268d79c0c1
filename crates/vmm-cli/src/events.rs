// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens to the VM, one JSON object a line: `--json` writes it to standard error, the control
//! socket to whoever asked for events.

use serde::Serialize;
use vm_core::{Ending, Vm};
use vm_state::Change;

use crate::exit::Status;

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

/// The state changed: a line, with its newline.
pub(crate) fn change_line(change: &Change) -> String {
    line(&StateEvent {
        event: "state",
        sequence: change.sequence,
        old: change.old.to_string(),
        new: change.new.to_string(),
        cause: change.cause.to_string(),
    })
}

/// The run is over: a line, with its newline.
pub(crate) fn end_line(vm: &Vm, status: Status) -> String {
    let now = vm.status();
    line(&EndEvent {
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
    })
}

fn line(event: &impl Serialize) -> String {
    match serde_json::to_string(event) {
        Ok(text) => text + "\n",
        Err(e) => {
            log::error!(target: "vmm", "event not written: {e}");
            String::new()
        }
    }
}
