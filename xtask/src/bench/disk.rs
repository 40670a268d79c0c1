// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest's virtio disk in the lab, under ours and under other VMMs, beside the same image as the host
//! of those guests has it.
//!
//! The image lies in the lab's memory, so the figures are the cost of the way there: exits, the
//! device's thread, interrupts. The same program does the same accesses inside and outside, past the
//! cache, one at a time; VMMs run alternately in one boot of the lab, with one guest, one image, and
//! the host's cache written back at the guest's flushes. The lab's clock counts instructions.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::boot::{Peer, PeerKind, qemu_version};
use super::{Effort, Row, in_lab};
use crate::lab::nested;
use crate::lab::qemu::{COUNTED_CPU, Clock, Job, Talk};
use crate::lab::setup::{Files, Kernel};
use crate::product;

const LAB: Kernel = Kernel::V6_12;
const GUEST: Kernel = Kernel::V6_1;
/// Of our time: 5 min, and 30 where five others want each CPU too.
const LIMIT_S: u32 = 3600;
/// Of one run of `labx io`: 10 to 30 s, and 180 then.
const SILENCE_S: u32 = 200;
const MARK: &str = "io ";
const OURS: &str = "vmm";
const HOST: &str = "host";
const QEMU: &str = "qemu";
const WHY_HOST: &str = "one request at a time: exits and a thread's wake-up are not the host's";

/// `labx io` calls reads in order so.
const READS: &str = "read";
const WHY_SHORT: &str = "; ours copies each byte once more, through a buffer of the device";

/// One run of `labx io`: name and figure, as it prints them.
type Figures = Vec<(String, f64)>;

/// Another VMM, as the script and the table call it, its command, and what is to be known of it.
struct Other {
    name: &'static str,
    command: String,
    why: String,
}

/// How much is done.
#[derive(Clone, Copy)]
struct Amount {
    rounds: u32,
    mib: u32,
    pages: u32,
}

/// Runs all of them; a row for each kind of access and each that ours is compared with.
pub(super) fn rows(effort: Effort, peers: &[Peer]) -> Result<Vec<Row>> {
    let files = Files::ensure(&[LAB, GUEST])?;
    files.ensure_qemu()?;
    eprintln!("a guest's disk in the lab, its clock driven by instructions");
    let amount = if effort == Effort::Quick {
        Amount {
            rounds: 1,
            mib: 16,
            pages: 500,
        }
    } else {
        Amount {
            rounds: 2,
            mib: 32,
            pages: 1000,
        }
    };
    let mut others = vec![qemu(&amount)?];
    others.extend(peers.iter().filter_map(|peer| other(peer, &amount)));
    let job = job(&files, &amount, &others, peers)?;
    compare(&in_lab::run(&files, &job)?, &others)
}

impl Amount {
    /// The guest's command line.
    fn append(&self) -> String {
        let Self { mib, pages, .. } = self;
        format!("console=ttyS0 quiet panic=-1 mib={mib} pages={pages} guest=disk-rate")
    }
}

/// Its default on virtio-mmio is the older interface.
fn qemu(amount: &Amount) -> Result<Other> {
    let options = format!(
        "-m 256 -kernel kernel \
         -initrd all.cpio -append '{}' -global virtio-mmio.force-legacy=false \
         -drive file=disk.img,format=raw,if=none,id=d,cache=writeback -device virtio-blk-device,drive=d",
        amount.append()
    );
    Ok(Other {
        name: QEMU,
        command: nested::call(&options),
        why: format!(
            "{}: microvm, virtio-mmio as of virtio 1, cache=writeback as ours",
            qemu_version()?
        ),
    })
}

fn other(peer: &Peer, amount: &Amount) -> Option<Other> {
    let name = peer.kind.name();
    match peer.kind {
        PeerKind::Firecracker => {
            let config = json!({
                "boot-source": {
                    "kernel_image_path": "kernel",
                    "initrd_path": "all.cpio",
                    "boot_args": format!("{} pci=off", amount.append()),
                },
                "drives": [{
                    "drive_id": "d",
                    "path_on_host": "disk.img",
                    "is_root_device": false,
                    "is_read_only": false,
                    "cache_type": "Writeback",
                }],
                "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
            });
            Some(Other {
                name,
                command: format!(
                    "sh -c 'echo '\\''{config}'\\'' >disk.json
                     exec ./firecracker --no-api --config-file disk.json'"
                ),
                why: "cache_type Writeback as ours".into(),
            })
        }
        PeerKind::CloudHypervisor => {
            eprintln!(
                "no disk rows for {name}: its disks are on PCI, and this guest has no driver"
            );
            None
        }
    }
}

fn job(files: &Files, amount: &Amount, others: &[Other], peers: &[Peer]) -> Result<Job> {
    let Amount { rounds, mib, pages } = amount;
    let initrd = product::guest_initramfs(&files.busybox(), files.dir())?;
    // A guest is ended when it has said its figures, whole: not every VMM ends with it.
    let mut script = format!(
        "cd /
         echo bin/labx | cpio -o -H newc >/job/labx.cpio
         cd /job
         cat guest.cpio modules.cpio labx.cpio >all.cpio
         truncate -s {mib}M disk.img
         # Once over it first, for all alike: its pages are there then.
         labx io disk.img {mib} 1 >/dev/null
         echo \"{HOST}: $(labx io disk.img {mib} {pages})\"
         measure() {{
             who=$1
             shift
             \"$@\" </dev/null >out 2>&1 &
             for step in $(seq 1 600); do
                 sleep 1
                 grep -q page-read out && break
                 [ -d /proc/$! ] || break
             done
             sleep 1
             kill -KILL $! 2>/dev/null
             wait $!
             sed -n \"s/^vmm: guest io/$who: io/p\" out
             grep -q page-read out && return 0
             cat out
             exit 1
         }}\n"
    );
    let ours = format!(
        "./vmm run --kernel kernel --initrd all.cpio --cpu {COUNTED_CPU} --memory 256M --disk disk.img \
         --append '{}'",
        amount.append()
    );
    for _ in 0..*rounds {
        script.push_str(&format!("measure {OURS} {ours}\n"));
        for other in others {
            script.push_str(&format!("measure {} {}\n", other.name, other.command));
        }
    }
    let mut contents = vec![
        (product::vmm()?, "vmm".into()),
        (files.vmlinux(GUEST), "kernel".into()),
        (files.guest_modules(GUEST), "modules.cpio".into()),
        (initrd, "guest.cpio".into()),
    ];
    contents.extend(nested::files()?);
    contents.extend(peers.iter().map(Peer::file));
    Ok(Job {
        kernel: LAB,
        cpus: 1,
        memory_mib: 2560,
        clock: Clock::Instructions,
        talk: Talk::Output,
        limit: Duration::from_secs(LIMIT_S.into()),
        silence: Some(Duration::from_secs(SILENCE_S.into())),
        modules: vec!["kvm".into()],
        files: contents,
        out: None,
        script,
    })
}

/// The figures of `who`, as `labx io` prints them; the mean of its rounds.
fn figures(said: &str, who: &str) -> Result<Figures> {
    let mut all = Vec::new();
    for line in said.lines() {
        let line = line
            .strip_prefix(who)
            .and_then(|line| line.strip_prefix(": "));
        if let Some(line) = line.and_then(|line| line.strip_prefix(MARK)) {
            let words: Vec<_> = line.split_whitespace().collect();
            let round = words.chunks(2).map(|pair| match pair {
                [name, figure] => Ok(((*name).to_owned(), figure.parse()?)),
                _ => bail!("not figures of a disk: {line:?}"),
            });
            all.push(round.collect::<Result<Figures>>()?);
        }
    }
    let rounds = u32::try_from(all.len())?;
    let first = all
        .first()
        .with_context(|| format!("no figures of {who:?}:\n{said}"))?;
    let mean = |(at, (name, _)): (usize, &(String, f64))| {
        let sum: f64 = all
            .iter()
            .filter_map(|round| round.get(at))
            .map(|(_, f)| f)
            .sum();
        (name.clone(), sum / f64::from(rounds))
    };
    Ok(first.iter().enumerate().map(mean).collect())
}

fn compare(said: &str, others: &[Other]) -> Result<Vec<Row>> {
    let ours = figures(said, OURS)?;
    let mut rows = Vec::new();
    for other in others {
        let theirs = figures(said, other.name)?;
        rows.extend(ours.iter().zip(&theirs).map(|((name, ours), (_, theirs))| {
            let short = if ours < theirs && other.name == QEMU && name == READS {
                WHY_SHORT
            } else {
                ""
            };
            Row {
                target: ">= 1".into(),
                met: (ours >= theirs).into(),
                why: format!("{}{short}", other.why),
                ..row(name, *ours, other.name, *theirs)
            }
        }));
    }
    let host = figures(said, HOST)?;
    rows.extend(ours.iter().zip(&host).map(|((name, ours), (_, host))| Row {
        why: WHY_HOST.into(),
        ..row(name, *ours, "limit: the image on its host", *host)
    }));
    Ok(rows)
}

/// A row without a target.
fn row(name: &str, ours: f64, against: &str, theirs: f64) -> Row {
    let (what, unit) = match name.strip_prefix("page-") {
        Some(what) => (format!("4 KiB {what}s anywhere"), "a second"),
        None => (format!("1 MiB {name}s in order"), "MB/s"),
    };
    Row {
        bench: format!("disk, {what}, icount"),
        ours: ours.into(),
        unit: unit.into(),
        against: against.into(),
        theirs: theirs.into(),
        ratio: (ours / theirs).into(),
        target: Value::Null,
        met: Value::Null,
        why: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_access_of_a_guest_is_compared_with_the_others_and_the_hosts() {
        let said = "host: io write 800.0 read 900 page-write 1000 page-read 2000\r\nnoise\r\n\
            vmm: io write 300.0 read 450.0 page-write 100 page-read 50\r\n\
            qemu: io write 200 read 900 page-write 200 page-read 25\r\n\
            vmm: io write 500.0 read 450.0 page-write 100 page-read 50\r\n\
            qemu: io write 200 read 900 page-write 200 page-read 25\r\n";
        let others = [Other {
            name: QEMU,
            command: String::new(),
            why: String::new(),
        }];
        let rows = compare(said, &others).unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.bench.as_str(), row.ratio.as_f64(), row.met.as_bool()))
            .collect();
        let names = [
            "disk, 1 MiB writes in order, icount",
            "disk, 1 MiB reads in order, icount",
            "disk, 4 KiB writes anywhere, icount",
            "disk, 4 KiB reads anywhere, icount",
        ];
        let qemu = [(2.0, true), (0.5, false), (0.5, false), (2.0, true)];
        let host = [0.5, 0.5, 0.1, 0.025];
        let qemu = names
            .iter()
            .zip(qemu)
            .map(|(name, (ratio, met))| (*name, Some(ratio), Some(met)));
        let host = names
            .iter()
            .zip(host)
            .map(|(name, ratio)| (*name, Some(ratio), None));
        assert_eq!(seen, qemu.chain(host).collect::<Vec<_>>());
        assert_eq!(rows[0].unit, "MB/s");
        assert_eq!(
            (rows[0].why.as_str(), rows[1].why.as_str()),
            ("", WHY_SHORT)
        );
        assert!(compare("host: io write 1\n", &others).is_err());
        assert!(compare("host: io write\nvmm: io write\n", &[]).is_err());
    }

    #[test]
    fn a_peers_configuration_reaches_the_shell_as_one_word() {
        let amount = Amount {
            rounds: 1,
            mib: 16,
            pages: 500,
        };
        let peer = |kind| Peer::for_tests(kind);
        let firecracker = other(&peer(PeerKind::Firecracker), &amount).unwrap();
        let echo = firecracker
            .command
            .replace("exec ./firecracker", "cat disk.json; :");
        let dir = std::env::temp_dir().join(format!("disk-peer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut shell = std::process::Command::new("sh");
        let output = shell
            .arg("-c")
            .arg(echo)
            .current_dir(&dir)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let config: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(config["drives"][0]["path_on_host"], "disk.img");
        assert!(other(&peer(PeerKind::CloudHypervisor), &amount).is_none());
    }
}
