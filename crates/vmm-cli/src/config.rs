// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is to be run: defaults, then the configuration file, then flags, then `--set`.

use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use log::LevelFilter;
use serde::Deserialize;
use serde::de::IgnoredAny;
use vm_boot::{Form, Platform, Protocol, VirtioWindows};
use vm_cfg::{Bounded, Tree};
use vm_core::VmSpec;
use vm_cpu::RamLayout;
use vm_devices::DiskAccess;

use crate::args::RunArgs;
use crate::console::Choice;
use crate::flags;

/// What is to be run.
#[derive(Debug)]
pub(crate) struct RunSpec {
    pub(crate) vm: VmSpec,
    pub(crate) kernel: PathBuf,
    pub(crate) form: Form,
    /// How it is entered, where that is not for its contents to say.
    pub(crate) entry: Option<Protocol>,
    pub(crate) initrds: Vec<PathBuf>,
    pub(crate) append: String,
    pub(crate) engine: EngineChoice,
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) entropy: Entropy,
    pub(crate) console: Choice,
    pub(crate) debug_exit: Option<u16>,
    pub(crate) control: Option<PathBuf>,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) log: LevelFilter,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSpec {
    /// Its image; one that has none gets it later.
    pub(crate) path: Option<PathBuf>,
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
    #[serde(rename = "as-is-32")]
    AsIs32,
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
    bundle: Option<PathBuf>,
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
    path: Option<PathBuf>,
    #[serde(default)]
    read_only: bool,
}

/// What holds when nobody says otherwise; in vm-core's part as in [`VmSpec::default`].
const DEFAULTS: &str = "\
[vm]
name = 'vm'
cpus = 1
cap = 100
memory = '256M'
cpu = 'host'
on_reset = 'reset'
on_triple_fault = 'guru'
[boot]
form = 'auto'
[run]
engine = 'auto'
rng = false
console = 'serial'
";

/// Reads everything the user said; gives also the tree it was said in, all of which was read.
///
/// # Errors
/// The first thing that is wrong, with its key or flag and what would be right.
pub(crate) fn read_tree(args: &RunArgs) -> anyhow::Result<(RunSpec, Tree)> {
    let mut builder = Tree::builder().defaults(DEFAULTS)?;
    if let Some(file) = &args.config {
        builder = builder.file(file)?;
    }
    builder = flags::apply(builder, args)?;
    for set in &args.set {
        builder = builder
            .flag("--set", set)
            .with_context(|| format!("--set {set}"))?;
    }
    let tree = builder.build();
    let spec = spec(args, &tree)?;
    Ok((spec, tree))
}

fn spec(args: &RunArgs, tree: &Tree) -> anyhow::Result<RunSpec> {
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
        entry: (boot.form == FormChoice::AsIs32).then_some(Protocol::Linux32),
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
        bundle: run.bundle,
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
        FormChoice::AsIs | FormChoice::AsIs32 => Form::AsIs,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ends::EndsAt;
    use clap::Parser;

    fn read(args: &RunArgs) -> anyhow::Result<RunSpec> {
        read_tree(args).map(|(spec, _)| spec)
    }

    fn args(line: &[&str]) -> RunArgs {
        let line = ["vmm", "run"].iter().chain(line);
        match crate::args::Cli::try_parse_from(line).unwrap().verb {
            crate::args::Verb::Run(args) => *args,
            crate::args::Verb::Config(_)
            | crate::args::Verb::Host(_)
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
            "[vm]\ncpus = 2\nmax_cpus = 4\ncap = 30\nmemory = '1G'\non_reset = 'power-off'\n             [boot]\nkernel = 'k'\ninitrd = ['i', 'j']\nform = 'flat'\nload_address = 0x200000\nappend = 'a \"b\" \\ c'\n             [run]\ndebug_exit = 0xf4\nengine = 'kvm'\ncontrol = 's'\nbundle = 'b'\nrng = true\nconsole = 'virtio:c'\n             [[disk]]\npath = 'd \"1'\n[[disk]]\npath = 'e'\nread_only = true\n[[disk]]\nread_only = true\n",
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
            "--bundle",
            "b",
            "--rng",
            "--console",
            "virtio:c",
            "--disk",
            "d \"1",
            "--disk",
            "e,ro",
            "--disk",
            "none,ro",
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
        assert_eq!(by_flags.bundle, Some("b".into()));
        assert_eq!(by_flags.bundle, by_file.bundle);
        assert_eq!(by_flags.disks, by_file.disks);
        assert_eq!(by_flags.disks[1].access, DiskAccess::ReadOnly);
        assert_eq!(by_flags.disks[2].path, None);
        assert_eq!(
            (by_flags.entropy, by_file.entropy),
            (Entropy::Device, Entropy::Device)
        );
        assert_eq!(by_flags.console, Choice::VirtioAt(EndsAt::Path("c".into())));
        assert_eq!(by_flags.console, by_file.console);
        assert_eq!(by_flags.platform().virtio.count, 5);
        assert_eq!((by_flags.vm.vcpus, by_flags.vm.plugged), (4, Some(2)));
        assert_eq!(by_flags.vm.plugged, by_file.vm.plugged);
        assert_eq!((by_flags.vm.cap_percent, by_file.vm.cap_percent), (30, 30));
        assert_eq!(by_flags.vm.vcpus, by_file.vm.vcpus);
        assert_eq!(by_flags.vm.memory_bytes, by_file.vm.memory_bytes);
        assert_eq!(by_flags.vm.on_reset, by_file.vm.on_reset);
        assert_eq!(by_flags.append, "a \"b\" \\ c");
    }

    #[test]
    fn the_defaults_that_are_shown_are_those_that_hold() {
        let tree = Tree::builder().defaults(DEFAULTS).unwrap().build();
        let shown = VmSpec::read(&tree.section("vm").unwrap()).unwrap();
        assert_eq!(format!("{shown:?}"), format!("{:?}", VmSpec::default()));
    }

    #[test]
    fn a_flags_text_is_a_text_whatever_is_in_it() {
        let refused = |rest: &[&str]| {
            let line = [&["--kernel", "k"], rest].concat();
            format!("{:#}", read(&args(&line)).unwrap_err())
        };
        for text in ["'kvm'", "kvm # x", "[", "", "1"] {
            let error = refused(&["--engine", text]);
            assert!(error.contains("run.engine (--engine)"), "{text}: {error}");
            let error = refused(&["--kernel-form", text]);
            assert!(
                error.contains("boot.form (--kernel-form)"),
                "{text}: {error}"
            );
        }
        for text in ["2 # x", "[2]", "{ a = 2 }", "'2'", "", "2\ncap = 3"] {
            let error = refused(&["--cpus", text]);
            assert!(error.contains("vm.cpus (--cpus)"), "{text}: {error}");
            let error = refused(&["--memory", text]);
            assert!(error.contains("vm.memory (--memory)"), "{text}: {error}");
        }
    }

    #[test]
    fn one_initrd_needs_no_list_and_the_kernel_is_recognised_unless_said() {
        let set = ["--kernel", "k", "--set", "boot.initrd='i'"];
        let spec = read(&args(&set)).unwrap();
        assert_eq!(spec.initrds, [PathBuf::from("i")]);
        assert_eq!(spec.form, Form::Auto);
        let as_is = ["--kernel", "k", "--kernel-form", "as-is"];
        let spec = read(&args(&as_is)).unwrap();
        assert_eq!((spec.form, spec.entry), (Form::AsIs, None));
        let as_is = ["--kernel", "k", "--kernel-form", "as-is-32"];
        let spec = read(&args(&as_is)).unwrap();
        assert_eq!(
            (spec.form, spec.entry),
            (Form::AsIs, Some(Protocol::Linux32))
        );
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
