// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is left of the keyboard controller: the way Linux resets a PC through it.
//!
//! There is no keyboard. The status says "output buffer full" for ever, so a driver that empties the
//! buffer before it probes (Linux: `i8042_flush`, 16 bytes) gives up at once instead of waiting
//! half a second for answers; and "input buffer empty", so that a reset is not waited for either
//! (Linux: `kb_wait`).

use std::sync::Arc;

use vm_pdm::{BusBuilder, BusError, Device, Effect, IoCtx, IoHandler, ResetKind};

/// Output buffer full, input buffer empty, self test passed, not locked.
const STATUS: u64 = 0b0001_0101;
/// Commands 0xf0 to 0xff pulse the output lines whose bit is 0; line 0 is the processor's reset.
const PULSE: u8 = 0xf0;
const RESET_LINE: u8 = 1;

/// The keyboard controller's reset command. No state.
#[derive(Debug, Default)]
pub struct I8042;

/// The data port: nothing to read, nothing done with what is written.
struct Data;

impl I8042 {
    /// Port of the data register.
    pub const DATA: u16 = 0x60;
    /// Port of the command and status register.
    pub const COMMAND: u16 = 0x64;

    /// The controller.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }

    /// Puts both ports on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let handler = Arc::clone(self);
        bus.pio(self.name(), Self::DATA..=Self::DATA, Arc::new(Data))?
            .pio(self.name(), Self::COMMAND..=Self::COMMAND, handler)?;
        Ok(())
    }
}

impl Device for I8042 {
    fn name(&self) -> &str {
        "i8042"
    }
}

/// The command and status register.
impl IoHandler for I8042 {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        STATUS
    }

    fn write(&self, cx: &mut IoCtx, _offset: u64, _size: u8, value: u64) {
        let command = value.to_le_bytes()[0];
        if command & PULSE == PULSE && command & RESET_LINE == 0 {
            cx.raise(Effect::Reset(ResetKind::Hard));
        }
    }
}

impl IoHandler for Data {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, _: &mut IoCtx, _offset: u64, _size: u8, _value: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pulse_command_with_the_reset_line_resets_and_others_do_not() {
        let mut cx = IoCtx::new();
        I8042.write(&mut cx, 0, 1, 0xfe);
        assert_eq!(cx.take(), [Effect::Reset(ResetKind::Hard)]);
        for command in [0xff, 0x20, 0x60, 0xaa, 0xd1, 0x0e] {
            I8042.write(&mut cx, 0, 1, command);
        }
        assert!(cx.is_empty());
    }

    #[test]
    fn a_probe_never_empties_the_buffer_and_a_reset_never_waits() {
        let mut bus = BusBuilder::new();
        I8042::new().attach(&mut bus).unwrap();
        let bus = bus.build();
        let mut cx = IoCtx::new();
        for _ in 0..17 {
            let status = bus.pio_read(&mut cx, I8042::COMMAND, 1);
            assert_eq!(status & 0b11, 0b01, "output full, input empty");
            bus.pio_read(&mut cx, I8042::DATA, 1);
        }
        assert_eq!(
            bus.pio_read(&mut cx, 0x61, 1),
            0xff,
            "the ports between are others'"
        );
    }
}
