// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The IOAPIC: changes of 24 inputs become messages to the processors.
//!
//! Source: Intel 82093AA data sheet; the EOI register and version 0x20: Intel ICH data sheets,
//! "APIC EOI Register". Messages: Intel SDM vol. 3, section 11.11.
//!
//! # Order
//! A processor reports the EOI of a level-triggered interrupt only if the engine knows the route, so
//! no message leaves before its route was published: while an entry changes, its input is held, and
//! what happens to it meanwhile is remembered. `published` is taken first and serialises changes; it
//! is held across [`MsiSink::route`]. `state` is never held across the sink.

mod show;

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_pdm::info::Page;
use vm_pdm::stats::{Scope, StatError};
use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, IrqChip, Level, MsiSink, ResetKind,
};

const PINS: usize = 24;
/// Version 0x20 (has an EOI register), and the number of the last input.
const VERSION: u32 = 0x20 | 23 << 16;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const MODE_SHIFT: u32 = 8;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DEST_SHIFT: u32 = 56;
/// Bits a guest can change.
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !(DELIVERY_STATUS | REMOTE_IRR);

/// A message: address and data.
type Message = (u64, u32);
type Routes = [Option<Message>; PINS];

/// The IOAPIC at [`IoApic::BASE`].
///
/// Inputs are asserted or not; the polarity bit of an entry is kept but means nothing. While an edge
/// input is masked, its edges are lost, as the data sheet says. A masked level input whose interrupt
/// is not acknowledged yet keeps its route, so that the engine reports the EOI.
pub struct IoApic {
    sink: Arc<dyn MsiSink>,
    published: Mutex<Routes>,
    state: Mutex<State>,
    counts: Arc<show::Counts>,
}

struct State {
    select: u8,
    id: u32,
    entries: [u64; PINS],
    /// Levels of the inputs, a bit for each.
    asserted: u32,
    /// The input whose entry is being changed: nothing is delivered.
    held: Option<usize>,
    /// Whether the held input had a rising edge.
    held_edge: bool,
}

impl Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("IoApic")
            .field("asserted", &format_args!("{:#08x}", state.asserted))
            .field("entries", &format_args!("{:x?}", state.entries))
            .finish_non_exhaustive()
    }
}

impl IoApic {
    /// Guest-physical address.
    pub const BASE: u64 = 0xfec0_0000;
    /// Bytes.
    pub const SIZE: u64 = 0x1000;
    /// Number of inputs.
    pub const PINS: u32 = 24;

    /// All inputs masked; messages go to `sink`, which may not call back.
    pub fn new(sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let state = State {
            select: 0,
            id: 0,
            entries: [MASKED; PINS],
            asserted: 0,
            held: None,
            held_edge: false,
        };
        Arc::new(Self {
            sink,
            published: Mutex::new([None; PINS]),
            state: Mutex::new(state),
            counts: Arc::default(),
        })
    }

    /// Puts the registers on the memory bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the addresses.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let handler = Arc::clone(self);
        bus.mmio(
            self.name(),
            Self::BASE..=Self::BASE + Self::SIZE - 1,
            handler,
        )?;
        Ok(())
    }

    /// The guest acknowledged `vector`: inputs still asserted deliver again. Any thread.
    pub fn eoi(&self, vector: u8) {
        self.counts.eois.inc();
        let again = {
            let mut state = self.state();
            let mut again = [None; PINS];
            for (pin, message) in again.iter_mut().enumerate() {
                let entry = &mut state.entries[pin];
                if *entry & REMOTE_IRR != 0 && entry.to_le_bytes()[0] == vector {
                    *entry &= !REMOTE_IRR;
                    *message = state.level_message(pin);
                }
            }
            again
        };
        for (pin, message) in again.into_iter().enumerate() {
            if let Some(message) = message {
                self.deliver(pin, message);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, pin: usize, (addr, data): Message) {
        self.counts.delivered[pin].inc();
        self.sink.deliver(addr, data);
    }

    fn write_window(&self, value: u32) {
        let mut state = self.state();
        match state.select {
            0 => state.id = value & 0x0f00_0000,
            select => {
                drop(state);
                if let Some((pin, half)) = entry_of(select) {
                    self.write_entry(pin, half, value);
                }
            }
        }
    }

    /// Changes one half of an entry: hold the input, publish its route, change, release.
    fn write_entry(&self, pin: usize, half: Half, value: u32) {
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (entry, routes) = {
            let mut state = self.state();
            let entry = merge(state.entries[pin], half, value);
            let mut routes = state.routes();
            routes[pin] = route(entry);
            state.held = Some(pin);
            (entry, routes)
        };
        if routes != *published {
            self.counts.routed.inc();
            self.sink.route(&routes);
            *published = routes;
        }
        let message = {
            let mut state = self.state();
            // An EOI may have come meanwhile; only it changes an entry while it is held.
            let irr = if entry & LEVEL == 0 {
                0
            } else {
                state.entries[pin] & REMOTE_IRR
            };
            state.entries[pin] = entry & !REMOTE_IRR | irr;
            state.held = None;
            let edge = std::mem::take(&mut state.held_edge);
            state
                .level_message(pin)
                .or_else(|| state.edge_message(pin).filter(|_| edge))
        };
        drop(published);
        if let Some(message) = message {
            self.deliver(pin, message);
        }
    }
}

impl Device for IoApic {
    fn name(&self) -> &str {
        "ioapic"
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        self.counts.register(scope)
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        show::page(self, page)
    }

    /// A hard reset masks all inputs; their levels are the devices' own.
    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            let mut published = self
                .published
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            {
                let mut state = self.state();
                state.select = 0;
                state.id = 0;
                state.entries = [MASKED; PINS];
            }
            if *published != [None; PINS] {
                *published = [None; PINS];
                self.sink.route(&*published);
            }
        }
        Ok(())
    }
}

impl IrqChip for IoApic {
    /// Sets the level of an input; an input that does not exist is ignored.
    fn set(&self, gsi: u32, level: Level) {
        let Some(pin) = usize::try_from(gsi).ok().filter(|&pin| pin < PINS) else {
            return;
        };
        let message = {
            let mut state = self.state();
            let bit = 1 << pin;
            let was = state.asserted & bit != 0;
            match level {
                Level::Low => {
                    state.asserted &= !bit;
                    None
                }
                Level::High => {
                    state.asserted |= bit;
                    if state.held == Some(pin) {
                        state.held_edge |= !was;
                        None
                    } else {
                        state
                            .level_message(pin)
                            .or_else(|| state.edge_message(pin).filter(|_| !was))
                    }
                }
            }
        };
        if let Some(message) = message {
            self.deliver(pin, message);
        }
    }

    fn eoi(&self, vector: u8) {
        Self::eoi(self, vector);
    }
}

impl IoHandler for IoApic {
    fn read(&self, _: &mut IoCtx, offset: u64, _size: u8) -> u64 {
        let state = self.state();
        match offset {
            SELECT => state.select.into(),
            WINDOW => state.window().into(),
            _ => 0,
        }
    }

    /// The window takes only 32-bit writes: half an entry written in parts would be delivered in
    /// parts.
    fn write(&self, _: &mut IoCtx, offset: u64, size: u8, value: u64) {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match offset {
            SELECT => self.state().select = low.to_le_bytes()[0],
            WINDOW if size == 4 => self.write_window(low),
            EOI => self.eoi(low.to_le_bytes()[0]),
            _ => {}
        }
    }
}

impl State {
    fn window(&self) -> u32 {
        match self.select {
            0 | 2 => self.id,
            1 => VERSION,
            select => entry_of(select).map_or(0, |(pin, half)| {
                let entry = self.entries[pin];
                let bits = match half {
                    Half::Low => entry & 0xffff_ffff,
                    Half::High => entry >> 32,
                };
                u32::try_from(bits).unwrap_or(0)
            }),
        }
    }

    fn routes(&self) -> Routes {
        self.entries.map(route)
    }

    /// The message of an edge on an input that takes edges.
    fn edge_message(&self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        message(entry).filter(|_| entry & MASKED == 0 && !is_level(entry))
    }

    /// The message of a level input that is asserted and not in service; then it is.
    fn level_message(&mut self, pin: usize) -> Option<Message> {
        let entry = self.entries[pin];
        let due = self.asserted & 1 << pin != 0
            && is_level(entry)
            && entry & (MASKED | REMOTE_IRR) == 0
            && self.held != Some(pin);
        let message = message(entry).filter(|_| due)?;
        self.entries[pin] |= REMOTE_IRR;
        Some(message)
    }
}

/// Which 32 bits of an entry.
#[derive(Debug, Clone, Copy)]
enum Half {
    Low,
    High,
}

/// Input and half of the entry that an index names.
fn entry_of(select: u8) -> Option<(usize, Half)> {
    let at = usize::from(select.checked_sub(0x10)?);
    let half = if at % 2 == 0 { Half::Low } else { Half::High };
    (at < 2 * PINS).then_some((at / 2, half))
}

fn merge(entry: u64, half: Half, value: u32) -> u64 {
    let value = u64::from(value);
    let merged = match half {
        Half::Low => entry & !0xffff_ffff | value,
        Half::High => entry & 0xffff_ffff | value << 32,
    };
    let merged = merged & WRITABLE | entry & (DELIVERY_STATUS | REMOTE_IRR);
    // Going to edge is how a guest without an EOI register forgets an interrupt in service.
    if merged & LEVEL == 0 {
        merged & !REMOTE_IRR
    } else {
        merged
    }
}

/// SMI, NMI, INIT and ExtINT are edges whatever the trigger mode says.
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && matches!(entry >> MODE_SHIFT & 0b111, 0 | 1)
}

/// What the engine is told about an entry.
fn route(entry: u64) -> Option<Message> {
    message(entry).filter(|_| entry & MASKED == 0 || entry & REMOTE_IRR != 0)
}

/// An entry as a message; delivery modes 3 and 6 are reserved.
fn message(entry: u64) -> Option<Message> {
    let mode = entry >> MODE_SHIFT & 0b111;
    if matches!(mode, 3 | 6) {
        return None;
    }
    let logical = if entry & LOGICAL != 0 { 1 << 2 } else { 0 };
    let addr = 0xfee0_0000 | entry >> DEST_SHIFT << 12 | logical;
    let trigger = if is_level(entry) { 0b11 << 14 } else { 0 };
    let data = entry & 0xff | mode << 8 | trigger;
    Some((addr, u32::try_from(data).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
