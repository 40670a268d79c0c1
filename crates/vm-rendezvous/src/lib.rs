// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bring all emulation threads of a virtual machine together and run one callback in a stated order.
//!
//! | type | is |
//! |---|---|
//! | [`Rendezvous`] | the rendezvous of one VM: meet, attend |
//! | [`How`], [`Ordered`] | ascending, descending, one by one, together, once; stop on error; limit |
//! | [`Met`] | what came of it |
//! | [`MeetError`] | why it did not |
//! | [`kit`] | pause, kick and rendezvous tests for any vCPU loop |
//!
//! The initiator publishes a round and rings every bell (`vm-emt`), except those of EMTs that sleep
//! and whose own callback will not run: these are held in their sleep. Each EMT comes from its loop and
//! is held. When all are there, callbacks run in the stated order, each on its own EMT; then all
//! leave with the same answer. Callbacks may borrow from the initiator, which waits to the end. An
//! EMT that does not come in time is named, and the others go on.
//!
//! ```
//! use std::convert::Infallible;
//! use vm_emt::{Bell, Bells, Emt, Flow};
//! use vm_rendezvous::{How, Rendezvous};
//!
//! struct MyEmt(Bell);
//! impl Emt for MyEmt {
//!     fn bell(&self) -> &Bell {
//!         &self.0
//!     }
//!     fn serve(&mut self) -> Flow {
//!         Flow::Continue // nothing in this VM waits on an EMT
//!     }
//! }
//!
//! let bells = Bells::new(2);
//! let rendezvous = Rendezvous::<MyEmt>::new(bells.clone());
//! let order = std::sync::Mutex::new(Vec::new());
//! std::thread::scope(|scope| {
//!     for v in 0..2 {
//!         let (bells, rendezvous) = (&bells, &rendezvous);
//!         scope.spawn(move || {
//!             let mut me = MyEmt(bells.enroll(v).expect("the vCPU is free"));
//!             loop {
//!                 me.0.clear();
//!                 if rendezvous.attend(&mut me) == Flow::Stop {
//!                     break;
//!                 }
//!                 me.0.park(None); // a real loop enters the guest here
//!             }
//!         });
//!         assert!(bells.wait_live(v, None));
//!     }
//!     let met = rendezvous.meet(How::descending(), |me| {
//!         order.lock().expect("no panic").push(me.0.id());
//!         Ok::<_, Infallible>(Flow::Stop)
//!     });
//!     assert_eq!(met.map(|met| met.held), Ok(2));
//! });
//! assert_eq!(order.into_inner().expect("no panic"), [1, 0]);
//! ```

mod board;
mod error;
mod how;
mod initiator;
#[cfg(not(loom))]
pub mod kit;
mod op;
mod rendezvous;
mod round;
mod set;
mod sync;

pub use error::{MeetError, Met};
pub use how::{How, Ordered};
pub use rendezvous::Rendezvous;
