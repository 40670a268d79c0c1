// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is observed of a VM: statistics and info pages.
//!
//! | path | what it counts |
//! |---|---|
//! | `/emt/N/exits/KIND` | how often vCPU N left the guest, by kind |
//! | `/emt/N/kicks`, `wakes`, `parks` | how often its EMT was kicked out, woken, and slept |
//! | `/emt/N/requests`, `parts` | requests it served, and its parts of operations |
//! | `/vm/ops/NAME/took`, `failed` | operations on the VM, how long they took, and how many failed |
//! | `/bus/..`, `/timers/..` | what the buses and the timers tell |
//! | `/device/NAME/..` | what the device NAME tells |
//! | `/engine/vm/..`, `/engine/vcpu/N/..` | what the engine counts |
//!
//! Each EMT counts in a block of its own, so that no two EMTs share a cache line. Nothing here is
//! reset when the VM is.

use std::sync::Arc;
use std::time::Duration;

use vm_cpu::{Statistic, StatisticKind, StatisticUnit};
use vm_emt::Bells;
use vm_pdm::info::{InfoGuard, Infos};
use vm_pdm::stats::{
    Counter, Profile, Reading, Registration, Scope, StatError, Stats, Unit, Value,
};
use vm_pdm::{Buses, Device, Devices, Timers};
use vm_state::operations;

use crate::emt::Emt;
use crate::recorder::{EXIT_NAMES, Flight, exit_code};
use crate::{VmSpec, pages};

/// Statistics and pages of one VM.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) stats: Stats,
    pub(crate) infos: Infos,
    emts: Vec<Arc<EmtCounts>>,
    ops: Arc<OpCounts>,
    _kept: Vec<Registration>,
}

/// What one EMT counts, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EmtCounts {
    exits: [Counter; EXIT_NAMES.len()],
    requests: Counter,
    parts: Counter,
}

impl EmtCounts {
    /// Counts what the EMT did. The EMT alone calls it.
    #[inline]
    pub(crate) fn count(&self, flight: &Flight) {
        match flight {
            Flight::Exit(exit) => {
                if let Some(exits) = self.exits.get(exit_code(exit) as usize) {
                    exits.inc();
                }
            }
            Flight::Request => self.requests.inc(),
            Flight::Part(_) => self.parts.inc(),
            Flight::State(_) | Flight::Guru => {}
        }
    }
}

/// The operations that gather the EMTs, by name.
const OPS: [&str; 7] = [
    operations::POWER_ON.name,
    operations::SUSPEND.name,
    operations::RESUME.name,
    operations::HARD_RESET.name,
    operations::SOFT_RESET.name,
    operations::POWER_OFF.name,
    operations::LIVE_SUSPEND.name,
];

#[derive(Debug, Default)]
struct OpCounts([(Profile, Counter); OPS.len()]);

impl Observed {
    /// Of a VM that is being created.
    pub(crate) fn new(spec: &VmSpec, bells: &Arc<Bells>, timers: &Timers) -> Self {
        let stats = Stats::new();
        let emts: Vec<Arc<EmtCounts>> = (0..spec.vcpus).map(|_| Arc::default()).collect();
        let ops: Arc<OpCounts> = Arc::default();
        let mut kept = Vec::new();
        for (v, counts) in (0..).zip(&emts) {
            kept.extend(below(&stats, &format!("/emt/{v}"), |scope| {
                emt_stats(scope, v, counts, bells)
            }));
        }
        kept.extend(below(&stats, "/vm/ops", |scope| op_stats(scope, &ops)));
        kept.extend(below(&stats, "/timers", |scope| timers.stats(scope)));
        Self {
            stats,
            infos: Infos::new(),
            emts,
            ops,
            _kept: kept,
        }
    }

    /// Where EMT `v` counts.
    pub(crate) fn emt(&self, v: u32) -> Arc<EmtCounts> {
        self.emts
            .get(v as usize)
            .map_or_else(Arc::default, Arc::clone)
    }

    /// An operation ended; how long it took if it succeeded.
    pub(crate) fn operation(&self, name: &str, took: Option<Duration>) {
        let at = OPS.iter().position(|op| *op == name);
        if let Some((profile, failed)) = at.and_then(|at| self.ops.0.get(at)) {
            match took {
                Some(took) => profile.record_time(took),
                None => failed.inc(),
            }
        }
    }
}

/// Registers what `fill` does; a path that cannot be had costs that statistic, not the VM.
fn below(
    stats: &Stats,
    path: &str,
    fill: impl FnOnce(&mut Scope) -> Result<(), StatError>,
) -> Vec<Registration> {
    let mut scope = Scope::new(stats, path);
    if let Err(e) = fill(&mut scope) {
        log::warn!(target: "vm.stats", "not all statistics of {path}: {e}");
    }
    scope.into_guards()
}

fn emt_stats(
    scope: &mut Scope,
    v: u32,
    counts: &Arc<EmtCounts>,
    bells: &Arc<Bells>,
) -> Result<(), StatError> {
    let times = Unit::Occurrences;
    for (i, name) in EXIT_NAMES.iter().enumerate().skip(1) {
        let name = format!("exits/{name}");
        scope.part(&name, times, "exits of this kind", counts, move |c| {
            &c.exits[i]
        })?;
    }
    scope
        .part("requests", times, "requests served", counts, |c| {
            &c.requests
        })?
        .part("parts", times, "parts of operations", counts, |c| &c.parts)?;
    let reader = |which: fn(vm_emt::Counts) -> u64| {
        let bells = Arc::clone(bells);
        move || Value::Counter(which(bells.counts(v)))
    };
    scope
        .read(
            "kicks",
            times,
            "kicked out of the guest",
            reader(|c| c.kicks),
        )?
        .read("wakes", times, "woken", reader(|c| c.wakes))?
        .read("parks", times, "went to sleep", reader(|c| c.parks))?;
    Ok(())
}

fn op_stats(scope: &mut Scope, ops: &Arc<OpCounts>) -> Result<(), StatError> {
    for (i, name) in OPS.iter().enumerate() {
        let name = name.replace(' ', "-");
        let (took, failed) = (format!("{name}/took"), format!("{name}/failed"));
        scope
            .part(
                &took,
                Unit::Ns,
                "done, and how long it took",
                ops,
                move |o| &o.0[i].0,
            )?
            .part(&failed, Unit::Occurrences, "failed", ops, move |o| {
                &o.0[i].1
            })?;
    }
    Ok(())
}

/// What a board shows: dropped before its devices are.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    _stats: Vec<Registration>,
    _infos: Vec<InfoGuard>,
}

/// Registers the statistics and pages of a machine whose board was built. EMT 0.
pub(crate) fn show(emt: &Emt, devices: &Devices, buses: &Arc<Buses>) -> Shown {
    let shared = emt.shared();
    let Observed { stats, infos, .. } = &shared.observed;
    let mut kept = below(stats, "/bus", |scope| buses.stats(scope));
    let mut pages = pages::of_machine(shared, buses);
    for device in devices.iter() {
        let path = format!("/device/{}", device.name());
        kept.extend(below(stats, &path, |scope| device.stats(scope)));
        pages.extend(page_of(infos, device));
    }
    if let Some(machine) = emt.machine().cloned() {
        let engine = stats.group("/engine", move || {
            machine.statistics().into_iter().map(reading).collect()
        });
        kept.extend(engine);
    }
    Shown {
        _stats: kept,
        _infos: pages,
    }
}

/// What an engine counts, as the registry has it.
fn reading(statistic: Statistic) -> Reading {
    let Statistic {
        vcpu,
        name,
        unit,
        kind,
        value,
    } = statistic;
    let name = match vcpu {
        Some(vcpu) => format!("vcpu/{vcpu}/{name}"),
        None => format!("vm/{name}"),
    };
    Reading {
        name: name.into(),
        unit: match unit {
            StatisticUnit::Count => Unit::Count,
            StatisticUnit::Bytes => Unit::Bytes,
            StatisticUnit::Ns => Unit::Ns,
        },
        value: match kind {
            StatisticKind::Grows => Value::Counter(value),
            StatisticKind::Now => Value::Gauge(value),
        },
    }
}

fn page_of(infos: &Infos, device: &Arc<dyn Device>) -> Option<InfoGuard> {
    let its = Arc::clone(device);
    let shown = infos.register(device.name(), "a device", move |_, page| its.info(page));
    shown
        .inspect_err(|e| log::warn!(target: "vm.info", "no page of device {}: {e}", device.name()))
        .ok()
}
