// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtio devices as a guest's driver sees them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod console;
mod dirty;
mod disk;
mod driver;
mod ends;
mod hostile;
mod show;
mod transport;
