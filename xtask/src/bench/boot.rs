// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Starting a guest in the lab: process start to the guest's init, and the memory of the VMM
//! without the guest's.
//!
//! The lab's clock counts instructions, so figures repeat. The guest is Debian's 6.1 kernel as
//! ELF file with 256 MiB and one vCPU or two, and one small static program as init. VMMs run alternately
//! in one boot of the lab.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Effort, Row, in_lab};
use crate::lab::nested;
use crate::lab::qemu::{COUNTED_CPU, Clock, Job, Talk};
use crate::lab::setup::{Files, Kernel};
use crate::{product, workspace};

const LAB: Kernel = Kernel::V6_12;
const GUEST: Kernel = Kernel::V6_1;
const MEMORY_MIB: u32 = 256;
const APPEND: &str = "console=ttyS0 quiet panic=-1";
const MARKER: &str = "guest init reached";
const MARK: &str = "@@row ";
const OURS: &str = "vmm";
const OURS_2_CPUS: &str = "vmm-2-cpus";
const QEMU: &str = "qemu";
const QEMU_2_CPUS: &str = "qemu-2-cpus";
/// In the lab's time, of which a boot takes 4 s.
const BOOT_LIMIT_S: u32 = 60;
/// In ours: 6 to 20 s, and 90 where five others want each CPU too.
const BOOT_WALL_LIMIT_S: u32 = 180;

/// What another VMM needed when last measured in such a lab (icount, lab 6.12, one CPU, the same
/// guest kernel and memory, a command line of its own): shown when its program is not given.
const RECORDED: [(PeerKind, f64, f64); 2] = [
    (PeerKind::Firecracker, 3112.9, 4636.0),
    (PeerKind::CloudHypervisor, 3170.4, 6960.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerKind {
    Firecracker,
    CloudHypervisor,
}

impl PeerKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// The command that boots the guest, in the lab's `/job`.
    fn command(self) -> String {
        match self {
            Self::Firecracker => "./firecracker --no-api --config-file firecracker.json".to_owned(),
            Self::CloudHypervisor => format!(
                "./cloud-hypervisor --kernel kernel --initramfs initrd --cpus boot=1 \
                 --memory size={MEMORY_MIB}M --serial tty --console off --cmdline '{APPEND}'"
            ),
        }
    }
}

/// Another VMM and its program.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) kind: PeerKind,
    path: PathBuf,
}

impl Peer {
    /// `NAME=PATH` each.
    pub(super) fn parse_all(arguments: &[String]) -> Result<Vec<Self>> {
        let parse = |argument: &String| {
            let (name, path) = argument
                .split_once('=')
                .with_context(|| format!("--peer {argument}: write NAME=PATH"))?;
            let kinds = [PeerKind::Firecracker, PeerKind::CloudHypervisor];
            let kind = kinds
                .into_iter()
                .find(|kind| kind.name() == name)
                .with_context(|| {
                    format!("--peer {name}: only firecracker and cloud-hypervisor can be run")
                })?;
            let path = PathBuf::from(path);
            if !path.is_file() {
                bail!("--peer {name}: no file {}", path.display());
            }
            Ok(Self { kind, path })
        };
        arguments.iter().map(parse).collect()
    }

    /// Its program, and its name in the lab's `/job`.
    pub(super) fn file(&self) -> (PathBuf, String) {
        (self.path.clone(), self.kind.name().to_owned())
    }

    #[cfg(test)]
    pub(super) fn for_tests(kind: PeerKind) -> Self {
        let path = PathBuf::new();
        Self { kind, path }
    }
}

/// Median of one VMM's boots.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    start_ms: f64,
    rss_kib: f64,
}

/// Boots ours and the peers, in turn; rows for each peer, given or recorded.
pub(super) fn rows(effort: Effort, peers: &[Peer]) -> Result<Vec<Row>> {
    let files = Files::ensure(&[LAB, GUEST])?;
    files.ensure_qemu()?;
    let rounds = if effort == Effort::Quick { 1 } else { 3 };
    eprintln!("{rounds} boots of each VMM in the lab, its clock driven by instructions");
    let said = in_lab::run(&files, &job(&files, rounds, peers)?)?;
    let version = qemu_version()?;
    eprintln!("lab {}, {version}", files.package(LAB)?);
    Ok(compare(&medians(&said)?, peers, &version))
}

/// Boots of ours and the others, by turns; of ours and QEMU's also with two vCPUs. The lab has one CPU:
/// where two share one host thread, the second wins nothing.
fn job(files: &Files, rounds: u32, peers: &[Peer]) -> Result<Job> {
    let initrd = product::tiny_initramfs(&files.labx(), files.dir())?;
    let mut contents = vec![
        (product::vmm()?, OURS.to_owned()),
        (files.vmlinux(GUEST), "kernel".to_owned()),
        (initrd, "initrd".to_owned()),
    ];
    let ours = |vcpus: u32| {
        format!(
            "./vmm run --kernel kernel --initrd initrd --cpu {COUNTED_CPU} --cpus {vcpus} \
             --memory {MEMORY_MIB}M --append '{APPEND}'"
        )
    };
    let mut commands = vec![
        (OURS, ours(1)),
        (OURS_2_CPUS, ours(2)),
        (QEMU, qemu(1)),
        (QEMU_2_CPUS, qemu(2)),
    ];
    contents.extend(nested::files()?);
    for peer in peers {
        contents.push(peer.file());
        commands.push((peer.kind.name(), peer.kind.command()));
    }
    let mut script = format!(
        "cat >firecracker.json <<'END'\n{}\nEND\n",
        firecracker_config()
    );
    for _ in 0..rounds {
        for (name, command) in &commands {
            script.push_str(&format!(
                "row=$(labx until '{MARKER}' {BOOT_LIMIT_S} {MEMORY_MIB} {command}) || exit 1\n\
                 echo \"{MARK}{name} $row\"\n"
            ));
        }
    }
    let boots = rounds * u32::try_from(commands.len())?;
    Ok(Job {
        kernel: LAB,
        cpus: 1,
        memory_mib: 2048,
        clock: Clock::Instructions,
        talk: Talk::Output,
        limit: Duration::from_secs(u64::from(boots * BOOT_WALL_LIMIT_S) + 120),
        silence: Some(Duration::from_secs(BOOT_WALL_LIMIT_S.into())),
        modules: vec!["kvm".into()],
        files: contents,
        out: None,
        script,
    })
}

/// The lab's own QEMU.
fn qemu(vcpus: u32) -> String {
    nested::call(&format!(
        "-smp {vcpus} -m {MEMORY_MIB} -kernel kernel -initrd initrd -append '{APPEND}'"
    ))
}

fn firecracker_config() -> Value {
    json!({
        "boot-source": {
            "kernel_image_path": "kernel",
            "initrd_path": "initrd",
            "boot_args": format!("{APPEND} pci=off"),
        },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
    })
}

/// The lines `@@row NAME MS KIB` of the lab's output.
fn medians(said: &str) -> Result<BTreeMap<String, Measured>> {
    let mut all: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for line in said.lines().filter_map(|line| line.strip_prefix(MARK)) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, ms, kib] = words[..] else {
            bail!("not a row of the lab: {line:?}")
        };
        let (start, rss) = all.entry(name.to_owned()).or_default();
        start.push(ms.parse()?);
        rss.push(kib.parse()?);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
            .get(values.len() / 2)
            .copied()
            .context("no boots of a VMM that has a row")
    };
    all.into_iter()
        .map(|(name, (start, rss))| {
            Ok((
                name,
                Measured {
                    start_ms: median(start)?,
                    rss_kib: median(rss)?,
                },
            ))
        })
        .collect()
}

fn compare(measured: &BTreeMap<String, Measured>, peers: &[Peer], qemu: &str) -> Vec<Row> {
    let Some(ours) = measured.get(OURS) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for (kind, start_ms, rss_kib) in RECORDED {
        let given = peers.iter().any(|peer| peer.kind == kind);
        let theirs = measured.get(kind.name()).copied().filter(|_| given);
        let against = if theirs.is_some() { "" } else { " (recorded)" };
        let against = format!("{}{against}", kind.name());
        let theirs = theirs.unwrap_or(Measured { start_ms, rss_kib });
        rows.extend(both(ours, &against, theirs, ""));
    }
    if let Some(&theirs) = measured.get(QEMU) {
        rows.extend(both(ours, QEMU, theirs, &on_microvm(qemu)));
    }
    rows.extend(with_two_cpus(measured, qemu));
    rows
}

/// What is to be known of a row against QEMU of this version.
fn on_microvm(version: &str) -> String {
    format!("{version}: microvm with qboot, the fastest of its machines here")
}

/// A row for the time and one for the memory; less is better.
fn both(ours: &Measured, against: &str, theirs: Measured, why: &str) -> [Row; 2] {
    let row = |bench: &str, unit: &str, ours: f64, theirs: f64| Row {
        bench: bench.into(),
        ours: ours.into(),
        unit: unit.into(),
        against: against.into(),
        theirs: theirs.into(),
        ratio: (ours / theirs).into(),
        target: 1.0.into(),
        met: (ours < theirs).into(),
        why: why.into(),
    };
    [
        row(
            "start to guest init, icount",
            "ms",
            ours.start_ms,
            theirs.start_ms,
        ),
        row(
            "memory without the guest's",
            "KiB",
            ours.rss_kib,
            theirs.rss_kib,
        ),
    ]
}

/// What a second vCPU costs, and what QEMU needs for both.
fn with_two_cpus(measured: &BTreeMap<String, Measured>, qemu: &str) -> Vec<Row> {
    let row = |against: &str, name: &str, target: Value, why: &str| {
        let ours = measured.get(OURS_2_CPUS)?.start_ms;
        let theirs = measured.get(name)?.start_ms;
        let met = target.as_f64().map(|target| ours / theirs < target);
        Some(Row {
            bench: "start to guest init with 2 vCPUs, icount".into(),
            ours: ours.into(),
            unit: "ms".into(),
            against: against.into(),
            theirs: theirs.into(),
            ratio: (ours / theirs).into(),
            target,
            met: met.into(),
            why: why.into(),
        })
    };
    let own = "the guest's own way of starting a processor is in it";
    let one = row("vmm with 1 vCPU", OURS, Value::Null, own);
    let two = row(QEMU, QEMU_2_CPUS, 1.0.into(), &on_microvm(qemu));
    one.into_iter().chain(two).collect()
}

pub(super) fn qemu_version() -> Result<String> {
    let said = workspace::run(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_each_vmm_is_taken() {
        let said = "noise\n@@row vmm 3000.5 4000\n@@row vmm 2000 5000\n@@row vmm 9000 4500\n\
            @@row firecracker 3100 4600\n";
        let medians = medians(said).unwrap();
        assert_eq!(
            medians["vmm"],
            Measured {
                start_ms: 3000.5,
                rss_kib: 4500.0
            }
        );
        assert_eq!(medians.len(), 2);
        assert!(super::medians("@@row vmm 1\n").is_err());
    }

    #[test]
    fn two_vcpus_are_compared_with_one_and_with_the_others_two() {
        let said =
            "@@row vmm 3000 4000\n@@row vmm-2-cpus 3300 4000\n@@row qemu-2-cpus 6600 80000\n";
        let rows = with_two_cpus(&medians(said).unwrap(), "QEMU");
        assert_eq!((&rows[0].ratio, &rows[0].met), (&1.1.into(), &Value::Null));
        assert_eq!((&rows[1].ratio, &rows[1].met), (&0.5.into(), &true.into()));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_peer_that_was_not_run_is_compared_by_its_recorded_figure() {
        let said = "@@row vmm 3000 4000\n@@row firecracker 2900 4600\n@@row qemu 6000 80000\n";
        let peers = [Peer::for_tests(PeerKind::Firecracker)];
        let rows = compare(&medians(said).unwrap(), &peers, "QEMU");
        assert_eq!(rows.len(), 6);
        assert_eq!(
            (&rows[4].against, &rows[4].ratio),
            (&QEMU.into(), &0.5.into())
        );
        assert_eq!(
            (&rows[0].against, &rows[0].met),
            (&"firecracker".into(), &false.into())
        );
        let recorded = "cloud-hypervisor (recorded)";
        assert_eq!(
            (&rows[2].against, &rows[2].met),
            (&recorded.into(), &true.into())
        );
    }

    #[test]
    fn a_peer_that_cannot_be_run_is_refused_with_what_to_write() {
        for (argument, says) in [
            ("firecracker", "NAME=PATH"),
            ("qemu=/bin/true", "only firecracker"),
            ("firecracker=/nonexistent", "no file"),
        ] {
            let error = Peer::parse_all(&[argument.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
