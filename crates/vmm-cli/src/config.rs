// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is to be run: defaults, then the configuration file, then flags, then `--set`.

use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use log::LevelFilter;
use serde::Deserialize;
use serde::de::IgnoredAny;
use vm_boot::{Form, Platform, VirtioWindows};
use vm_cfg::{Bounded, Builder, Tree};
use vm_core::VmSpec;
use vm_cpu::RamLayout;
use vm_devices::DiskAccess;

use crate::args::RunArgs;
use crate::console::Choice;

/// What is to be run.
#[derive(Debug)]
pub(crate) struct RunSpec {
    pub(crate) vm: VmSpec,
    pub(crate) kernel: PathBuf,
    pub(crate) form: Form,
    pub(crate) initrds: Vec<PathBuf>,
    pub(crate) append: String,
    pub(crate) engine: EngineChoice,
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) entropy: Entropy,
    pub(crate) console: Choice,
    pub(crate) debug_exit: Option<u16>,
    pub(crate) control: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) log: LevelFilter,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSpec {
    pub(crate) path: PathBuf,
    pub(crate) access: DiskAccess,
}

/// Whether there is an entropy device; as a number, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entropy {
    None = 0,
    Device = 1,
}

impl RunSpec {
    /// Where the devices are: what the board builds and what the guest is told.
    pub(crate) fn platform(&self) -> Platform {
        let count = self.disks.len() + self.entropy as usize + self.console.windows();
        Platform {
            debug_exit_port: self.debug_exit,
            virtio: VirtioWindows {
                count: u32::try_from(count).unwrap_or(u32::MAX),
                ..VirtioWindows::default()
            },
            ..Platform::default()
        }
    }
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EngineChoice {
    /// The best the host has.
    Auto,
    /// KVM or nothing.
    Kvm,
}

#[derive(Deserialize)]
struct BootSection {
    kernel: Option<PathBuf>,
    #[serde(default)]
    form: FormChoice,
    load_address: Option<Bounded<{ Form::FLAT_ADDRESS }, { RamLayout::HOLE_START }>>,
    initrd: Option<OneOrMore>,
    append: Option<String>,
}

/// How the kernel file is to be taken.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
enum FormChoice {
    #[default]
    Auto,
    AsIs,
    Flat,
}

/// A path, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

#[derive(Deserialize)]
struct RunSection {
    engine: EngineChoice,
    debug_exit: Option<Bounded<0, 0xffff>>,
    control: Option<PathBuf>,
    rng: bool,
    console: String,
}

/// The root, of which only the list is read here.
#[derive(Deserialize)]
struct Root {
    #[serde(default)]
    disk: Vec<DiskSection>,
    #[serde(default, rename = "vm")]
    _vm: IgnoredAny,
    #[serde(default, rename = "boot")]
    _boot: IgnoredAny,
    #[serde(default, rename = "run")]
    _run: IgnoredAny,
}

#[derive(Deserialize)]
struct DiskSection {
    path: PathBuf,
    #[serde(default)]
    read_only: bool,
}

const DEFAULTS: &str = "[run]\nengine = 'auto'\nrng = false\nconsole = 'serial'\n";

/// Reads everything the user said.
///
/// # Errors
/// The first thing that is wrong, with its key or flag and what would be right.
pub(crate) fn read(args: &RunArgs) -> anyhow::Result<RunSpec> {
    let mut builder = Tree::builder().defaults(DEFAULTS)?;
    if let Some(file) = &args.config {
        builder = builder.file(file)?;
    }
    builder = flags(builder, args)?;
    for set in &args.set {
        builder = builder.set(set).with_context(|| format!("--set {set}"))?;
    }
    let tree = builder.build();
    let vm = VmSpec::read(&tree.section("vm")?)?;
    vm.check()?;
    let boot: BootSection = tree.section("boot")?.read()?;
    let run: RunSection = tree.section("run")?.read()?;
    let entropy = if run.rng {
        Entropy::Device
    } else {
        Entropy::None
    };
    let console = Choice::parse(&run.console)?;
    let disks = disks(tree.root().read()?, entropy as usize + console.windows())?;
    tree.refuse_unread()?;
    let kernel = boot.kernel.ok_or_else(|| {
        anyhow!("no kernel: give one with --kernel FILE, or boot.kernel in a --config file")
    })?;
    Ok(RunSpec {
        vm,
        kernel,
        form: form(boot.form, boot.load_address)?,
        initrds: match boot.initrd {
            None => Vec::new(),
            Some(OneOrMore::One(path)) => vec![path],
            Some(OneOrMore::More(paths)) => paths,
        },
        append: boot.append.unwrap_or_else(|| console.append().to_owned()),
        engine: run.engine,
        disks,
        entropy,
        console,
        debug_exit: run
            .debug_exit
            .map(|port| u16::try_from(port.get()).expect("bounded by 0xffff")),
        control: run.control,
        json: args.json,
        log: args.log.map_or(LevelFilter::Warn, LevelFilter::from),
    })
}

fn form<const A: u64, const B: u64>(
    choice: FormChoice,
    address: Option<Bounded<A, B>>,
) -> anyhow::Result<Form> {
    ensure!(
        address.is_none() || choice == FormChoice::Flat,
        "a load address is for a flat kernel: say --kernel-form flat too, or leave it out"
    );
    Ok(match choice {
        FormChoice::Auto => Form::Auto,
        FormChoice::AsIs => Form::AsIs,
        FormChoice::Flat => Form::Flat {
            address: address.map_or(Form::FLAT_ADDRESS, Bounded::get),
        },
    })
}

/// The disks, as many as there are windows for beside `others`.
fn disks(root: Root, others: usize) -> anyhow::Result<Vec<DiskSpec>> {
    let count = root.disk.len() + others;
    let most = VirtioWindows::MAX;
    ensure!(
        u32::try_from(count).is_ok_and(|count| count <= most),
        "{count} disks, entropy devices and virtio consoles: a machine has room for {most}"
    );
    Ok(root.disk.into_iter().map(DiskSpec::from).collect())
}

impl From<DiskSection> for DiskSpec {
    fn from(section: DiskSection) -> Self {
        Self {
            path: section.path,
            access: if section.read_only {
                DiskAccess::ReadOnly
            } else {
                DiskAccess::ReadWrite
            },
        }
    }
}

/// `--disk` flags as the list that replaces a file's.
fn disk_flags(flags: &[PathBuf]) -> anyhow::Result<Option<String>> {
    let mut list = Vec::new();
    for flag in flags {
        let text = flag
            .to_str()
            .ok_or_else(|| anyhow!("--disk {}: not UTF-8", flag.display()))?;
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        ensure!(
            !path.is_empty(),
            "--disk {text}: name a file before the comma"
        );
        list.push(format!(
            "{{ path = {}, read_only = {read_only} }}",
            quoted(path)
        ));
    }
    Ok((!list.is_empty()).then(|| format!("[{}]", list.join(", "))))
}

/// `--initrd` flags as the list that replaces a file's.
fn initrd_flags(flags: &[PathBuf]) -> anyhow::Result<Option<String>> {
    let mut list = Vec::new();
    for flag in flags {
        let text = flag.to_str();
        let text = text.ok_or_else(|| anyhow!("--initrd {}: not UTF-8", flag.display()))?;
        list.push(quoted(text));
    }
    Ok((!list.is_empty()).then(|| format!("[{}]", list.join(", "))))
}

/// Flags are overrides by another name.
fn flags(mut builder: Builder, args: &RunArgs) -> anyhow::Result<Builder> {
    let file = |path: &Option<PathBuf>, flag: &str| {
        path.as_ref()
            .map(|path| {
                let text = path.to_str();
                text.map(quoted)
                    .ok_or_else(|| anyhow!("{flag} {}: not UTF-8", path.display()))
            })
            .transpose()
    };
    let flags = [
        ("boot.kernel", file(&args.kernel, "--kernel")?),
        ("boot.form", args.kernel_form.clone()),
        ("boot.load_address", args.load_address.clone()),
        ("boot.initrd", initrd_flags(&args.initrd)?),
        ("boot.append", args.append.as_deref().map(quoted)),
        ("vm.cpus", args.cpus.clone()),
        ("vm.max_cpus", args.max_cpus.clone()),
        ("vm.cap", args.cap.clone()),
        ("vm.memory", args.memory.clone()),
        ("vm.cpu", args.cpu.as_deref().map(quoted)),
        (
            "vm.on_reset",
            args.no_reboot.then(|| "power-off".to_owned()),
        ),
        ("run.engine", args.engine.clone()),
        ("run.debug_exit", args.debug_exit.clone()),
        ("run.control", file(&args.control, "--control")?),
        ("run.rng", args.rng.then(|| "true".to_owned())),
        ("run.console", args.console.as_deref().map(quoted)),
        ("disk", disk_flags(&args.disk)?),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            builder = builder.set(&format!("{key}={value}"))?;
        }
    }
    Ok(builder)
}

/// As a TOML string, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(line: &[&str]) -> RunArgs {
        let line = ["vmm", "run"].iter().chain(line);
        match crate::args::Cli::try_parse_from(line).unwrap().verb {
            crate::args::Verb::Run(args) => *args,
            crate::args::Verb::Host(_)
            | crate::args::Verb::States(_)
            | crate::args::Verb::Ctl(_) => unreachable!("run was given"),
        }
    }

    #[test]
    fn a_config_file_says_the_same_as_the_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        std::fs::write(
            &path,
            "[vm]\ncpus = 2\nmax_cpus = 4\ncap = 30\nmemory = '1G'\non_reset = 'power-off'\n             [boot]\nkernel = 'k'\ninitrd = ['i', 'j']\nform = 'flat'\nload_address = 0x200000\nappend = 'a \"b\" \\ c'\n             [run]\ndebug_exit = 0xf4\nengine = 'kvm'\ncontrol = 's'\nrng = true\nconsole = 'virtio:c'\n             [[disk]]\npath = 'd \"1'\n[[disk]]\npath = 'e'\nread_only = true\n",
        )
        .unwrap();
        let by_file = read(&args(&["--config", path.to_str().unwrap()])).unwrap();
        let by_flags = read(&args(&[
            "--cpus",
            "2",
            "--max-cpus",
            "4",
            "--cap",
            "30",
            "--memory",
            "1G",
            "--no-reboot",
            "--kernel",
            "k",
            "--initrd",
            "i",
            "--initrd",
            "j",
            "--kernel-form",
            "flat",
            "--load-address",
            "0x200000",
            "--append",
            "a \"b\" \\ c",
            "--debug-exit",
            "0xf4",
            "--engine",
            "kvm",
            "--control",
            "s",
            "--rng",
            "--console",
            "virtio:c",
            "--disk",
            "d \"1",
            "--disk",
            "e,ro",
        ]));
        let by_flags = by_flags.unwrap();
        assert_eq!(by_flags.kernel, by_file.kernel);
        assert_eq!(by_flags.initrds, [PathBuf::from("i"), "j".into()]);
        assert_eq!(by_flags.initrds, by_file.initrds);
        assert_eq!(by_flags.form, Form::Flat { address: 0x20_0000 });
        assert_eq!(by_flags.form, by_file.form);
        assert_eq!(by_flags.debug_exit, by_file.debug_exit);
        assert_eq!(by_flags.engine, by_file.engine);
        assert_eq!(by_flags.control, Some("s".into()));
        assert_eq!(by_flags.control, by_file.control);
        assert_eq!(by_flags.disks, by_file.disks);
        assert_eq!(by_flags.disks[1].access, DiskAccess::ReadOnly);
        assert_eq!(
            (by_flags.entropy, by_file.entropy),
            (Entropy::Device, Entropy::Device)
        );
        assert_eq!(by_flags.console, Choice::VirtioAt("c".into()));
        assert_eq!(by_flags.console, by_file.console);
        assert_eq!(by_flags.platform().virtio.count, 4);
        assert_eq!((by_flags.vm.vcpus, by_flags.vm.plugged), (4, Some(2)));
        assert_eq!(by_flags.vm.plugged, by_file.vm.plugged);
        assert_eq!((by_flags.vm.cap_percent, by_file.vm.cap_percent), (30, 30));
        assert_eq!(by_flags.vm.vcpus, by_file.vm.vcpus);
        assert_eq!(by_flags.vm.memory_bytes, by_file.vm.memory_bytes);
        assert_eq!(by_flags.vm.on_reset, by_file.vm.on_reset);
        assert_eq!(by_flags.append, "a \"b\" \\ c");
    }

    #[test]
    fn one_initrd_needs_no_list_and_the_kernel_is_recognised_unless_said() {
        let set = ["--kernel", "k", "--set", "boot.initrd='i'"];
        let spec = read(&args(&set)).unwrap();
        assert_eq!(spec.initrds, [PathBuf::from("i")]);
        assert_eq!(spec.form, Form::Auto);
        let as_is = ["--kernel", "k", "--kernel-form", "as-is"];
        assert_eq!(read(&args(&as_is)).unwrap().form, Form::AsIs);
        let flat = ["--kernel", "k", "--kernel-form", "flat"];
        let address = Form::FLAT_ADDRESS;
        assert_eq!(read(&args(&flat)).unwrap().form, Form::Flat { address });
    }

    #[test]
    fn a_load_address_without_a_flat_kernel_or_below_1_mib_is_refused() {
        let refused = |rest: &[&str]| {
            let line = [&["--kernel", "k"], rest].concat();
            format!("{:#}", read(&args(&line)).unwrap_err())
        };
        let text = refused(&["--load-address", "0x200000"]);
        assert!(text.contains("--kernel-form flat"), "{text}");
        let text = refused(&["--kernel-form", "flat", "--load-address", "0x7c00"]);
        assert!(text.contains("load_address"), "{text}");
        let text = refused(&["--kernel-form", "elf"]);
        assert!(text.contains("as-is"), "{text}");
    }

    #[test]
    fn the_kernels_console_is_the_users_unless_the_user_says_otherwise() {
        let append = |line: &[&str]| {
            read(&args(&[&["--kernel", "k"], line].concat())).map(|spec| spec.append)
        };
        for (line, expected) in [
            (&[][..], "console=ttyS0"),
            (&["--console", "virtio"], "console=hvc0"),
            (&["--console", "virtio:f"], "console=ttyS0"),
            (&["--console", "virtio", "--append", "quiet"], "quiet"),
        ] {
            assert_eq!(append(line).unwrap(), expected);
        }
        assert!(append(&["--console", "vga"]).is_err());
    }

    #[test]
    fn set_wins_over_flags_and_flags_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        std::fs::write(&path, "[vm]\ncpus = 2\n[boot]\nkernel = 'k'\n").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(read(&args(&["--config", path])).unwrap().vm.vcpus, 2);
        assert_eq!(
            read(&args(&["--config", path, "--cpus", "3"]))
                .unwrap()
                .vm
                .vcpus,
            3
        );
        let all = ["--config", path, "--cpus", "3", "--set", "vm.cpus=4"];
        assert_eq!(read(&args(&all)).unwrap().vm.vcpus, 4);
    }
}
