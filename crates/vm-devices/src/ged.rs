// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an ACPI generic event device (ACPI 6.5, 5.6.9) needs behind its AML: which events there are,
//! and which processors the guest has, is to take, or is to give up.
//!
//! # Registers, little-endian
//! | offset | bytes | read | write |
//! |---|---|---|---|
//! | 0 | 4 | the events since the last read, which this read takes: bit 0 power button, bit 1 processors | nothing |
//! | 4 | 4 | the selected processor | selects a processor |
//! | 8 | 1 | of the selected processor: bit 0 it is there, bit 1 it is new, bit 2 it is to be given up | bit 1, 2: seen; bit 3: the guest gives it up |
//!
//! A guest that gives a processor up has [`Effect::Unplug`] raised, and the processor is gone when
//! that access returns. Processor 0 never goes.
//!
//! Every register is one atomic word; the one lock is for whoever waits for the guest. Which processor is selected is the
//! guest's to serialise, as its AML does with a mutex.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use vm_pdm::{
    BusBuilder, BusError, Device, DeviceError, Effect, IoCtx, IoHandler, IrqLine, ResetKind,
};

use crate::bytes::{self, ByteRegisters};

const POWER_BUTTON: u32 = 1 << 0;
const PROCESSORS: u32 = 1 << 1;

const PRESENT: u8 = 1 << 0;
const NEW: u8 = 1 << 1;
const WANTED: u8 = 1 << 2;
const GIVEN_UP: u8 = 1 << 3;

/// Why a processor cannot be plugged or asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlugError {
    /// The machine has no such processor.
    #[error("there is no vCPU {vcpu}: the machine has {count}, numbered from 0")]
    NoSuch {
        /// Which was asked for.
        vcpu: u32,
        /// How many there are.
        count: u32,
    },
    /// The first processor stays.
    #[error("vCPU 0 cannot be unplugged: the guest runs on it from the start")]
    First,
    /// It is plugged already.
    #[error("vCPU {0} is plugged already")]
    Plugged(u32),
    /// It is not plugged.
    #[error("vCPU {0} is not plugged")]
    Unplugged(u32),
}

/// Events for the guest: its power button, processors that come and go.
#[derive(Debug)]
pub struct Ged {
    irq: IrqLine,
    count: u32,
    events: AtomicU32,
    selected: AtomicU32,
    /// A bit for each processor: the guest has it or may take it.
    present: AtomicU64,
    /// It came, and the guest has not looked yet.
    new: AtomicU64,
    /// The guest is asked to give it up, and has not looked yet.
    wanted: AtomicU64,
    /// For those who wait until one is gone.
    gone: Mutex<()>,
    left: Condvar,
}

impl Ged {
    /// First port of the registers.
    pub const PORT: u16 = 0x610;
    /// Ports of the registers.
    pub const PORTS: u16 = 9;
    /// Most processors.
    pub const MAX: u32 = 64;

    /// For `count` processors (at most [`Ged::MAX`] count), of which the first `plugged` are there.
    /// Events pulse `irq`.
    pub fn new(irq: IrqLine, count: u32, plugged: u32) -> Arc<Self> {
        let count = count.min(Self::MAX);
        let plugged = plugged.clamp(1, count.max(1));
        Arc::new(Self {
            irq,
            count,
            events: AtomicU32::new(0),
            selected: AtomicU32::new(0),
            present: AtomicU64::new(u64::MAX >> (Self::MAX - plugged)),
            new: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            gone: Mutex::new(()),
            left: Condvar::new(),
        })
    }

    /// Puts the registers on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let ports = Self::PORT..=Self::PORT + (Self::PORTS - 1);
        bus.pio(self.name(), ports, Arc::clone(self) as _)?;
        Ok(())
    }

    /// Whether the guest has processor `vcpu`, or may take it. Any thread.
    pub fn is_plugged(&self, vcpu: u32) -> bool {
        self.present.load(Ordering::SeqCst) & bit(vcpu) != 0
    }

    /// The power button is pressed: an orderly guest shuts itself down. Any thread.
    pub fn press_power_button(&self) {
        self.announce(POWER_BUTTON);
    }

    /// Gives the guest processor `vcpu`, whose vCPU must be waiting for its start-up by now. Any
    /// thread.
    ///
    /// # Errors
    /// [`PlugError`]: there is no such processor, or the guest has it.
    pub fn plug(&self, vcpu: u32) -> Result<(), PlugError> {
        let bit = self.known(vcpu)?;
        if self.present.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return Err(PlugError::Plugged(vcpu));
        }
        self.wanted.fetch_and(!bit, Ordering::SeqCst);
        self.new.fetch_or(bit, Ordering::SeqCst);
        self.announce(PROCESSORS);
        Ok(())
    }

    /// Asks the guest to give processor `vcpu` up; [`Effect::Unplug`] follows if it does. May be asked
    /// again. Any thread.
    ///
    /// # Errors
    /// [`PlugError`]: there is no such processor, the guest does not have it, or it is the first.
    pub fn ask_for(&self, vcpu: u32) -> Result<(), PlugError> {
        let bit = self.known(vcpu)?;
        if vcpu == 0 {
            return Err(PlugError::First);
        }
        if self.present.load(Ordering::SeqCst) & bit == 0 {
            return Err(PlugError::Unplugged(vcpu));
        }
        self.wanted.fetch_or(bit, Ordering::SeqCst);
        self.announce(PROCESSORS);
        Ok(())
    }

    /// Takes processor `vcpu` from the guest without asking, as when its machine was reset while it
    /// was asked. Any thread.
    ///
    /// # Errors
    /// As [`Ged::ask_for`].
    pub fn take(&self, vcpu: u32) -> Result<(), PlugError> {
        let bit = self.known(vcpu)?;
        if vcpu == 0 {
            return Err(PlugError::First);
        }
        self.gone(bit)
            .then_some(())
            .ok_or(PlugError::Unplugged(vcpu))
    }

    /// Waits until processor `vcpu` is gone or `deadline` passes; may return early.
    pub fn wait_for_change(&self, vcpu: u32, deadline: Instant) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        if self.is_plugged(vcpu) {
            drop(self.left.wait_timeout(gone, left));
        }
    }

    /// Whether it was there until now.
    fn gone(&self, bit: u64) -> bool {
        let was = self.present.fetch_and(!bit, Ordering::SeqCst);
        self.new.fetch_and(!bit, Ordering::SeqCst);
        self.wanted.fetch_and(!bit, Ordering::SeqCst);
        // Whoever waits has looked before this, or sees it.
        drop(self.gone.lock());
        self.left.notify_all();
        was & bit != 0
    }

    fn known(&self, vcpu: u32) -> Result<u64, PlugError> {
        let count = self.count;
        if vcpu < count {
            Ok(bit(vcpu))
        } else {
            Err(PlugError::NoSuch { vcpu, count })
        }
    }

    fn announce(&self, event: u32) {
        self.events.fetch_or(event, Ordering::SeqCst);
        self.irq.pulse();
    }

    fn selected_bit(&self) -> (u32, u64) {
        let vcpu = self.selected.load(Ordering::SeqCst);
        (vcpu, if vcpu < self.count { bit(vcpu) } else { 0 })
    }

    fn flags(&self) -> u8 {
        let (_, bit) = self.selected_bit();
        let flag = |word: &AtomicU64, flag: u8| {
            if word.load(Ordering::SeqCst) & bit == 0 {
                0
            } else {
                flag
            }
        };
        flag(&self.present, PRESENT) | flag(&self.new, NEW) | flag(&self.wanted, WANTED)
    }

    fn set_flags(&self, cx: &mut IoCtx, value: u8) {
        let (vcpu, bit) = self.selected_bit();
        if value & NEW != 0 {
            self.new.fetch_and(!bit, Ordering::SeqCst);
        }
        if value & WANTED != 0 {
            self.wanted.fetch_and(!bit, Ordering::SeqCst);
        }
        if value & GIVEN_UP != 0 && vcpu != 0 && self.gone(bit) {
            cx.raise(Effect::Unplug(vcpu));
        }
    }
}

fn bit(vcpu: u32) -> u64 {
    1_u64.checked_shl(vcpu).unwrap_or(0)
}

impl Device for Ged {
    fn name(&self) -> &str {
        "ged"
    }

    /// Which processors there are outlives a reset: the guest finds them as they are.
    fn reset(&self, _: ResetKind) -> Result<(), DeviceError> {
        self.events.store(0, Ordering::SeqCst);
        self.selected.store(0, Ordering::SeqCst);
        self.new.store(0, Ordering::SeqCst);
        self.wanted.store(0, Ordering::SeqCst);
        Ok(())
    }
}

impl IoHandler for Ged {
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
        // The events are one register, taken as a whole.
        if offset == 0 && size == 4 {
            return self.events.swap(0, Ordering::SeqCst).into();
        }
        bytes::read(self, cx, offset, size)
    }

    fn write(&self, cx: &mut IoCtx, offset: u64, size: u8, value: u64) {
        if offset == 4 && size == 4 {
            let [a, b, c, d, ..] = value.to_le_bytes();
            let vcpu = u32::from_le_bytes([a, b, c, d]);
            return self.selected.store(vcpu, Ordering::SeqCst);
        }
        bytes::write(self, cx, offset, size, value);
    }
}

/// Accesses of other sizes: the events are not taken by halves.
impl ByteRegisters for Ged {
    fn read_byte(&self, _: &mut IoCtx, offset: u64) -> u8 {
        let selected = self.selected.load(Ordering::SeqCst).to_le_bytes();
        match offset {
            0..=3 => 0,
            4..=7 => selected[usize::try_from(offset - 4).unwrap_or(0)],
            8 => self.flags(),
            _ => 0xff,
        }
    }

    fn write_byte(&self, cx: &mut IoCtx, offset: u64, value: u8) {
        if offset == 8 {
            self.set_flags(cx, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use vm_pdm::{Buses, IrqChip, Level};

    #[derive(Default)]
    struct Edges(AtomicUsize);

    impl IrqChip for Edges {
        fn set(&self, gsi: u32, level: Level) {
            assert_eq!(gsi, 21);
            if level == Level::High {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    struct Guest {
        ged: Arc<Ged>,
        bus: Buses,
        edges: Arc<Edges>,
        cx: IoCtx,
    }

    impl Guest {
        fn new(count: u32, plugged: u32) -> Self {
            let edges = Arc::new(Edges::default());
            let ged = Ged::new(IrqLine::new(edges.clone(), 21), count, plugged);
            let mut bus = BusBuilder::new();
            ged.attach(&mut bus).unwrap();
            Self {
                ged,
                bus: bus.build(),
                edges,
                cx: IoCtx::new(),
            }
        }

        fn events(&mut self) -> u32 {
            self.bus.pio_read(&mut self.cx, Ged::PORT, 4)
        }

        fn flags(&mut self, vcpu: u32) -> u32 {
            self.bus.pio_write(&mut self.cx, Ged::PORT + 4, 4, vcpu);
            self.bus.pio_read(&mut self.cx, Ged::PORT + 8, 1)
        }

        fn set_flags(&mut self, vcpu: u32, flags: u32) -> Vec<Effect> {
            self.bus.pio_write(&mut self.cx, Ged::PORT + 4, 4, vcpu);
            self.bus.pio_write(&mut self.cx, Ged::PORT + 8, 1, flags);
            self.cx.take()
        }
    }

    #[test]
    fn a_pressed_power_button_is_one_event_that_is_read_once() {
        let mut guest = Guest::new(1, 1);
        guest.ged.press_power_button();
        assert_eq!(guest.edges.0.load(Ordering::SeqCst), 1);
        assert_eq!((guest.events(), guest.events()), (1, 0));
    }

    #[test]
    fn a_plugged_processor_is_new_until_the_guest_saw_it() {
        let mut guest = Guest::new(4, 2);
        assert_eq!([0, 1, 2, 3].map(|v| guest.flags(v)), [1, 1, 0, 0]);
        guest.ged.plug(2).unwrap();
        assert_eq!((guest.events(), guest.flags(2)), (2, 3));
        assert_eq!(guest.set_flags(2, 2), []);
        assert_eq!(guest.flags(2), 1);
        assert_eq!(guest.ged.plug(2), Err(PlugError::Plugged(2)));
        assert_eq!(
            guest.ged.plug(4),
            Err(PlugError::NoSuch { vcpu: 4, count: 4 })
        );
    }

    #[test]
    fn a_processor_goes_when_the_guest_gives_it_up_and_not_before() {
        let mut guest = Guest::new(2, 2);
        guest.ged.ask_for(1).unwrap();
        assert_eq!((guest.events(), guest.flags(1)), (2, 5));
        assert_eq!(guest.set_flags(1, 4), []);
        assert!(guest.ged.is_plugged(1));
        assert_eq!(guest.set_flags(1, 8), [Effect::Unplug(1)]);
        assert!(!guest.ged.is_plugged(1));
        assert_eq!(guest.set_flags(1, 8), [], "it is gone already");
        assert_eq!(guest.ged.ask_for(1), Err(PlugError::Unplugged(1)));
    }

    #[test]
    fn sd_v10_a_processor_that_was_given_up_can_be_plugged_again() {
        let mut guest = Guest::new(2, 2);
        assert_eq!(guest.set_flags(1, 8), [Effect::Unplug(1)]);
        guest.ged.plug(1).unwrap();
        assert_eq!(guest.flags(1), 3);
    }

    #[test]
    fn the_first_processor_is_neither_asked_for_nor_given_up() {
        let mut guest = Guest::new(2, 2);
        assert_eq!(guest.ged.ask_for(0), Err(PlugError::First));
        assert_eq!(guest.ged.take(0), Err(PlugError::First));
        assert_eq!(guest.set_flags(0, 8), []);
        assert_eq!(guest.flags(0), 1);
    }

    #[test]
    fn processors_outlive_a_reset_and_what_was_asked_does_not() {
        let mut guest = Guest::new(3, 1);
        guest.ged.plug(2).unwrap();
        guest.ged.ask_for(2).unwrap();
        guest.ged.press_power_button();
        guest.ged.reset(ResetKind::Hard).unwrap();
        assert_eq!((guest.events(), guest.flags(2), guest.flags(1)), (0, 1, 0));
    }

    #[test]
    fn a_processor_that_there_is_not_reads_as_absent_and_swallows_writes() {
        let mut guest = Guest::new(64, 64);
        assert_eq!(guest.flags(63), 1);
        for vcpu in [64, 65, u32::MAX] {
            assert_eq!(
                (guest.flags(vcpu), guest.set_flags(vcpu, 0xff)),
                (0, vec![])
            );
        }
        assert_eq!(guest.flags(0), 1, "no bit wrapped around");
    }

    #[test]
    fn half_of_the_event_register_takes_no_event() {
        let mut guest = Guest::new(1, 1);
        guest.ged.press_power_button();
        assert_eq!(guest.bus.pio_read(&mut guest.cx, Ged::PORT, 2), 0);
        assert_eq!(guest.events(), 1);
    }
}
