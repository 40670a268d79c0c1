// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Gets what the lab is made of into `target/lab`: two Debian kernels, a static busybox, the
//! lab's own init and helper. Everything is cached; a second call only looks.
//!
//! Files: `KERNEL/{vmlinux,vmlinuz,modules.cpio,guest-modules.cpio,stamp}` for 6.1 and 6.12, `busybox`, `labx`,
//! `tools.cpio`, `e2fs.cpio`, `xen`, and the downloaded packages in `packages/`.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::modules::Modules;
use super::{debian, e2fs, payload};
use crate::cpio::Archive;
use crate::workspace::{self, StaticTarget};

/// Debian 12's.
const XEN_PACKAGE: &str = "xen-hypervisor-4.17-amd64";
const XEN_IMAGE: &str = "xen-4.17-amd64.gz";

const INIT: &str = include_str!("init.sh");

/// Sets of modules that a job can ask for; `virtio` is always loaded, `kvm` nearly always.
pub(crate) const MODULE_SETS: &[(&str, &[&str])] = &[
    ("virtio", &["virtio_pci", "virtio_console"]),
    ("kvm", &["kvm_amd"]),
    ("tun", &["tun"]),
    ("vhost", &["vhost_net", "vhost_vsock"]),
    ("vsock", &["vsock_loopback", "vhost_vsock"]),
    ("bridge", &["bridge"]),
    ("blk", &["virtio_blk"]),
    ("net", &["virtio_net"]),
    ("loop", &["loop"]),
    ("overlay", &["overlay"]),
    ("msr", &["msr"]),
];

/// What a guest of ours loads for its devices.
const GUEST_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "button",
    "evdev",
];

/// A Debian cloud kernel, as lab or as guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// The newer one from its security archive.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    const fn metapackage(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// The lab's files on disk.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Everything for the given kernels; waits for another setup that is under way.
    pub(crate) fn ensure(kernels: &[Kernel]) -> Result<Self> {
        let files = Self {
            dir: workspace::target().join("lab"),
        };
        let packages = files.dir.join("packages");
        std::fs::create_dir_all(&packages)
            .with_context(|| format!("cannot make {}", packages.display()))?;
        let _lock = files.lock()?;
        for &kernel in kernels {
            files.ensure_kernel(kernel, &packages)?;
        }
        files.ensure_tools(&packages)?;
        Ok(files)
    }

    /// QEMU itself, the one part that only root can install.
    pub(crate) fn ensure_qemu(&self) -> Result<()> {
        let _lock = self.lock()?;
        debian::install("qemu-system-x86_64", "qemu-system-x86")
    }

    /// The archive of programs for a guest's file system, which only some checks want.
    pub(crate) fn ensure_e2fs(&self) -> Result<()> {
        let _lock = self.lock()?;
        if !self.e2fs().is_file() {
            let archive = e2fs::archive(&self.dir.join("packages"), &self.dir)?;
            let partial = self.dir.join("e2fs.partial");
            std::fs::write(&partial, archive)?;
            std::fs::rename(partial, self.e2fs())?;
        }
        Ok(())
    }

    /// Xen, which only some checks want: unpacked, as a boot loader does it.
    pub(crate) fn ensure_xen(&self) -> Result<()> {
        let _lock = self.lock()?;
        if self.xen().is_file() {
            return Ok(());
        }
        let packages = self.dir.join("packages");
        let deb = debian::with_lists(|| debian::download(XEN_PACKAGE, &packages))?;
        let tree = self.dir.join("unpacked-xen");
        debian::unpack(&deb, &tree)?;
        let image = tree.join("boot").join(XEN_IMAGE);
        let bytes = std::fs::read(&image)
            .with_context(|| format!("no {} in {XEN_PACKAGE}", image.display()))?;
        let partial = self.dir.join("xen.partial");
        std::fs::write(&partial, payload::decompress(&bytes)?)?;
        std::fs::rename(partial, self.xen())?;
        debian::remove_dir(&tree)
    }

    /// Files that are there already, or not.
    #[cfg(test)]
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory of all of it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A static busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// The helper, also the smallest guest's init.
    pub(crate) fn labx(&self) -> PathBuf {
        self.dir.join("labx")
    }

    /// busybox, labx and the lab's init.
    pub(crate) fn tools(&self) -> PathBuf {
        self.dir.join("tools.cpio")
    }

    /// Programs for a guest's file system, see [`e2fs`].
    pub(crate) fn e2fs(&self) -> PathBuf {
        self.dir.join("e2fs.cpio")
    }

    /// A multiboot kernel that is not ours.
    pub(crate) fn xen(&self) -> PathBuf {
        self.dir.join("xen")
    }

    /// The kernel as ELF file.
    pub(crate) fn vmlinux(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("vmlinux")
    }

    /// The kernel as bzImage, as Debian ships it.
    pub(crate) fn vmlinuz(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("vmlinuz")
    }

    /// The kernel's modules and their load orders.
    pub(crate) fn modules(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("modules.cpio")
    }

    /// The modules for a guest with this kernel, in an archive to go behind the guest's.
    pub(crate) fn guest_modules(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("guest-modules.cpio")
    }

    /// Debian's name of the kernel, for logs.
    pub(crate) fn package(&self, kernel: Kernel) -> Result<String> {
        let stamp = std::fs::read_to_string(self.dir.join(kernel.name()).join("stamp"))?;
        Ok(stamp.lines().next().unwrap_or_default().to_owned())
    }

    /// Held by one setup at a time; released when the file is closed.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.dir.join("lock"))?;
        lock.lock().context("cannot lock the lab's directory")?;
        Ok(lock)
    }

    fn ensure_kernel(&self, kernel: Kernel, packages: &Path) -> Result<()> {
        let dir = self.dir.join(kernel.name());
        let wanted = format!(
            "{:016x}",
            hash(&format!("{MODULE_SETS:?}{GUEST_MODULES:?}"))
        );
        let stamp = std::fs::read_to_string(dir.join("stamp")).unwrap_or_default();
        if stamp.lines().nth(1) == Some(wanted.as_str()) {
            return Ok(());
        }
        let (package, deb) = debian::with_lists(|| {
            let prefix = format!("linux-image-{}.", kernel.name());
            let package = debian::dependency(kernel.metapackage(), &prefix)?;
            let deb = debian::download(&package, packages)?;
            Ok((package, deb))
        })?;
        eprintln!("unpacking {package}");
        debian::remove_dir(&dir)?;
        let tree = self.dir.join(format!("unpacked-{}", kernel.name()));
        debian::unpack(&deb, &tree)?;
        std::fs::create_dir_all(&dir)?;
        let release = package.trim_start_matches("linux-image-");
        let image = tree.join(format!("boot/vmlinuz-{release}"));
        let bytes = std::fs::read(&image)
            .with_context(|| format!("no {} in {package}", image.display()))?;
        let elf = payload::vmlinux(&bytes).with_context(|| format!("vmlinuz of {package}"))?;
        std::fs::write(dir.join("vmlinux"), elf)?;
        std::fs::write(dir.join("vmlinuz"), bytes)?;
        let modules = tree.join("lib/modules").join(release);
        std::fs::write(dir.join("modules.cpio"), modules_archive(&modules)?)?;
        let guest = guest_modules_archive(&modules)?;
        std::fs::write(dir.join("guest-modules.cpio"), guest)?;
        debian::remove_dir(&tree)?;
        std::fs::write(dir.join("stamp"), format!("{package}\n{wanted}\n"))?;
        Ok(())
    }

    fn ensure_tools(&self, packages: &Path) -> Result<()> {
        if !self.busybox().is_file() {
            let deb = debian::with_lists(|| debian::download("busybox-static", packages))?;
            let tree = self.dir.join("unpacked-busybox");
            debian::unpack(&deb, &tree)?;
            let from = [tree.join("bin/busybox"), tree.join("usr/bin/busybox")];
            let from = from.iter().find(|path| path.is_file());
            let from =
                from.context("busybox-static has neither bin/busybox nor usr/bin/busybox")?;
            std::fs::rename(from, self.busybox())?;
            debian::remove_dir(&tree)?;
        }
        let source = workspace::root().join("xtask/src/bin/labx.rs");
        let text = std::fs::read_to_string(&source)?;
        let wanted = format!("{:016x}", hash(&format!("{text}{INIT}")));
        let stamp = self.dir.join("tools.stamp");
        if std::fs::read_to_string(&stamp).unwrap_or_default() == wanted {
            return Ok(());
        }
        eprintln!("building the lab's helper");
        let labx = self.labx();
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
        ]);
        rustc
            .args(StaticTarget::choose()?.rustc_flags())
            .arg("-o")
            .arg(&labx)
            .arg(source);
        workspace::run(rustc.current_dir(workspace::root()))?;
        std::fs::write(self.tools(), tools_archive(&self.busybox(), &labx)?)?;
        std::fs::write(stamp, wanted)?;
        Ok(())
    }
}

fn tools_archive(busybox: &Path, labx: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for dir in ["bin", "dev", "proc", "sys", "tmp", "out", "job", "root"] {
        archive.dir(dir)?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.host_path("bin/busybox", busybox)?;
    archive.link("bin/sh", "busybox")?;
    archive.host_path("bin/labx", labx)?;
    archive.finish()
}

fn modules_archive(root: &Path) -> Result<Vec<u8>> {
    let mut modules = Modules::find(root)?;
    let mut archive = Archive::new(Vec::new());
    archive.dir("modules")?;
    let mut all = BTreeSet::new();
    for (set, wanted) in MODULE_SETS {
        let order = modules.order(wanted)?;
        let lines: String = order.iter().map(|name| format!("{name}\n")).collect();
        archive.file(&format!("modules/{set}.order"), 0o644, lines.as_bytes())?;
        all.extend(order);
    }
    for name in all {
        let data = modules
            .data(&name)
            .context("an ordered module has been read")?;
        archive.file(&format!("modules/{name}.ko"), 0o644, data)?;
    }
    archive.finish()
}

/// `modules/order`, and the modules that it names.
fn guest_modules_archive(root: &Path) -> Result<Vec<u8>> {
    let mut modules = Modules::find(root)?;
    let order = modules.order(GUEST_MODULES)?;
    let mut archive = Archive::new(Vec::new());
    archive.dir("modules")?;
    archive.file("modules/order", 0o644, order.join("\n").as_bytes())?;
    for name in order {
        let data = modules
            .data(&name)
            .context("an ordered module has been read")?;
        archive.file(&format!("modules/{name}.ko"), 0o644, data)?;
    }
    archive.finish()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
