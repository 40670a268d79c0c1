// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `hvm_start_info`, which tells a PVH guest what it got (Xen
//! `include/public/arch-x86/hvm/start_info.h`, version 1).

use crate::handover::Handover;
use crate::map::{ACPI, COMMAND_LINE, START_INFO};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;

/// The start info, the module list and the memory map, to be written at [`START_INFO`].
pub(crate) fn start_info(handover: &Handover<'_>) -> Vec<u8> {
    let modules = START_INFO + HEADER_BYTES;
    let map = modules + MODULE_BYTES;
    let entries = u32::try_from(handover.map.len()).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
    let long = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_le_bytes());

    word(&mut out, MAGIC);
    word(&mut out, VERSION);
    word(&mut out, 0);
    word(&mut out, u32::from(handover.initrd.is_some()));
    long(
        &mut out,
        if handover.initrd.is_some() {
            modules
        } else {
            0
        },
    );
    long(&mut out, COMMAND_LINE);
    long(&mut out, ACPI);
    long(&mut out, map);
    word(&mut out, entries);
    word(&mut out, 0);

    let (address, bytes) = handover.initrd.unwrap_or_default();
    for value in [address, bytes, 0, 0] {
        long(&mut out, value);
    }
    for range in handover.map {
        long(&mut out, range.address);
        long(&mut out, range.bytes);
        word(&mut out, range.kind.number());
        word(&mut out, 0);
    }
    out
}
