// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a kernel gets from whoever starts it, in no protocol's form yet.

use crate::map::MapRange;

/// What is handed over to the kernel, whichever way it is entered.
pub(crate) struct Handover<'a> {
    pub(crate) map: &'a [MapRange],
    pub(crate) command_line: &'a str,
    /// Guest address and bytes.
    pub(crate) initrd: Option<(u64, u64)>,
    /// The same initrds, for a multiboot kernel.
    pub(crate) modules: Vec<Module<'a>>,
}

/// A module that is in guest memory.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// The string that goes with it.
    pub(crate) string: &'a str,
}
