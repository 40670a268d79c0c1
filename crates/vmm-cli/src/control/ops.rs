// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a request does to the VM. Runs on the client's own thread; holds nothing while it does.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_core::VmError;
use vm_devices::Ged;
use vm_pdm::PlaceError;
use vm_state::{ResumeReason, SuspendReason};

use super::observe;
use super::protocol::{Attach, Failed, Kind, Manner, Op, PROTOCOL, Room, What};
use super::server::Shared;
use crate::bundle::{self, Bundle, BundleError};
use crate::ends::EndsAt;
use crate::reach::{Given, Now, ReachError};

/// How long `info` waits for the EMTs, all together.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// How often a wait for the guest looks whether the program ends.
const LOOK: Duration = Duration::from_millis(100);

/// Runs an operation that ends by itself: everything but `wait`, `events` and `destroy`.
///
/// # Errors
/// What the VM said.
pub(super) fn run(shared: &Shared, op: &Op) -> Result<Value, Failed> {
    let vm = &shared.vm;
    let moved = |result: Result<(), VmError>| {
        result
            .map(|()| json!({ "state": vm.state().name() }))
            .map_err(|e| failed(&e))
    };
    match op {
        Op::Suspend => moved(vm.suspend(SuspendReason::User)),
        Op::Resume => moved(vm.resume(ResumeReason::User)),
        Op::Reset => moved(vm.reset()),
        Op::PowerOff(Manner::Hard) => moved(vm.power_off()),
        Op::PowerOff(Manner::Graceful) => {
            ged(shared)?.press_power_button();
            moved(Ok(()))
        }
        Op::Plug { vcpu } => plug(shared, *vcpu),
        Op::Unplug { vcpu, limit } => unplug(shared, *vcpu, *limit),
        Op::Cap { percent } => vm
            .set_cap(*percent)
            .map(|()| json!({ "cap_percent": vm.cap() }))
            .map_err(|e| failed(&e)),
        Op::Attach(what) => attach(shared, what),
        Op::Detach { device } => shared
            .reach
            .detach(vm, device)
            .map(|_| json!({ "device": device }))
            .map_err(|e| unreached(&e)),
        Op::Status => Ok(json!(vm.status())),
        Op::Stats(None) => Ok(observe::summary(vm)),
        Op::Stats(Some(counts)) => Ok(observe::counts(vm, counts)),
        Op::Info(None) => vm
            .report(REPORT_LIMIT)
            .map(|report| json!({ "text": report.to_string() }))
            .map_err(|e| failed(&e)),
        Op::Bundle { dir } => bundle(shared, dir),
        Op::Info(Some(page)) => observe::page(vm, page),
        Op::Version => Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": PROTOCOL,
            "ops": Op::NAMES,
        })),
        Op::Wait { .. } | Op::Events | Op::Destroy => Err(Failed::new(
            Kind::Failed,
            "the session itself answers this; this is a defect, please report it",
        )),
    }
}

/// The machine's event device.
fn ged(shared: &Shared) -> Result<&Ged, Failed> {
    let ged = shared.reach.ged.get().map(AsRef::as_ref);
    ged.ok_or_else(|| Failed::new(Kind::Failed, "this machine has no event device"))
}

fn attach(shared: &Shared, what: &Attach) -> Result<Value, Failed> {
    let Attach { device, what, room } = what;
    let what = match what {
        What::Path(path, access) => Given::Path(path, *access),
        What::Socket(path) => Given::Socket(path),
    };
    let changed = match room {
        Room::Empty => shared.reach.attach(&shared.vm, device, what),
        Room::Replaced => shared.reach.replace(&shared.vm, device, what),
    };
    Ok(match changed.map_err(|e| unreached(&e))?.now {
        Now::Image(image) => json!({
            "device": device,
            "path": image.as_ref().map(|image| &image.path),
            "sectors": image.as_ref().map_or(0, |image| image.sectors),
        }),
        Now::Ends(Some(EndsAt::Socket(path))) => json!({ "device": device, "socket": path }),
        Now::Ends(Some(EndsAt::Path(path))) => json!({ "device": device, "path": path }),
        Now::Ends(None) => json!({ "device": device }),
    })
}

fn unreached(error: &ReachError) -> Failed {
    match error {
        ReachError::Vm(error) => failed(error),
        ReachError::Here { .. } => Failed::new(Kind::Refused, error.to_string()),
        ReachError::Image(_) | ReachError::Ends { .. } => {
            Failed::new(Kind::Failed, error.to_string())
        }
    }
}

fn plug(shared: &Shared, vcpu: u32) -> Result<Value, Failed> {
    let ged = ged(shared)?;
    shared.vm.plug(vcpu).map_err(|e| failed(&e))?;
    // The vCPU waits for its start-up now: the guest may be told.
    ged.plug(vcpu)
        .map_err(|e| Failed::new(Kind::Refused, e.to_string()))?;
    Ok(json!({ "plugged": shared.vm.status().plugged }))
}

/// Asks the guest, and waits until it has given the vCPU up.
fn unplug(shared: &Shared, vcpu: u32, limit: Duration) -> Result<Value, Failed> {
    let ged = ged(shared)?;
    ged.ask_for(vcpu)
        .map_err(|e| Failed::new(Kind::Refused, e.to_string()))?;
    let deadline = Instant::now() + limit;
    while ged.is_plugged(vcpu) {
        let now = Instant::now();
        if shared.ending() {
            return Err(Failed::new(Kind::Gone, "the program ends"));
        }
        if now >= deadline {
            return Err(Failed::new(
                Kind::Timeout,
                format!(
                    "the guest has not given vCPU {vcpu} up within {limit:?}: it may not support it; it is still plugged"
                ),
            ));
        }
        ged.wait_for_change(vcpu, deadline.min(now + LOOK));
    }
    // The EMT that served the guest's access may not have come to it yet.
    match shared.vm.unplug(vcpu) {
        Ok(()) | Err(VmError::Vcpu { .. }) => {}
        Err(e) => return Err(failed(&e)),
    }
    Ok(json!({ "plugged": shared.vm.status().plugged }))
}

fn bundle(shared: &Shared, dir: &Path) -> Result<Value, Failed> {
    let refused = |e: BundleError| {
        let causes: Vec<String> = anyhow::Chain::new(&e).map(ToString::to_string).collect();
        Failed::new(Kind::Failed, causes.join(": "))
    };
    bundle::check_place(dir).map_err(refused)?;
    Bundle::of(&shared.vm, &shared.config)
        .save(dir)
        .map_err(refused)?;
    Ok(json!({ "dir": dir }))
}

fn failed(error: &VmError) -> Failed {
    let kind = match error {
        VmError::Refused { .. } | VmError::WouldBlock { .. } | VmError::Vcpu { .. } => {
            Kind::Refused
        }
        VmError::Late { .. } | VmError::Pending { .. } => Kind::Late,
        VmError::Place(error) => match error {
            PlaceError::NoDevice { .. } => Kind::Usage,
            PlaceError::NoPlace { .. }
            | PlaceError::Attached { .. }
            | PlaceError::Empty { .. }
            | PlaceError::Underway { .. }
            | PlaceError::Refused { .. } => Kind::Refused,
            PlaceError::Late { .. } => Kind::Late,
            PlaceError::Unwritten { .. } => Kind::Failed,
        },
        VmError::Gone { .. } => Kind::Gone,
        VmError::Spec { .. }
        | VmError::NotUndone { .. }
        | VmError::Fatal { .. }
        | VmError::Component(_)
        | VmError::Device(_)
        | VmError::Save { .. }
        | VmError::Cpu { .. }
        | VmError::Thread { .. }
        | VmError::Overtaken { .. }
        | VmError::Panicked { .. } => Kind::Failed,
    };
    let causes: Vec<String> = anyhow::Chain::new(error).map(ToString::to_string).collect();
    Failed::new(kind, causes.join(": "))
}
