// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where initrds go: one behind the other as high as Linux allows, or, as multiboot modules, each on
//! a page of its own right above the kernel.

use vm_cpu::{GuestRam, RamLayout};
use vm_memory::{Bytes, GuestAddress};

use crate::handover::Module;
use crate::image::Initrd;
use crate::load::Placed;
use crate::{BootError, map};

const PAGE: u64 = 4096;
/// Linux takes archives one behind the other, each beginning at a multiple of this
/// (`Documentation/driver-api/early-userspace/buffer-format.rst`).
const ARCHIVE_ALIGN: u64 = 4;

/// Guest addresses between which initrds may lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    bottom: u64,
    top: u64,
}

impl Room {
    /// Above this kernel and below the hole, with addresses up to `limit`.
    pub(crate) fn above(placed: &Placed, limit: u32, layout: RamLayout) -> Self {
        let top = u64::from(limit) + 1;
        // A kernel above the hole leaves all of low memory.
        let bottom = if placed.end > RamLayout::HOLE_END {
            map::FIRST_MIB
        } else {
            placed.end
        };
        Self {
            bottom: bottom.next_multiple_of(PAGE),
            top: top.min(layout.bytes).min(RamLayout::HOLE_START),
        }
    }

    fn too_small(self, initrds: &[Initrd], bytes: u64) -> BootError {
        let names: Vec<&str> = initrds.iter().map(|i| i.source.name()).collect();
        BootError::InitrdDoesNotFit {
            name: names.join(" + "),
            bytes,
            room: self.top.saturating_sub(self.bottom),
        }
    }
}

/// Puts the initrds one behind the other at the top of `room`, so that the kernel has room above
/// itself. Their address and bytes, if there are any.
pub(crate) fn place(
    initrds: &[Initrd],
    room: Room,
    ram: &GuestRam,
) -> Result<Option<(u64, u64)>, BootError> {
    let mut bytes = 0_u64;
    for initrd in initrds {
        bytes = bytes.next_multiple_of(ARCHIVE_ALIGN) + initrd.bytes();
    }
    if bytes == 0 {
        return Ok(None);
    }
    let address = room.top.checked_sub(bytes).map(|at| at & !(PAGE - 1));
    let Some(address) = address.filter(|address| *address >= room.bottom) else {
        return Err(room.too_small(initrds, bytes));
    };
    let mut at = address;
    for initrd in initrds {
        let start = at.next_multiple_of(ARCHIVE_ALIGN);
        let padding = vec![0; crate::le::index(start - at)];
        ram.write_slice(&padding, GuestAddress(at))
            .map_err(|source| BootError::Ram {
                address: at,
                source,
            })?;
        initrd.source.copy(0, initrd.bytes(), ram, start)?;
        at = start + initrd.bytes();
    }
    Ok(Some((address, bytes)))
}

/// Puts the initrds as modules at the bottom of `room`, where a kernel that maps only itself and what
/// follows finds them.
pub(crate) fn place_modules<'a>(
    initrds: &'a [Initrd],
    room: Room,
    ram: &GuestRam,
) -> Result<Vec<Module<'a>>, BootError> {
    let mut at = room.bottom;
    let mut modules = Vec::with_capacity(initrds.len());
    for initrd in initrds {
        let address = at.next_multiple_of(PAGE);
        at = address + initrd.bytes();
        if at > room.top {
            let bytes = initrds.iter().map(Initrd::bytes).sum();
            return Err(room.too_small(initrds, bytes));
        }
        initrd.source.copy(0, initrd.bytes(), ram, address)?;
        modules.push(Module {
            address,
            bytes: initrd.bytes(),
            string: initrd.source.name(),
        });
    }
    Ok(modules)
}
