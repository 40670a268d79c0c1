// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a request does to the VM. Runs on the client's own thread; holds nothing while it does.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use vm_core::{Vm, VmError};
use vm_state::{ResumeReason, SuspendReason};

use super::protocol::{Failed, Kind, Op, PROTOCOL};

/// How long `info` waits for the EMTs, all together.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// Runs an operation that ends by itself: everything but `wait`, `events` and `destroy`.
///
/// # Errors
/// What the VM said.
pub(super) fn run(vm: &Vm, op: &Op) -> Result<Value, Failed> {
    let moved = |result: Result<(), VmError>| {
        result
            .map(|()| json!({ "state": vm.state().name() }))
            .map_err(|e| failed(&e))
    };
    match op {
        Op::Suspend => moved(vm.suspend(SuspendReason::User)),
        Op::Resume => moved(vm.resume(ResumeReason::User)),
        Op::Reset => moved(vm.reset()),
        Op::PowerOff => moved(vm.power_off()),
        Op::Status => Ok(json!(vm.status())),
        Op::Stats => Ok(stats(vm)),
        Op::Info => vm
            .report(REPORT_LIMIT)
            .map(|report| json!({ "text": report.to_string() }))
            .map_err(|e| failed(&e)),
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

#[derive(Serialize)]
struct VcpuStats {
    vcpu: u32,
    word: String,
    kicks: u64,
    wakes: u64,
    parks: u64,
}

fn stats(vm: &Vm) -> Value {
    let status = vm.status();
    let bells = vm.bells();
    let vcpus: Vec<_> = (0..status.vcpus)
        .map(|vcpu| {
            let counts = bells.counts(vcpu);
            VcpuStats {
                vcpu,
                word: bells.word(vcpu).to_string(),
                kicks: counts.kicks,
                wakes: counts.wakes,
                parks: counts.parks,
            }
        })
        .collect();
    json!({
        "hard_resets": status.hard_resets,
        "soft_resets": status.soft_resets,
        "vcpus": vcpus,
    })
}

fn failed(error: &VmError) -> Failed {
    let kind = match error {
        VmError::Refused { .. } | VmError::WouldBlock { .. } | VmError::Vcpu { .. } => {
            Kind::Refused
        }
        VmError::Late { .. } | VmError::Pending { .. } => Kind::Late,
        VmError::Gone { .. } => Kind::Gone,
        VmError::Spec { .. }
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
