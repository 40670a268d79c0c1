// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Starting a guest in the lab: process start to the guest's init, and the memory of the VMM
//! without the guest's.
//!
//! The lab's clock counts instructions, so figures repeat. The guest is Debian's 6.1 kernel as
//! ELF file with 256 MiB and one vCPU, and one small static program as init. VMMs run alternately
//! in one boot of the lab.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Effort, Row};
use crate::lab::qemu::{self, Clock, End, Job, Talk};
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
/// A boot takes 4 s of the lab's time and 6 to 20 s of ours.
const BOOT_LIMIT_S: u32 = 60;

/// What another VMM needed when last measured in such a lab (icount, lab 6.12, one CPU, the same
/// guest kernel and memory, a command line of its own): shown when its program is not given.
const RECORDED: [(PeerKind, f64, f64); 2] = [
    (PeerKind::Firecracker, 3112.9, 4636.0),
    (PeerKind::CloudHypervisor, 3170.4, 6960.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerKind {
    Firecracker,
    CloudHypervisor,
}

impl PeerKind {
    const fn name(self) -> &'static str {
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
    kind: PeerKind,
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
    let rounds = if effort == Effort::Quick { 1 } else { 5 };
    eprintln!("{rounds} boots of each VMM in the lab, its clock driven by instructions");
    let said = boots_twice(&files, &job(&files, rounds, 1, peers)?)?;
    let mut rows = compare(&medians(&said)?, peers);
    match boots(&files, &job(&files, rounds, 2, &[])?)? {
        Ok(said) => rows.extend(with_two_cpus(&medians(&said)?)),
        // Such a lab has stalled before; the other rows do not depend on it.
        Err(why) => eprintln!("no row for 2 vCPUs: {why}"),
    }
    eprintln!("lab {}, {}", files.package(LAB)?, qemu_version()?);
    Ok(rows)
}

/// The output of all boots, at the second try if need be.
fn boots_twice(files: &Files, job: &Job) -> Result<String> {
    match boots(files, job)? {
        Ok(said) => Ok(said),
        Err(why) => {
            // Seen once, cause unknown: it may be the lab or the VMM, so it is always said.
            eprintln!("{why}\ntrying once more");
            boots(files, job)?.map_err(anyhow::Error::msg)
        }
    }
}

/// The output of all boots, or why there is none.
fn boots(files: &Files, job: &Job) -> Result<Result<String, String>> {
    let mut said = String::new();
    let end = qemu::run(files, job, &mut |bytes| {
        said.push_str(&String::from_utf8_lossy(bytes));
    })?;
    let why = match end {
        End::Status(0) => return Ok(Ok(said)),
        End::Signal(number) => bail!("ended by signal {number}"),
        End::Broken { reason, .. } => reason,
        End::Late => format!("not done within {} s", job.limit.as_secs()),
        End::Status(status) => format!("status {status}"),
    };
    Ok(Err(format!("the bench in the lab failed: {why}\n{said}")))
}

/// A lab with `cpus` CPUs, in which ours is booted with each number of vCPUs up to that.
fn job(files: &Files, rounds: u32, cpus: u32, peers: &[Peer]) -> Result<Job> {
    let initrd = product::tiny_initramfs(&files.labx(), files.dir())?;
    let mut contents = vec![
        (product::vmm()?, OURS.to_owned()),
        (files.vmlinux(GUEST), "kernel".to_owned()),
        (initrd, "initrd".to_owned()),
    ];
    let ours = |cpus: u32| {
        format!(
            "./vmm run --kernel kernel --initrd initrd --cpus {cpus} --memory {MEMORY_MIB}M \
             --append '{APPEND}'"
        )
    };
    let mut commands = vec![(OURS, ours(1))];
    if cpus > 1 {
        commands.push((OURS_2_CPUS, ours(2)));
    }
    for peer in peers {
        contents.push((peer.path.clone(), peer.kind.name().to_owned()));
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
        cpus,
        memory_mib: 2048,
        clock: Clock::Instructions,
        talk: Talk::Output,
        limit: Duration::from_secs(u64::from(boots * BOOT_LIMIT_S) + 120),
        modules: vec!["kvm".into()],
        files: contents,
        out: None,
        script,
    })
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

fn compare(measured: &BTreeMap<String, Measured>, peers: &[Peer]) -> Vec<Row> {
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
        let figures = [
            (
                "start to guest init, icount",
                "ms",
                ours.start_ms,
                theirs.start_ms,
            ),
            (
                "memory without the guest's",
                "KiB",
                ours.rss_kib,
                theirs.rss_kib,
            ),
        ];
        for (bench, unit, ours, theirs) in figures {
            rows.push(Row {
                bench: bench.into(),
                ours: ours.into(),
                unit: unit.into(),
                against: against.clone().into(),
                theirs: theirs.into(),
                ratio: (ours / theirs).into(),
                target: 1.0.into(),
                met: (ours < theirs).into(),
                why: String::new(),
            });
        }
    }
    rows
}

/// What a second vCPU costs, in a lab that has a CPU for each.
fn with_two_cpus(measured: &BTreeMap<String, Measured>) -> Option<Row> {
    let (one, two) = (measured.get(OURS)?, measured.get(OURS_2_CPUS)?);
    Some(Row {
        bench: "start to guest init with 2 vCPUs, icount".into(),
        ours: two.start_ms.into(),
        unit: "ms".into(),
        against: "vmm with 1 vCPU".into(),
        theirs: one.start_ms.into(),
        ratio: (two.start_ms / one.start_ms).into(),
        target: Value::Null,
        met: Value::Null,
        why: "the guest's own way of starting a processor is in it".into(),
    })
}

fn qemu_version() -> Result<String> {
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
        let said = "@@row vmm 3000 4000\n@@row vmm-2-cpus 3300 4000\n";
        let row = with_two_cpus(&super::medians(said).unwrap()).unwrap();
        assert_eq!(row.ratio, 1.1);
    }

    #[test]
    fn a_peer_that_was_not_run_is_compared_by_its_recorded_figure() {
        let said = "@@row vmm 3000 4000\n@@row firecracker 2900 4600\n";
        let peers = [Peer {
            kind: PeerKind::Firecracker,
            path: PathBuf::new(),
        }];
        let rows = compare(&medians(said).unwrap(), &peers);
        assert_eq!(rows.len(), 4);
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
