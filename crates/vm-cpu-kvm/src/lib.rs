// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM as a CPU backend: the only crate with ioctls, signals and /dev/kvm.
//!
//! | type | what it is |
//! |---|---|
//! | [`KvmEngine`] | `/dev/kvm` opened and checked: a [`vm_cpu::Engine`] |
//! | [`KvmMachine`] | one VM: a [`vm_cpu::Machine`] |
//! | [`KvmVcpu`] | one vCPU: a [`vm_cpu::Vcpu`] |
//! | [`Host`] | what the host's KVM offers, a [`Capability`] a line, with who needs it ([`Need`]) |
//! | [`GuestSpeed`] | whether guest kernels run on the processor or are interpreted |
//!
//! A kick is a store to `immediate_exit` and a signal; why none is lost and why nothing aliases is
//! written down in the module `protocol`.
//!
//! ```
//! use vm_cpu_kvm::KvmEngine;
//!
//! match KvmEngine::probe() {
//!     Ok(host) => assert!(host.max_vcpus > 0),
//!     Err(why) => println!("no KVM here: {why}"),
//! }
//! ```

mod convert;
mod cpuid;
mod engine;
mod errno;
mod host;
mod ioctl;
mod kick;
mod machine;
mod memory;
mod model;
mod msrs;
mod protocol;
mod run_page;
mod signal;
mod speed;
mod state;
mod stats;
mod sync;
mod time;
mod tsc;
mod vcpu;

pub use engine::KvmEngine;
pub use host::{Capability, Host, Need};
#[doc(hidden)]
pub use kick::SignalOnly;
pub use machine::KvmMachine;
pub use speed::GuestSpeed;
pub use vcpu::{KvmVcpu, UNKNOWN_EXIT};
