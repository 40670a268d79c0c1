// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The QEMU that runs the lab, as one more program inside it: a peer of `vmm` on the same KVM.
//!
//! The lab has no libraries of its own, so the program brings its own and their loader; of its
//! firmware it brings what its smallest machine needs. That one has disks where ours are, on
//! virtio-mmio, and starts Debian's kernel sooner than `q35` does (3.25 s and 3.68 s of the lab's time),
//! if its firmware is qboot and it has a clock: without one the kernel looks for it for 3 s.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

const PROGRAM: &str = "qemu-system-x86_64";
const LOADER: &str = "ld-linux-x86-64.so.2";
/// What `microvm` needs for a kernel that has a PVH note.
const FIRMWARE: [&str; 2] = ["qboot.rom", "kvmvapic.bin"];
/// Where it lies below `/job`.
const DIR: &str = "qemu";

/// Host files, and their names below the lab's `/job`; for a program that was installed with the lab.
pub(crate) fn files() -> Result<Vec<(PathBuf, String)>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .map(|dir| dir.join(PROGRAM))
        .find(|path| path.is_file())
        .with_context(|| format!("{PROGRAM} is not on PATH"))?;
    let mut needed = Command::new("ldd");
    needed.arg(&program).env("LC_ALL", "C");
    let mut paths = libraries(&workspace::run(&mut needed)?);
    let said = workspace::run(Command::new(&program).args(["-L", "help"]))?;
    let places: Vec<_> = said.lines().map(PathBuf::from).collect();
    for name in FIRMWARE {
        let found = places.iter().map(|dir| dir.join(name));
        let found = found.into_iter().find(|path| path.is_file());
        paths.push(found.with_context(|| format!("{PROGRAM} has no firmware {name}"))?);
    }
    paths.push(program);
    let named = paths.into_iter().map(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name", path.display()))?;
        let name = format!("{DIR}/{name}");
        Ok((path, name))
    });
    named.collect()
}

/// The paths in what `ldd` prints: a line each, of a library behind an arrow or of the loader.
fn libraries(said: &str) -> Vec<PathBuf> {
    let paths = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// A command line in `/job`: the program on KVM, with the CPU of [`super::qemu::COUNTED_CPU`], its serial
/// port at standard input and output, nothing that was not asked for; `options` are memory, kernel and
/// so on.
pub(crate) fn call(options: &str) -> String {
    format!(
        "{DIR}/{LOADER} --library-path {DIR} {DIR}/{PROGRAM} -L {DIR} -M microvm,x-option-roms=off,rtc=on \
         -bios qboot.rom -accel kvm -cpu host,-kvm-pv-eoi -nodefaults -no-user-config -display none -serial stdio \
         -no-reboot {options}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = ["/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(said), paths);
    }
}
