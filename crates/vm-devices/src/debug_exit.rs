// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The debug-exit port: a guest ends the VM with a value.

use std::sync::Arc;

use vm_pdm::{BusBuilder, BusError, Device, Effect, IoCtx, IoHandler};

/// A port that ends the VM with the value written to it (QEMU's `isa-debug-exit`: 4 ports, any
/// offset and width). Reads are zero. No state.
#[derive(Debug)]
pub struct DebugExit {
    base: u16,
}

impl DebugExit {
    /// The port that test suites for QEMU use.
    pub const DEFAULT_PORT: u16 = 0xf4;

    /// At `base` and the three ports after it.
    pub fn new(base: u16) -> Arc<Self> {
        Arc::new(Self { base })
    }

    /// Puts the ports on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has one of the ports.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let last = self.base.saturating_add(3);
        let handler = Arc::clone(self);
        bus.pio(self.name(), self.base..=last, handler)?;
        Ok(())
    }
}

impl Device for DebugExit {
    fn name(&self) -> &str {
        "debug-exit"
    }
}

impl IoHandler for DebugExit {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, cx: &mut IoCtx, _offset: u64, size: u8, value: u64) {
        let low = match size {
            1 => value & 0xff,
            2 => value & 0xffff,
            _ => value & 0xffff_ffff,
        };
        cx.raise(Effect::DebugExit(u32::try_from(low).unwrap_or(u32::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_any_width_ends_the_vm_with_what_was_written() {
        let device = DebugExit::new(DebugExit::DEFAULT_PORT);
        let mut cx = IoCtx::new();
        device.write(&mut cx, 0, 1, 0x1234_5678);
        device.write(&mut cx, 2, 2, 0x1234_5678);
        device.write(&mut cx, 0, 4, 0x1_1234_5678);
        let expected = [0x78, 0x5678, 0x1234_5678].map(Effect::DebugExit);
        assert_eq!(cx.take(), expected);
        assert_eq!(device.read(&mut cx, 0, 4), 0);
        assert!(cx.is_empty(), "a read asks for nothing");
    }

    #[test]
    fn at_the_end_of_the_ports_it_has_what_is_left() {
        let mut bus = BusBuilder::new();
        DebugExit::new(0xfffe).attach(&mut bus).unwrap();
        let mut cx = IoCtx::new();
        bus.build().pio_write(&mut cx, 0xffff, 1, 7);
        assert_eq!(cx.take(), [Effect::DebugExit(7)]);
    }
}
