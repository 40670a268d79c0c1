// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ways into a kernel.

use crate::BootError;

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By its PVH note: 32-bit protected mode, `hvm_start_info`.
    Pvh,
    /// By Linux' 64-bit protocol: long mode, zero page.
    Linux64,
    /// By Linux' 32-bit protocol: protected mode without paging, zero page. Only a bzImage has this
    /// entry, which is its decompressor's, so that it is entered as is.
    Linux32,
    /// By its multiboot header (version 1): protected mode without paging, EBX at the information
    /// structure; each initrd is a module.
    Multiboot,
    /// As a flat binary, at its first byte: as [`Protocol::Pvh`], EBX at `hvm_start_info`.
    Flat,
}

impl Protocol {
    /// As [`Image::describe`](crate::Image::describe) calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Linux64 => "64-bit",
            Self::Linux32 => "32-bit",
            Self::Multiboot => "multiboot",
            Self::Flat => "flat",
        }
    }
}

/// The wanted one of these ways into a kernel, or the first.
pub(crate) fn choose(
    name: &str,
    ways: &[(Protocol, u64)],
    wanted: Option<Protocol>,
) -> Result<(Protocol, u64), BootError> {
    let way = match wanted {
        None => ways.first(),
        Some(wanted) => ways.iter().find(|(protocol, _)| *protocol == wanted),
    };
    if let Some(way) = way {
        return Ok(*way);
    }
    let name = name.to_owned();
    let (what, instead) = match wanted {
        None => return Err(BootError::No32BitEntry { name }),
        Some(Protocol::Pvh) => ("a kernel without a PVH note", "build it with CONFIG_PVH=y"),
        Some(Protocol::Linux64) => (
            "a kernel without a 64-bit entry",
            "enter it by another of its entries",
        ),
        Some(Protocol::Linux32) => (
            "a kernel without Linux' 32-bit entry",
            "give the bzImage, which alone has it",
        ),
        Some(Protocol::Multiboot) => (
            "a kernel without a multiboot header",
            "give one with a header of version 1 in its first 8 KiB",
        ),
        Some(Protocol::Flat) => (
            "a kernel with an entry of its own",
            "enter it by that, or open it in the flat form",
        ),
    };
    Err(BootError::Unsupported {
        name,
        what: what.to_owned(),
        instead,
    })
}
