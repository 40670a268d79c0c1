// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The command line.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A virtual machine monitor: boots Linux on KVM.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Boot a kernel; the serial console is this terminal (Ctrl-A x ends, Ctrl-A h helps)
    Run(Box<RunArgs>),
    /// Control a running VM through the socket of its --control
    Ctl(CtlArgs),
    /// Check and show a configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Show what this host can do, and which engine "auto" takes and why
    Host(HostArgs),
    /// Show the states of a VM and which call is legal in which
    States(StatesArgs),
}

/// What `vmm config` does.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show what "vmm run" would take from the same flags, and where each value comes from;
    /// --json: as one object
    Check(Box<RunArgs>),
}

/// `vmm run`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag without a value is a bool"
)]
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Kernel image: ELF vmlinux, PVH ELF, bzImage, or multiboot (version 1) kernel
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// How to take the kernel file: auto (by its contents), as-is (a bzImage that decompresses
    /// itself), as-is-32 (the same, by its 32-bit entry whatever else it has), flat (raw 32-bit code)
    #[arg(long, value_name = "FORM")]
    pub(crate) kernel_form: Option<String>,
    /// Guest address of a flat kernel, at least 1 MiB; it is entered there
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pub(crate) load_address: Option<String>,
    /// Initial ramdisk. May be repeated: Linux gets all as one, a multiboot kernel as modules
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Vec<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) cpus: Option<String>,
    /// vCPUs that can be there at most; those beyond --cpus can be plugged later
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) max_cpus: Option<String>,
    /// Percent of a host CPU that each vCPU may use, 1 to 100
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub(crate) cap: Option<String>,
    /// Guest memory, e.g. 256M or 6G
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// CPU model: host (what the host offers), or a baseline that is the same everywhere:
    /// x86-64-v1, x86-64-v2, x86-64-v3; less features: host,-avx2
    #[arg(long, value_name = "MODEL[,-FEATURE]")]
    pub(crate) cpu: Option<String>,
    /// Engine: auto or kvm
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<String>,
    /// Configuration file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one configuration value, e.g. --set vm.cpus=2; wins over everything
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Disk image, a file or block device; ",ro" behind it for a read-only disk; "none" for a disk
    /// that gets its image by vmm ctl. May be repeated: /dev/vda, /dev/vdb, and so on
    #[arg(long, value_name = "FILE[,ro]")]
    pub(crate) disk: Vec<PathBuf>,
    /// A source of entropy, /dev/hwrng in the guest
    #[arg(long)]
    pub(crate) rng: bool,
    /// The console that is this terminal: serial (the default, ttyS0) or virtio (hvc0); or
    /// virtio:FILE for serial here and hvc0 at a file or a raw terminal device, virtio:unix:PATH for
    /// hvc0 at a socket at which a program listens
    #[arg(long, value_name = "WHICH")]
    pub(crate) console: Option<String>,
    /// Port of a debug-exit device: a guest write of V ends with status (V << 1) | 1
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    pub(crate) debug_exit: Option<String>,
    /// End with status 0 when the guest reboots, rather than reset
    #[arg(long)]
    pub(crate) no_reboot: bool,
    /// If the guest dies, write what is known of it to this new directory
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Serve a control socket (for vmm ctl) at this path, for this user and root alone
    #[arg(long, value_name = "SOCK")]
    pub(crate) control: Option<PathBuf>,
    /// Write one JSON object a line to standard error for every change of state and every error
    #[arg(long)]
    pub(crate) json: bool,
    /// Log level
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub(crate) log: Option<LogLevel>,
}

/// `vmm ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The control socket of a running VM
    #[arg(value_name = "SOCK")]
    pub(crate) socket: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: CtlVerb,
    /// Print the reply, and each event, as it comes: one JSON object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What `vmm ctl` does.
#[derive(Debug, Subcommand)]
pub(crate) enum CtlVerb {
    /// Show the VM's state, thread ids and resets
    Status,
    /// Suspend the VM: no guest code runs, devices are quiet
    Suspend,
    /// Let a suspended VM go on
    Resume,
    /// Reset the VM hard
    Reset,
    /// Power the VM off; its program ends
    Poweroff {
        /// Press the power button and wait until the guest has shut itself down
        #[arg(long)]
        graceful: bool,
        /// With --graceful: give up after this many milliseconds
        #[arg(
            long,
            value_name = "MS",
            default_value_t = 60_000,
            requires = "graceful"
        )]
        limit_ms: u64,
    },
    /// Give the guest a vCPU that --max-cpus keeps for later, or that it gave up
    Plug {
        /// Number of the vCPU
        vcpu: u32,
    },
    /// Ask the guest to give a vCPU up, and wait until it has
    Unplug {
        /// Number of the vCPU; 0 stays
        vcpu: u32,
    },
    /// Let each vCPU use so much of a host CPU
    Cap {
        /// 1 to 100 percent; 100 is no cap
        percent: u32,
    },
    /// Give a disk an image, or the serial port or console its other end, while the guest runs
    Attach {
        /// The device: disk0 for the first disk, com1, console0
        device: String,
        /// Disk image, a file or block device, ",ro" behind it for a read-only disk; for com1 and
        /// console0 a file, a raw terminal device, or unix:PATH of a socket at which a program listens
        #[arg(value_name = "FILE[,ro]|unix:PATH", 
            value_parser = PathBufValueParser::new().try_map(attachable))]
        what: PathBuf,
        /// In place of what it has, at once: the guest finds no empty disk, no output is lost
        #[arg(long)]
        replace: bool,
    },
    /// Take from a device what it has while the guest runs: a disk is then of size 0, output of com1
    /// and console0 is discarded
    Detach {
        /// The device: disk0 for the first disk, com1, console0
        device: String,
    },
    /// Write what is known of the VM to a new directory: a report, pages, statistics, the effective
    /// configuration and the last log lines
    Bundle {
        /// The directory, which is made
        dir: PathBuf,
    },
    /// End the VM and its program, and wait until it is gone
    Destroy,
    /// Wait until the VM is in one of these states
    Wait {
        /// States, such as SUSPENDED; see "vmm states"
        #[arg(required = true, value_name = "STATE")]
        until: Vec<vm_state::State>,
        /// Give up after this many milliseconds
        #[arg(long, value_name = "MS")]
        limit_ms: Option<u64>,
    },
    /// Print changes of state until the VM's program ends
    Events,
    /// Show each vCPU's registers and what its EMT did last, or a page about a part of the VM
    Info {
        /// The page: "help" lists them, such as cpu, irq, memory, bus, timers and each device's
        page: Option<String>,
        /// What the page is to be about, such as the number of a vCPU
        args: Vec<String>,
    },
    /// Show what the VM counts: exits, kicks, operations, and what its devices and the host count
    Stats {
        /// Only paths that match: * is any text, ? any character, | separates alternatives
        pattern: Option<String>,
        /// Show also what has counted nothing
        #[arg(long)]
        all: bool,
        /// Then have counters and profiles begin anew
        #[arg(long)]
        reset: bool,
        /// As OpenMetrics text, for a collector
        #[arg(long)]
        openmetrics: bool,
    },
    /// Show the program's version, the protocol's and the operations it knows
    Version,
}

/// `vmm host`.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `vmm states`.
#[derive(Debug, Args)]
pub(crate) struct StatesArgs {
    /// What to print; docs/states.md is the default's output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = StatesFormat::Markdown)]
    pub(crate) format: StatesFormat,
    /// As one JSON object: states, moves and operations
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

/// What `vmm states` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatesFormat {
    /// The diagram, for Mermaid
    Mermaid,
    /// The diagram, for Graphviz
    Dot,
    /// The matrix of legal calls, as a Markdown table
    Matrix,
    /// A page with diagram, matrix and the moves that no call makes
    Markdown,
}

/// How much to log to standard error.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    /// Nothing
    Off,
    /// What went wrong
    Error,
    /// And what may
    Warn,
    /// And what the VM does
    Info,
    /// And how
    Debug,
    /// And everything else
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// `-` is no file here: whoever starts the VM gives its standard input and output, and no one after.
fn attachable(what: PathBuf) -> Result<PathBuf, &'static str> {
    if what.as_os_str() == "-" {
        return Err(
            "standard input and output are attached when the VM starts, and cannot be later: give a file, a terminal device or unix:PATH (./- for a file of that name)",
        );
    }
    Ok(what)
}
