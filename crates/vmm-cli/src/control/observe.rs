// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What `stats` and `info` answer.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use vm_core::Vm;
use vm_pdm::info::InfoError;

use super::protocol::{Counts, Failed, Kind, Page, Then};

/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// The page that was asked for.
///
/// # Errors
/// That there is none of the name, or that it did not come; the VM is as it was.
pub(super) fn page(vm: &Vm, page: &Page) -> Result<Value, Failed> {
    let text = vm.infos().run(&page.name, &page.args, PAGE_LIMIT);
    text.map(|text| json!({ "text": text })).map_err(|e| {
        let kind = match &e {
            InfoError::NotFound { .. } | InfoError::Args { .. } => Kind::Usage,
            InfoError::Late { .. } => Kind::Late,
            InfoError::Panicked { .. }
            | InfoError::Thread { .. }
            | InfoError::InvalidName { .. }
            | InfoError::Exists { .. } => Kind::Failed,
        };
        Failed::new(kind, e.to_string())
    })
}

/// The summary, and the statistics that were asked for, as they were before they are reset.
pub(super) fn counts(vm: &Vm, counts: &Counts) -> Value {
    let samples = vm.stats().snapshot(&counts.which);
    if counts.then == Then::Reset {
        vm.stats().reset(&counts.which);
    }
    let mut reply = summary(vm);
    reply["samples"] = json!(samples);
    reply
}

#[derive(Serialize)]
struct VcpuStats {
    vcpu: u32,
    word: String,
    kicks: u64,
    wakes: u64,
    parks: u64,
}

/// The few counts that are told without a pattern.
pub(super) fn summary(vm: &Vm) -> Value {
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
