// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A configuration from defaults, a file's text and an override: what is read, where each value
//! comes from, and what a mistake is answered with.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use serde::Deserialize;
use vm_cfg::{Bounded, ByteSize, Tree};

#[derive(Debug, Deserialize)]
struct VmSpec {
    cpus: Bounded<1, 64>,
    memory: ByteSize,
}

#[derive(Debug, Deserialize)]
struct DiskSpec {
    path: String,
    #[serde(default)]
    readonly: bool,
}

const DEFAULTS: &str = "
[vm]
cpus = 1
memory = '256M'
";

const FILE: &str = "
[vm]
cpus = 4

[disk.10]
path = '/srv/scratch.img'

[disk.2]
path = '/srv/root.img'
readonly = true
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Tree::builder()
        .defaults(DEFAULTS)?
        .text("vm.toml".as_ref(), FILE)?
        .set("vm.memory=6G")?
        .build();

    let vm: VmSpec = tree.section("vm")?.read()?;
    println!("{} vCPUs, {} of memory", vm.cpus.get(), vm.memory);
    for (slot, section) in tree.section("disk")?.sections() {
        let disk: DiskSpec = section.read()?;
        println!("disk {slot}: {} (read-only: {})", disk.path, disk.readonly);
    }
    tree.refuse_unread()?;

    for entry in tree.entries() {
        println!(
            "{:40} # {}",
            format!("{} = {}", entry.path, entry.value),
            entry.origin
        );
    }
    for mistake in [
        "vm.memroy=1G",
        "vm.cpus=65",
        "vm.cpus=many",
        "vm=1",
        "vm.cpus",
    ] {
        let built = Tree::builder().defaults(DEFAULTS)?.set(mistake);
        let read = built.and_then(|b| b.build().section("vm")?.read::<VmSpec>());
        println!("{}", read.err().ok_or("a mistake was accepted")?);
    }
    Ok(())
}
