// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices whose registers are one byte wide, on a bus whose accesses may be wider.
//!
//! A wider access is made of bytes at ascending offsets, as an ISA bridge does it.

use vm_pdm::IoCtx;

/// A device with byte registers. Offsets beyond its last register read as all ones.
pub(crate) trait ByteRegisters {
    fn read_byte(&self, cx: &mut IoCtx, offset: u64) -> u8;
    fn write_byte(&self, cx: &mut IoCtx, offset: u64, value: u8);
}

/// Reads `size` bytes from `offset` on; never more than 8.
pub(crate) fn read(device: &impl ByteRegisters, cx: &mut IoCtx, offset: u64, size: u8) -> u64 {
    let mut bytes = [0; 8];
    for (i, byte) in (0_u64..).zip(&mut bytes).take(size.into()) {
        *byte = device.read_byte(cx, offset.wrapping_add(i));
    }
    u64::from_le_bytes(bytes)
}

/// Writes the low `size` bytes of `value` from `offset` on; never more than 8.
pub(crate) fn write(
    device: &impl ByteRegisters,
    cx: &mut IoCtx,
    offset: u64,
    size: u8,
    value: u64,
) {
    for (i, byte) in (0_u64..).zip(value.to_le_bytes()).take(size.into()) {
        device.write_byte(cx, offset.wrapping_add(i), byte);
    }
}
