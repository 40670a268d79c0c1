// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Run a closure on a given emulation thread and carry its reply back.
//!
//! | type | is |
//! |---|---|
//! | [`Queues`] | the request queues of one VM: call, post, process |
//! | [`Ticket`] | the result of a post, waited for when convenient |
//! | [`Dest`], [`EachOrder`], [`Which`] | to whom, in which order, what is served |
//! | [`CallError`] | why a request has no result |
//! | [`Stats`] | counters |
//!
//! A call borrows freely and allocates nothing: its request is a node on the caller's stack, pushed
//! onto a lock-free stack of the target, whose bell is then rung (`vm-emt`). The EMT runs requests
//! from its own loop, in order.
//!
//! ```
//! use vm_emt::{Bell, Bells, Emt, Flow};
//! use vm_req::{Queues, Which};
//!
//! struct MyEmt {
//!     bell: Bell,
//!     exits: u64,
//!     next: Flow,
//! }
//! impl Emt for MyEmt {
//!     fn bell(&self) -> &Bell {
//!         &self.bell
//!     }
//!     fn serve(&mut self) -> Flow {
//!         Flow::Continue // nothing in this VM waits on an EMT
//!     }
//!     fn take_flow(&mut self) -> Flow {
//!         std::mem::take(&mut self.next)
//!     }
//! }
//!
//! let bells = Bells::new(1);
//! let queues = Queues::<MyEmt>::new(bells.clone());
//! let emt = std::thread::spawn({
//!     let (bells, queues) = (bells.clone(), queues.clone());
//!     move || {
//!         let bell = bells.enroll(0).expect("vCPU 0 is free");
//!         let mut me = MyEmt { bell, exits: 41, next: Flow::Continue };
//!         loop {
//!             me.bell.clear();
//!             if queues.process(&mut me, Which::All) == Flow::Stop {
//!                 break;
//!             }
//!             me.bell.park(None); // a real loop enters the guest here
//!         }
//!     }
//! });
//! assert!(bells.wait_live(0, None));
//!
//! let steps = vec![1]; // a call borrows
//! let exits = queues.call(0, None, |me| {
//!     me.exits += steps[0];
//!     me.next = Flow::Stop;
//!     me.exits
//! });
//! assert_eq!(exits, Ok(42));
//! emt.join().expect("the EMT ended");
//! ```

mod error;
mod list;
mod node;
mod queues;
mod shared;
mod sync;
mod ticket;

pub use error::CallError;
pub use queues::{Dest, EachOrder, Queues, Which};
pub use shared::Stats;
pub use ticket::Ticket;
