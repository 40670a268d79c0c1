// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The POST port: where firmware tells how far it got.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_pdm::info::Page;
use vm_pdm::stats::{Counter, Scope, StatError, Unit};
use vm_pdm::{BusBuilder, BusError, Device, DeviceError, IoCtx, IoHandler, ResetKind};

/// Port 0x80: remembers the last code. Linux also writes to it to pass a microsecond.
#[derive(Debug, Default)]
pub struct PostPort {
    code: AtomicU8,
    writes: Arc<Counter>,
}

impl PostPort {
    /// Its port.
    pub const PORT: u16 = 0x80;

    /// Code 0.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Puts the port on the port bus.
    ///
    /// # Errors
    /// [`BusError`] if another device has the port.
    pub fn attach(self: &Arc<Self>, bus: &mut BusBuilder) -> Result<(), BusError> {
        let handler = Arc::clone(self);
        bus.pio(self.name(), Self::PORT..=Self::PORT, handler)?;
        Ok(())
    }

    /// The last code the guest wrote; 0 before the first and after a reset.
    pub fn code(&self) -> u8 {
        self.code.load(Ordering::SeqCst)
    }
}

impl Device for PostPort {
    fn name(&self) -> &str {
        "post"
    }

    fn stats(&self, scope: &mut Scope) -> Result<(), StatError> {
        scope.part("writes", Unit::Occurrences, "codes", &self.writes, |w| w)?;
        Ok(())
    }

    fn info(&self, page: &mut Page) -> fmt::Result {
        writeln!(page, "the last code is {:#04x}", self.code())
    }

    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        if kind == ResetKind::Hard {
            self.code.store(0, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl IoHandler for PostPort {
    fn read(&self, _: &mut IoCtx, _offset: u64, _size: u8) -> u64 {
        self.code().into()
    }

    fn write(&self, _: &mut IoCtx, _offset: u64, _size: u8, value: u64) {
        self.writes.inc();
        self.code.store(value.to_le_bytes()[0], Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_code_is_remembered_until_a_hard_reset() {
        let port = PostPort::new();
        let mut cx = IoCtx::new();
        port.write(&mut cx, 0, 1, 0x12);
        port.write(&mut cx, 0, 1, 0xab);
        assert_eq!((port.code(), port.read(&mut cx, 0, 1)), (0xab, 0xab));
        port.reset(ResetKind::Soft).unwrap();
        assert_eq!(port.code(), 0xab);
        port.reset(ResetKind::Hard).unwrap();
        assert_eq!(port.code(), 0);
    }
}
