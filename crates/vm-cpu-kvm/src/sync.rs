// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the kick's atomics come from. `tests/loom.rs` compiles `protocol.rs` with a module of this
//! name that gives loom's models of them.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
