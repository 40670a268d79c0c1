// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CMOS memory with the real-time clock (MC146818A) and the memory sizes that firmware looks up.
//!
//! Alarm, periodic and update interrupts are not raised; their bits can be written and read. The
//! clock is a difference to the host's: it never stands still, and setting it changes the difference.
//! Source of the registers: Motorola MC146818A data sheet; of the memory sizes: PC convention.

use std::fmt::{self, Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_pdm::info::Page;
use vm_pdm::stats::{Counter, Scope, StatError, Unit};
use vm_pdm::{BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, ResetKind};

use crate::bytes::{self, ByteRegisters};
use crate::calendar::Date;

const SECONDS: usize = 0x00;
const MINUTES: usize = 0x02;
const HOURS: usize = 0x04;
const WEEKDAY: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const CENTURY: usize = 0x32;
const TIME: [usize; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;

/// A: update in progress.
const UIP: u8 = 1 << 7;
/// A: 32768 Hz time base, 1024 Hz periodic rate.
const A_RESET: u8 = 0x26;
/// B: the guest sets the clock; updates wait.
const SET: u8 = 1 << 7;
/// B: interrupt enables and square wave, which a reset clears.
const B_ENABLES: u8 = 0x78;
/// B: binary instead of BCD.
const BINARY: u8 = 1 << 2;
/// B: 24 hours instead of 12.
const HOURS_24: u8 = 1 << 1;
/// D: memory and time are valid.
const VALID: u8 = 1 << 7;
/// Hours in 12-hour mode: afternoon.
const PM: u8 = 1 << 7;
/// An update takes 1984 us, and is announced 244 us before.
const UPDATE_NS: u32 = 1_984_000 + 244_000;

/// Time since 1970-01-01, UTC. Any thread; must not block.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Guest memory, in bytes, as CMOS tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CmosMemory {
    /// Below 4 GiB.
    pub below_4g_bytes: u64,
    /// Above 4 GiB.
    pub above_4g_bytes: u64,
}

/// CMOS memory and real-time clock, at ports 0x70 (index) and 0x71 (data).
pub struct Cmos {
    clock: Clock,
    state: Mutex<State>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    reads: Counter,
    writes: Counter,
}

struct State {
    index: usize,
    ram: [u8; 128],
    /// The guest's clock less the host's.
    ahead_secs: i64,
}

impl Debug for Cmos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Cmos")
            .field("index", &state.index)
            .field("ahead_secs", &state.ahead_secs)
            .finish_non_exhaustive()
    }
}

impl Cmos {
    /// Port of the index register; the data register is the next.
    pub const PORT: u16 = 0x70;

    /// Memory as given, the clock at `clock`'s time.
    pub fn new(memory: CmosMemory, clock: Clock) -> Arc<Self> {
        let mut ram = [0; 128];
        ram[REGISTER_A] = A_RESET;
        ram[REGISTER_B] = HOURS_24;
        ram[REGISTER_D] = VALID;
        memory.fill(&mut ram);
        let state = State {
            index: 0,
            ram,
            ahead_secs: 0,
        };
        Arc::new(Self {
            clock,
            state: Mutex::new(state),
            counts: Arc::default(),
        })
    }

    /// Puts both ports on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let handler = Arc::clone(self);
        bus.pio(self.name(), Self::PORT..=Self::PORT + 1, handler)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Cmos {
    fn name(&self) -> &str {
        "cmos"
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        let counts = &self.counts;
        scope
            .part("reads", Unit::Occurrences, "of a register", counts, |c| {
                &c.reads
            })?
            .part("writes", Unit::Occurrences, "of a register", counts, |c| {
                &c.writes
            })?;
        Ok(())
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        let (ahead_secs, b, index) = {
            let state = self.lock();
            (state.ahead_secs, state.ram[REGISTER_B], state.index)
        };
        writeln!(
            page,
            "the guest's clock is {ahead_secs} s ahead of the host's"
        )?;
        writeln!(page, "index {index:#04x}, register B {b:#04x}")
    }

    /// A hard reset turns interrupts off; memory and time are kept by the battery.
    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            let mut state = self.lock();
            state.ram[REGISTER_B] &= !B_ENABLES;
            state.ram[REGISTER_C] = 0;
        }
        Ok(())
    }
}

impl IoHandler for Cmos {
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
        bytes::read(self, cx, offset, size)
    }

    fn write(&self, cx: &mut IoCtx, offset: u64, size: u8, value: u64) {
        bytes::write(self, cx, offset, size, value);
    }
}

impl ByteRegisters for Cmos {
    fn read_byte(&self, _: &mut IoCtx, offset: u64) -> u8 {
        if offset == 1 {
            self.counts.reads.inc();
            let now = (self.clock)();
            self.lock().read(now)
        } else {
            // The index register cannot be read.
            0xff
        }
    }

    fn write_byte(&self, _: &mut IoCtx, offset: u64, value: u8) {
        let now = (self.clock)();
        let mut state = self.lock();
        match offset {
            // Bit 7 masks NMIs, of which there are none.
            0 => state.index = usize::from(value & 0x7f),
            1 => {
                self.counts.writes.inc();
                state.write(now, value);
            }
            _ => {}
        }
    }
}

impl State {
    fn read(&mut self, now: Duration) -> u8 {
        match self.index {
            REGISTER_A => {
                let updating = now.subsec_nanos() >= 1_000_000_000 - UPDATE_NS;
                let uip = if updating && !self.setting() { UIP } else { 0 };
                self.ram[REGISTER_A] & !UIP | uip
            }
            index => {
                if TIME.contains(&index) && !self.setting() {
                    self.show(now);
                }
                self.ram[index]
            }
        }
    }

    fn write(&mut self, now: Duration, value: u8) {
        match self.index {
            REGISTER_B => {
                let was = self.setting();
                let set = value & SET != 0;
                if set && !was {
                    self.show(now);
                }
                self.ram[REGISTER_B] = value;
                if was && !set {
                    self.adopt(now);
                }
            }
            REGISTER_C | REGISTER_D => {}
            index if TIME.contains(&index) && !self.setting() => {
                self.show(now);
                self.ram[index] = value;
                self.adopt(now);
            }
            index => self.ram[index] = value,
        }
    }

    fn setting(&self) -> bool {
        self.ram[REGISTER_B] & SET != 0
    }

    /// Puts the guest's time into the registers.
    fn show(&mut self, now: Duration) {
        let date = Date::from_secs(whole_secs(now).saturating_add(self.ahead_secs));
        let b = self.ram[REGISTER_B];
        self.ram[SECONDS] = encode(b, date.second);
        self.ram[MINUTES] = encode(b, date.minute);
        self.ram[HOURS] = if b & HOURS_24 != 0 {
            encode(b, date.hour)
        } else {
            let pm = if date.hour >= 12 { PM } else { 0 };
            encode(b, (date.hour + 11) % 12 + 1) | pm
        };
        self.ram[WEEKDAY] = encode(b, date.weekday());
        self.ram[DAY] = encode(b, date.day);
        self.ram[MONTH] = encode(b, date.month);
        self.ram[YEAR] = encode(b, date.year % 100);
        self.ram[CENTURY] = encode(b, date.year / 100);
    }

    /// Takes the guest's time from the registers; what is no date changes nothing.
    fn adopt(&mut self, now: Duration) {
        let b = self.ram[REGISTER_B];
        let get = |index: usize| decode(b, self.ram[index]);
        let hour = if b & HOURS_24 != 0 {
            get(HOURS)
        } else {
            let raw = self.ram[HOURS];
            decode(b, raw & !PM) % 12 + if raw & PM != 0 { 12 } else { 0 }
        };
        let date = Date {
            year: get(CENTURY) * 100 + get(YEAR),
            month: get(MONTH),
            day: get(DAY),
            hour,
            minute: get(MINUTES),
            second: get(SECONDS),
        };
        if let Some(secs) = date.to_secs() {
            self.ahead_secs = secs.saturating_sub(whole_secs(now));
        }
    }
}

impl CmosMemory {
    fn fill(self, ram: &mut [u8; 128]) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let base_kib = (self.below_4g_bytes / KIB).min(640);
        let above_1m_kib = (self.below_4g_bytes.saturating_sub(MIB) / KIB).min(0xffff);
        let above_16m = (self.below_4g_bytes.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff);
        let above_4g = (self.above_4g_bytes / (64 * KIB)).min(0xff_ffff);
        ram[0x15..0x17].copy_from_slice(&base_kib.to_le_bytes()[..2]);
        ram[0x17..0x19].copy_from_slice(&above_1m_kib.to_le_bytes()[..2]);
        ram[0x30..0x32].copy_from_slice(&above_1m_kib.to_le_bytes()[..2]);
        ram[0x34..0x36].copy_from_slice(&above_16m.to_le_bytes()[..2]);
        ram[0x5b..0x5e].copy_from_slice(&above_4g.to_le_bytes()[..3]);
        // The PC's checksum of 0x10 to 0x2d, high byte first.
        let sum: u16 = ram[0x10..0x2e].iter().map(|&byte| u16::from(byte)).sum();
        ram[0x2e..0x30].copy_from_slice(&sum.to_be_bytes());
    }
}

fn whole_secs(now: Duration) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// `value`, 0 to 99, as register B wants it.
fn encode(b: u8, value: i64) -> u8 {
    let coded = if b & BINARY != 0 {
        value
    } else {
        ((value / 10) << 4) | (value % 10)
    };
    u8::try_from(coded).unwrap_or(0xff)
}

/// What `encode` made; of BCD digits beyond 9, some number beyond what a date allows or not.
fn decode(b: u8, coded: u8) -> i64 {
    let value = if b & BINARY != 0 {
        coded
    } else {
        (coded >> 4) * 10 + (coded & 0xf)
    };
    value.into()
}

#[cfg(test)]
mod tests;
