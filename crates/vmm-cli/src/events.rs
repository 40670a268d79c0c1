// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens to the VM, one JSON object a line: `--json` writes it to standard error, the control
//! socket to whoever asked for events.

use std::path::Path;

use serde::Serialize;
use vm_core::{Ending, ErrorEvent, Reported, Vm};
use vm_devices::DiskAccess;
use vm_pdm::Action;
use vm_state::Change;

use crate::ends::EndsAt;
use crate::exit::Status;
use crate::reach::{Changed, Now};

#[derive(Serialize)]
struct StateEvent {
    event: &'static str,
    sequence: u64,
    old: String,
    new: String,
    cause: String,
}

#[derive(Serialize)]
struct RuntimeEvent<'a> {
    event: &'static str,
    sequence: u64,
    id: &'static str,
    source: &'a str,
    message: &'a str,
    action: &'static str,
}

#[derive(Serialize)]
struct OperationEvent<'a> {
    event: &'static str,
    sequence: u64,
    op: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct ImageEvent<'a> {
    event: &'static str,
    device: &'a str,
    path: Option<String>,
    read_only: Option<bool>,
    sectors: u64,
}

#[derive(Serialize)]
struct EndsEvent<'a> {
    event: &'static str,
    device: &'a str,
    path: Option<String>,
    socket: Option<String>,
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

/// Something went wrong, at run time or with an operation: a line, with its newline.
pub(crate) fn error_line(error: &ErrorEvent) -> String {
    let (event, sequence) = ("error", error.sequence);
    match &error.what {
        Reported::Runtime(error) => line(&RuntimeEvent {
            event,
            sequence,
            id: error.id,
            source: &error.source,
            message: &error.message,
            action: match error.action {
                Action::Inform => "inform",
                Action::Suspend => "suspend",
                Action::Fatal => "fatal",
            },
        }),
        Reported::Operation { op, text } => line(&OperationEvent {
            event,
            sequence,
            op,
            message: text,
        }),
    }
}

/// Something was attached or detached: a line, with its newline.
pub(crate) fn backend_line(changed: &Changed) -> String {
    let (event, device) = ("backend", changed.device.as_str());
    match &changed.now {
        Now::Image(image) => line(&ImageEvent {
            event,
            device,
            path: image.as_ref().map(|image| shown(&image.path)),
            read_only: image
                .as_ref()
                .map(|image| image.access == DiskAccess::ReadOnly),
            sectors: image.as_ref().map_or(0, |image| image.sectors),
        }),
        Now::Ends(at) => {
            let (path, socket) = match at {
                Some(EndsAt::Path(path)) => (Some(shown(path)), None),
                Some(EndsAt::Socket(path)) => (None, Some(shown(path))),
                None => (None, None),
            };
            line(&EndsEvent {
                event,
                device,
                path,
                socket,
            })
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
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
