// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ACPI sleep control, sleep status and reset registers of a hardware-reduced platform.
//!
//! Source: ACPI 6.5, sections 4.8.3.7 (sleep control and status) and 4.8.3.6 (reset register).

use std::sync::Arc;

use vm_pdm::{BusBuilder, BusError, Device, Effect, IoCtx, IoHandler, ResetKind};

use crate::bytes::{self, ByteRegisters};

/// `SLP_EN`: a write with this bit begins the sleep state of `SLP_TYP`.
const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u32 = 2;
const SLP_TYP_MASK: u8 = 0b111;

/// The registers with which a guest powers its machine off or resets it. No state.
#[derive(Debug, Default)]
pub struct AcpiPm;

impl AcpiPm {
    /// Port of the sleep control register.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// Port of the sleep status register.
    pub const SLEEP_STATUS: u16 = 0x601;
    /// Port of the reset register.
    pub const RESET: u16 = 0x602;
    /// What the guest writes to [`AcpiPm::RESET`].
    pub const RESET_VALUE: u8 = 1;
    /// `SLP_TYP` of soft off, as the DSDT's `_S5` must name it.
    pub const S5: u8 = 5;

    /// The registers.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }

    /// Puts the registers on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let handler = Arc::clone(self);
        bus.pio(self.name(), Self::SLEEP_CONTROL..=Self::RESET, handler)?;
        Ok(())
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &str {
        "acpi-pm"
    }
}

impl IoHandler for AcpiPm {
    fn read(&self, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
        bytes::read(self, cx, offset, size)
    }

    fn write(&self, cx: &mut IoCtx, offset: u64, size: u8, value: u64) {
        bytes::write(self, cx, offset, size, value);
    }
}

impl ByteRegisters for AcpiPm {
    fn read_byte(&self, _: &mut IoCtx, offset: u64) -> u8 {
        // SLP_EN reads as zero, and WAK_STS is never set: no sleep state returns.
        if offset <= 2 { 0 } else { 0xff }
    }

    fn write_byte(&self, cx: &mut IoCtx, offset: u64, value: u8) {
        match offset {
            0 if value & SLP_EN != 0 && value >> SLP_TYP_SHIFT & SLP_TYP_MASK == Self::S5 => {
                cx.raise(Effect::PowerOff);
            }
            2 if value == Self::RESET_VALUE => cx.raise(Effect::Reset(ResetKind::Hard)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects_of(offset: u64, size: u8, value: u64) -> Vec<Effect> {
        let mut cx = IoCtx::new();
        AcpiPm.write(&mut cx, offset, size, value);
        cx.take()
    }

    #[test]
    fn soft_off_is_asked_for_by_its_type_with_the_enable_bit_only() {
        assert_eq!(effects_of(0, 1, 0x34), [Effect::PowerOff]);
        assert_eq!(effects_of(0, 1, 0x14), [], "no SLP_EN");
        assert_eq!(effects_of(0, 1, 0x2c), [], "SLP_TYP 3");
        assert_eq!(effects_of(1, 1, 0x34), [], "the status register");
    }

    #[test]
    fn only_the_reset_value_resets() {
        assert_eq!(effects_of(2, 1, 1), [Effect::Reset(ResetKind::Hard)]);
        assert_eq!(effects_of(2, 1, 0), []);
        assert_eq!(effects_of(2, 1, 6), []);
    }

    #[test]
    fn registers_read_as_awake_and_idle() {
        assert_eq!(AcpiPm.read(&mut IoCtx::new(), 0, 4), 0xff00_0000);
    }
}
