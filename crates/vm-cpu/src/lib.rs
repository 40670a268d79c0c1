// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a CPU backend is: traits, exits, plain x86 state, a scripted vCPU, the contract every
//! backend passes.
//!
//! | type | what it is |
//! |---|---|
//! | [`Engine`] | a kind of CPU backend (KVM, scripted, later software): makes machines |
//! | [`Machine`] | one VM inside an engine: makes vCPUs, delivers MSIs, owns the guest's time, which can be [`Held`] |
//! | [`Vcpu`] | one virtual processor, owned by its EMT: [`Entry`] in, [`Exit`] out |
//! | [`Settled`] | proof that a vCPU's pending exit is finished; the only way to its state |
//! | [`GuestRam`] | guest memory |
//! | [`CpuSpec`], [`CpuModel`], [`Baseline`] | which CPU the guest sees, less which of its [`Features`] |
//! | [`Statistic`] | something that an engine counts |
//! | [`CpuError`] | what can go wrong, each with what to do about it |
//!
//! [`script`] is an engine without hardware, for tests; [`contract`] is the suite that every engine's
//! tests run; [`x86`] holds the state of a vCPU as plain data.
//!
//! ```
//! use vm_cpu::script::{Script, ScriptEngine};
//! use vm_cpu::{Engine, Entry, Exit, MachineSpec, RamLayout};
//!
//! let engine = ScriptEngine::new(Script::new().work(100).pio_read(0x60, 1));
//! let ram = RamLayout { bytes: 1 << 20 }.allocate()?;
//! let machine = engine.create(&MachineSpec { vcpus: 1, ..MachineSpec::default() }, &ram)?;
//! let mut vcpu = machine.create_vcpu(0)?;
//! assert_eq!(vcpu.run(Entry::Go)?, Exit::PioRead { port: 0x60, size: 1 });
//! assert!(vcpu.settled().is_err(), "the read waits for its answer");
//! assert_eq!(vcpu.settle(Entry::Data(0x1c))?, None);
//! assert_eq!(vcpu.settled()?.state()?.gprs.rdx, 0x1c);
//! # Ok::<(), vm_cpu::CpuError>(())
//! ```
//!
//! No borrow of an engine's internals crosses a device call: entries and exits are owned scalars.

pub mod contract;
mod error;
mod exit;
mod features;
mod machine;
mod model;
mod ram;
pub mod script;
mod statistic;
pub mod x86;

pub use error::CpuError;
pub use exit::{Entry, Exit};
pub use features::{Baseline, CpuidRegister, Feature, Features};
pub use machine::{
    Engine, Held, IrqMode, Machine, MachineSpec, Msi, Registers, Settled, Vcpu, Window,
};
pub use model::{CpuModel, CpuSpec};
pub use ram::{GuestRam, RamLayout};
pub use statistic::{Statistic, StatisticKind, StatisticUnit};
