// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket: `vmm run --control SOCK` serves it, `vmm ctl SOCK` speaks it.
//!
//! `docs/control.md` is the protocol; a test replays its examples against a live VM. Invariant:
//! nothing a client does or fails to do reaches the VM except an operation that it asked for in a
//! whole request. [`socket`] owns the file, [`server`] the threads, [`session`] one client's
//! buffers, [`mailbox`] what the VM tells that client; [`protocol`] is the text, [`lines`] cuts it out of
//! what arrives, and [`ops`] are the calls behind it, of which [`observe`] only looks. A fuzz target
//! includes the text's two files as they are. [`client`] is the other end.

mod client;
mod lines;
mod mailbox;
mod observe;
mod ops;
mod protocol;
mod server;
mod session;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use client::ctl;
pub(crate) use server::Server;
pub(crate) use socket::{Bound, dial};
