// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Models of protocols, small enough that every state they can reach is looked at.

pub(crate) mod cell;
pub(crate) mod explore;
pub(crate) mod hotplug;
pub(crate) mod kick;
pub(crate) mod replay;
pub(crate) mod saver;
pub(crate) mod vm;
pub(crate) mod work;
