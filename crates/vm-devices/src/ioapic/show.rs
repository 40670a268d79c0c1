// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an IOAPIC counts, and its page.

use std::fmt::{self, Write};
use std::sync::Arc;

use vm_pdm::info::Page;
use vm_pdm::stats::{Counter, Scope, StatError, Unit};

use super::{DEST_SHIFT, IoApic, LOGICAL, MASKED, MODE_SHIFT, PINS, REMOTE_IRR, is_level};

#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counts {
    /// Messages sent, by input.
    pub(super) delivered: [Counter; PINS],
    /// Acknowledgements.
    pub(super) eois: Counter,
    /// Times that the engine was told new routes.
    pub(super) routed: Counter,
}

impl Counts {
    pub(super) fn register(self: &Arc<Self>, scope: &mut Scope) -> Result<(), StatError> {
        let times = Unit::Occurrences;
        for pin in 0..PINS {
            let name = format!("pin/{pin}/delivered");
            scope.part(&name, times, "messages of this input", self, move |c| {
                &c.delivered[pin]
            })?;
        }
        scope
            .part("eois", times, "vectors acknowledged", self, |c| &c.eois)?
            .part("routed", times, "routes told to the engine", self, |c| {
                &c.routed
            })?;
        Ok(())
    }
}

/// A line for each input that is asserted or not masked.
pub(super) fn page(chip: &IoApic, page: &mut Page) -> fmt::Result {
    let (entries, asserted) = {
        let state = chip.state();
        (state.entries, state.asserted)
    };
    writeln!(page, "inputs asserted: {asserted:#08x}")?;
    for (pin, entry) in entries.into_iter().enumerate() {
        let is_high = asserted >> pin & 1 == 1;
        if entry & MASKED != 0 && !is_high {
            continue;
        }
        let word = |bit: u64, yes: &'static str, no| if entry & bit != 0 { yes } else { no };
        writeln!(
            page,
            "input {pin:2}: {}, {}, {}, vector {:#04x}, mode {}, {} destination {:#04x}{}; {} messages",
            if is_high { "asserted" } else { "low" },
            word(MASKED, "masked", "open"),
            if is_level(entry) { "level" } else { "edge" },
            entry & 0xff,
            entry >> MODE_SHIFT & 0b111,
            word(LOGICAL, "logical", "physical"),
            entry >> DEST_SHIFT,
            word(REMOTE_IRR, ", in service", ""),
            chip.counts.delivered[pin].get(),
        )?;
    }
    Ok(())
}
