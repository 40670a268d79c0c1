// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What this host can do, and which engine `auto` takes and why.

use std::sync::Arc;

use anyhow::anyhow;
use serde::Serialize;
use vm_cpu::{Baseline, CpuError, CpuModel, Engine, IrqMode};
use vm_cpu_kvm::{GuestSpeed, Host, KvmEngine, Need};

use crate::args::HostArgs;
use crate::config::EngineChoice;
use crate::exit::{Failure, Status};
use crate::say;

/// Opens the engine the user chose.
pub(crate) fn engine(choice: EngineChoice) -> Result<Arc<dyn Engine>, Failure> {
    // One engine so far: "auto" is KVM, and its error says what is missing.
    match choice {
        EngineChoice::Auto | EngineChoice::Kvm => {
            Ok(Arc::new(KvmEngine::open().map_err(Failure::host)?))
        }
    }
}

/// Refuses more guest memory than the host has.
///
/// # Errors
/// The figures. A host that does not tell its memory refuses nothing.
pub(crate) fn memory_fits(bytes: u64) -> anyhow::Result<()> {
    let Some(host) = host_memory() else {
        return Ok(());
    };
    if bytes > host {
        return Err(anyhow!(
            "memory: {} MiB is more than this host has ({} MiB with swap)",
            bytes >> 20,
            host >> 20
        ));
    }
    Ok(())
}

/// Memory and swap of the host, in bytes (proc(5), meminfo).
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0)) << 10)
}

#[derive(Serialize)]
struct Report {
    /// What `auto` takes.
    engine: Option<&'static str>,
    why: String,
    guest_speed: Option<&'static str>,
    kvm: Option<KvmReport>,
    cpu_models: Vec<ModelReport>,
    /// What guests can have, and `--cpu host,-NAME` takes away.
    cpu_features: Vec<&'static str>,
}

#[derive(Serialize)]
struct ModelReport {
    name: String,
    /// Why guests cannot have it here.
    refused: Option<String>,
}

#[derive(Serialize)]
struct KvmReport {
    api_version: i32,
    module: Option<String>,
    max_vcpus: usize,
    recommended_vcpus: usize,
    memory_slots: usize,
    capabilities: Vec<CapabilityReport>,
}

#[derive(Serialize)]
struct CapabilityReport {
    name: &'static str,
    value: i32,
    need: &'static str,
    used_for: &'static str,
}

/// `vmm host`.
pub(crate) fn host(args: &HostArgs) -> Result<Status, Failure> {
    let report = report();
    let text = if args.json {
        serde_json::to_string(&report).map_err(Failure::host)?
    } else {
        text(&report)
    };
    say::output(&text).map_err(Failure::host)?;
    Ok(if report.engine.is_some() {
        Status::Ok
    } else {
        Status::Host
    })
}

fn report() -> Report {
    let host = match KvmEngine::probe() {
        Ok(host) => host,
        Err(e) => return unusable(&e, None),
    };
    let kvm = Some(kvm_report(&host));
    if let Err(e) = host.check(IrqMode::Split) {
        return unusable(&e, kvm);
    }
    let opened = KvmEngine::open().and_then(|engine| Ok((engine.speed_probe()?, engine)));
    match opened {
        Ok((speed, engine)) => {
            let (name, why) = match speed {
                GuestSpeed::Native => ("native", "KVM opens, has all that is needed, and is fast"),
                GuestSpeed::Interpreted => (
                    "interpreted",
                    "KVM opens and has all that is needed, but interprets guest kernels: a Linux boot would take hours",
                ),
            };
            Report {
                engine: Some("kvm"),
                why: why.into(),
                guest_speed: Some(name),
                kvm,
                cpu_models: cpu_models(&engine),
                cpu_features: engine.features().names(),
            }
        }
        Err(e) => unusable(&e, kvm),
    }
}

fn cpu_models(engine: &KvmEngine) -> Vec<ModelReport> {
    let baselines = Baseline::ALL.map(CpuModel::Baseline);
    let models = [CpuModel::Host].into_iter().chain(baselines);
    models
        .map(|model| ModelReport {
            name: model.to_string(),
            refused: engine.try_cpu(model.into()).err().map(|e| match e {
                CpuError::Unavailable { hint, .. } => hint,
                e @ (CpuError::Host { .. }
                | CpuError::Invalid { .. }
                | CpuError::Unsettled { .. }) => e.to_string(),
            }),
        })
        .collect()
}

fn unusable(error: &CpuError, kvm: Option<KvmReport>) -> Report {
    Report {
        engine: None,
        why: error.to_string(),
        guest_speed: None,
        kvm,
        cpu_models: Vec::new(),
        cpu_features: Vec::new(),
    }
}

fn kvm_report(host: &Host) -> KvmReport {
    KvmReport {
        api_version: host.api_version,
        module: host.module.clone(),
        max_vcpus: host.max_vcpus,
        recommended_vcpus: host.recommended_vcpus,
        memory_slots: host.memory_slots,
        capabilities: host
            .capabilities
            .iter()
            .map(|cap| CapabilityReport {
                name: cap.name,
                value: cap.value,
                need: match cap.need {
                    Need::Always => "always",
                    Need::SplitIrqchip => "split irqchip",
                    Need::Optional => "optional",
                },
                used_for: cap.used_for,
            })
            .collect(),
    }
}

fn text(report: &Report) -> String {
    let engine = report.engine.unwrap_or("none");
    let mut lines = vec![format!("engine auto = {engine}: {}", report.why)];
    if let Some(kvm) = &report.kvm {
        let module = kvm.module.as_deref().unwrap_or("unknown module");
        lines.push(format!(
            "kvm: API {}, {module}, up to {} vCPUs ({} recommended), {} memory slots",
            kvm.api_version, kvm.max_vcpus, kvm.recommended_vcpus, kvm.memory_slots
        ));
        for cap in &kvm.capabilities {
            lines.push(format!(
                "  {:<34} {:>5}  {:<13}  {}",
                cap.name, cap.value, cap.need, cap.used_for
            ));
        }
    }
    for model in &report.cpu_models {
        let refused = model.refused.as_deref();
        let said = refused.map_or("yes".into(), |why| format!("no, {why}"));
        lines.push(format!("cpu model {}: {said}", model.name));
    }
    if !report.cpu_features.is_empty() {
        let features = report.cpu_features.join(" ");
        lines.push(format!("cpu features: {features}"));
    }
    lines.join("\n")
}
