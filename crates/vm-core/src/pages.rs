// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The pages about the machine itself: `cpu`, `irq`, `memory`, `bus` and `timers`.
//!
//! Each is written on the registry's thread. What only an EMT can tell is asked of it as a priority
//! request, within the time that the page's reader waits.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Weak};

use vm_cpu::RamLayout;
use vm_cpu::x86::VcpuState;
use vm_pdm::Buses;
use vm_pdm::info::{Asked, InfoError, InfoGuard, Page};

use crate::emt::{Emt, describe};
use crate::recorder::exit_name;
use crate::report::{CpuPage, EmtReport, Seen};
use crate::shared::Shared;

/// Target of the log messages of a power-off.
const DUMP: &str = "vm.dump";

type Writer = fn(&Shared, &Asked, &mut Page) -> fmt::Result;

/// Registers the pages, for as long as the guards live.
pub(crate) fn of_machine(shared: &Arc<Shared>, buses: &Arc<Buses>) -> Vec<InfoGuard> {
    let pages: [(&str, &'static str, Writer); 4] = [
        (
            "cpu",
            "each vCPU's registers and what its EMT did last; or of one: its number",
            cpu,
        ),
        ("irq", "each vCPU's interrupts; or of one: its number", irq),
        ("memory", "where guest memory lies", memory),
        (
            "timers",
            "the virtual clock and the timers on it",
            |shared, _, page| shared.timers.info(page),
        ),
    ];
    let infos = &shared.observed.infos;
    let mut guards = Vec::new();
    for (name, about, write) in pages {
        // The registry is a part of what is shared.
        let weak = Arc::downgrade(shared);
        guards.push(infos.register(name, about, move |asked, page| {
            Weak::upgrade(&weak).map_or(Ok(()), |shared| write(&shared, asked, page))
        }));
    }
    let buses = Arc::clone(buses);
    guards.push(infos.register(
        "bus",
        "who owns which ports and addresses",
        move |_, page| buses.info(page),
    ));
    guards.into_iter().filter_map(kept).collect()
}

fn kept(guard: Result<InfoGuard, InfoError>) -> Option<InfoGuard> {
    guard
        .inspect_err(|e| log::warn!(target: "vm.info", "{e}"))
        .ok()
}

/// Logs the EMT's page, and on EMT 0 that of the timers, at level debug: what a VM did last before it is
/// off. Not after a guru, whose report says it. EMT, while all are gathered.
pub(crate) fn dump(emt: &mut Emt) {
    if !log::log_enabled!(target: DUMP, log::Level::Debug) || emt.shared().guru().is_some() {
        return;
    }
    let (shared, vcpu) = (Arc::clone(emt.shared()), emt.id());
    let page = CpuPage(&about(&shared, vcpu, Some(emt.seen()))).to_string();
    log::debug!(target: DUMP, "{}", page.trim_end());
    if vcpu == 0 {
        let mut page = Page::new();
        // A page that is full says so itself.
        let _ = shared.timers.info(&mut page);
        log::debug!(target: DUMP, "{}", page.into_text().trim_end());
    }
}

/// One EMT from outside, with what it said of itself.
fn about(shared: &Shared, vcpu: u32, seen: Option<Seen>) -> EmtReport {
    EmtReport {
        vcpu,
        tid: shared.threads.tids().get(vcpu as usize).copied().flatten(),
        word: shared.bells.word(vcpu).to_string(),
        last_exit: exit_name(shared.bells.last_exit(vcpu).0),
        seen,
    }
}

/// Writes something about each vCPU that is asked for, with what its EMT says of it.
fn on_each<T: Send>(
    shared: &Shared,
    asked: &Asked,
    page: &mut Page,
    ask: fn(&mut Emt) -> T,
    write: impl Fn(u32, Option<T>, &mut Page) -> fmt::Result,
) -> fmt::Result {
    let vcpus = match asked.args.trim() {
        "" => 0..shared.spec.vcpus,
        number => match number.parse() {
            Ok(v) if v < shared.spec.vcpus => v..v + 1,
            Ok(_) | Err(_) => {
                return writeln!(page, "the vCPUs are 0 to {}", shared.spec.vcpus - 1);
            }
        },
    };
    for v in vcpus {
        let told = shared.queues.call_priority(v, Some(asked.left() / 2), ask);
        write(v, told.ok(), page)?;
    }
    Ok(())
}

fn cpu(shared: &Shared, asked: &Asked, page: &mut Page) -> fmt::Result {
    on_each(shared, asked, page, Emt::seen, |vcpu, seen, page| {
        write!(page, "{}", CpuPage(&about(shared, vcpu, seen)))
    })
}

fn irq(shared: &Shared, asked: &Asked, page: &mut Page) -> fmt::Result {
    let state = |emt: &mut Emt| {
        let state = emt.settled().and_then(|settled| settled.state());
        state.map_err(|e| describe(&e))
    };
    writeln!(page, "interrupt controllers: {:?}", shared.spec.irq)?;
    on_each(
        shared,
        asked,
        page,
        state,
        |vcpu, state, page| match state {
            None => writeln!(page, "vCPU {vcpu}: its EMT does not answer"),
            Some(Err(why)) => writeln!(page, "vCPU {vcpu}: {why}"),
            Some(Ok(state)) => interrupts(vcpu, &state, page),
        },
    )
}

fn interrupts(vcpu: u32, state: &VcpuState, page: &mut Page) -> fmt::Result {
    writeln!(
        page,
        "vCPU {vcpu}: {:?}, {:?}",
        state.activity, state.events
    )?;
    let Some(lapic) = &state.lapic else {
        return Ok(());
    };
    // Intel SDM vol. 3, table 11-1: registers of the local APIC.
    writeln!(
        page,
        "  task priority {:#x}, timer vector {:#x}, count {} of {}",
        register(lapic, 0x80),
        register(lapic, 0x320),
        register(lapic, 0x390),
        register(lapic, 0x380),
    )?;
    writeln!(page, "  in service: {}", vectors(lapic, 0x100))?;
    writeln!(page, "  requested:  {}", vectors(lapic, 0x200))
}

fn register(lapic: &[u8], at: usize) -> u32 {
    lapic
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// The vectors that are set in the eight registers from `at`, highest first.
fn vectors(lapic: &[u8], at: usize) -> String {
    let is_set = |v: &usize| register(lapic, at + v / 32 * 0x10) >> (v % 32) & 1 == 1;
    let set: Vec<String> = (0..256)
        .rev()
        .filter(is_set)
        .map(|v| format!("{v:#04x}"))
        .collect();
    if set.is_empty() {
        "none".to_owned()
    } else {
        set.join(" ")
    }
}

fn memory(shared: &Shared, _: &Asked, page: &mut Page) -> fmt::Result {
    let layout = RamLayout {
        bytes: shared.spec.memory_bytes,
    };
    writeln!(page, "{} bytes of guest memory", layout.bytes)?;
    for (at, bytes) in layout.ranges() {
        writeln!(page, "{at:#018x} - {:#018x}", at + bytes - 1)?;
    }
    Ok(())
}
