// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration tree of a virtual machine: TOML, overrides, typed reading, unknown keys refused.
//!
//! | type | what it is |
//! |---|---|
//! | [`Builder`] | collects defaults, files and overrides, the later before the earlier |
//! | [`Tree`] | the configuration; never changes, knows what has been read |
//! | [`Section`] | a part of it; [`read`](Section::read) as a type of yours |
//! | [`Entry`], [`Origin`] | a value and where it comes from |
//! | [`ByteSize`], [`Bounded`] | sizes such as `6G`, integers within bounds |
//! | [`CfgError`], [`BadSize`] | what is wrong, with path, place and what would be right |
//!
//! ```
//! use vm_cfg::{Bounded, ByteSize, Tree};
//!
//! #[derive(serde::Deserialize)]
//! struct VmSpec {
//!     cpus: Bounded<1, 64>,
//!     memory: ByteSize,
//! }
//!
//! let builder = Tree::builder()
//!     .text("vm.toml".as_ref(), "[vm]\ncpus = 2\nmemory = '256M'\n")?
//!     .set("vm.memory=6G")?;
//! let tree = builder.build();
//! let vm: VmSpec = tree.section("vm")?.read()?;
//! assert_eq!((vm.cpus.get(), vm.memory.bytes()), (2, 6 << 30));
//! tree.refuse_unread()?;
//!
//! let tree = Tree::builder().text("vm.toml".as_ref(), "[vm]\ncpsu = 2\n")?.build();
//! let error = tree.section("vm")?.read::<VmSpec>().err().ok_or("cpsu is no key")?;
//! assert_eq!(error.to_string(), "vm.cpsu (vm.toml:2): unknown key; did you mean vm.cpus?");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod nearest;
mod node;
mod parse;
mod read;
mod size;
mod tree;

pub use error::CfgError;
pub use node::Origin;
pub use size::{BadSize, Bounded, ByteSize};
pub use tree::{Builder, Entry, Section, Tree};
