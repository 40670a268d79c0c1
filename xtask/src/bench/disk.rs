// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A guest's virtio disk in the lab, beside the same image as the host of that guest has it.
//!
//! The image lies in the lab's memory, so the figures are the cost of the way there: exits, the
//! device's thread, interrupts. The same program does the same accesses inside and outside, past the
//! cache, one at a time. The lab's clock counts instructions.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Effort, Row};
use crate::lab::qemu::{self, Clock, End, Job, Talk};
use crate::lab::setup::{Files, Kernel};
use crate::product;

const LAB: Kernel = Kernel::V6_12;
const GUEST: Kernel = Kernel::V6_1;
const LIMIT_S: u32 = 300;
const MARK: &str = "io ";
const WHY: &str = "one request at a time: exits and a thread's wake-up are not the host's";

/// One run of `labx io`: name and figure, as it prints them.
type Figures = Vec<(String, f64)>;

/// Runs both; a row for each kind of access.
pub(super) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let files = Files::ensure(&[LAB, GUEST])?;
    files.ensure_qemu()?;
    eprintln!("a guest's disk in the lab, its clock driven by instructions");
    let mut said = String::new();
    let end = qemu::run(&files, &job(&files, effort)?, &mut |bytes| {
        said.push_str(&String::from_utf8_lossy(bytes));
    })?;
    match end {
        End::Status(0) => compare(&said),
        End::Signal(number) => bail!("ended by signal {number}"),
        End::Broken { reason, .. } => bail!("the bench in the lab failed: {reason}\n{said}"),
        End::Late => bail!("the bench in the lab was not done within {LIMIT_S} s\n{said}"),
        End::Status(status) => bail!("the bench in the lab failed: status {status}\n{said}"),
    }
}

fn job(files: &Files, effort: Effort) -> Result<Job> {
    let (mib, pages) = if effort == Effort::Quick {
        (16, 500)
    } else {
        (64, 4000)
    };
    let initrd = product::guest_initramfs(&files.busybox(), files.dir())?;
    let script = format!(
        "cd /
         echo bin/labx | cpio -o -H newc >/job/labx.cpio
         cd /job
         truncate -s {mib}M disk.img
         # Once over it first, for both alike: its pages are there then.
         labx io disk.img {mib} 1 >/dev/null
         echo \"host: $(labx io disk.img {mib} {pages})\"
         exec ./vmm run --kernel kernel --initrd guest.cpio --initrd modules.cpio \
             --initrd labx.cpio --cpus 1 --memory 256M --disk disk.img \
             --append 'console=ttyS0 quiet panic=-1 mib={mib} pages={pages} guest=disk-rate'\n"
    );
    Ok(Job {
        kernel: LAB,
        cpus: 1,
        memory_mib: 2048,
        clock: Clock::Instructions,
        talk: Talk::Output,
        limit: Duration::from_secs(u64::from(LIMIT_S)),
        modules: vec!["kvm".into()],
        files: vec![
            (product::vmm()?, "vmm".into()),
            (files.vmlinux(GUEST), "kernel".into()),
            (files.guest_modules(GUEST), "modules.cpio".into()),
            (initrd, "guest.cpio".into()),
        ],
        out: None,
        script,
    })
}

/// The figures behind `who`, as `labx io` prints them.
fn figures(said: &str, who: &str) -> Result<Figures> {
    let line = said.lines().find_map(|line| line.strip_prefix(who));
    let line = line
        .and_then(|line| line.trim().strip_prefix(MARK))
        .with_context(|| format!("no figures of {who:?}:\n{said}"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    words
        .chunks(2)
        .map(|pair| match pair {
            [name, figure] => Ok(((*name).to_owned(), figure.parse()?)),
            _ => bail!("not figures of a disk: {line:?}"),
        })
        .collect()
}

fn compare(said: &str) -> Result<Vec<Row>> {
    let (ours, host) = (figures(said, "vmm: guest ")?, figures(said, "host: ")?);
    let rows = ours.iter().zip(&host).map(|((name, ours), (_, host))| {
        let (what, unit) = match name.strip_prefix("page-") {
            Some(what) => (format!("4 KiB {what}s anywhere"), "a second"),
            None => (format!("1 MiB {name}s in order"), "MB/s"),
        };
        Row {
            bench: format!("disk, {what}, icount"),
            ours: (*ours).into(),
            unit: unit.into(),
            against: "limit: the image on its host".into(),
            theirs: (*host).into(),
            ratio: (ours / host).into(),
            target: serde_json::Value::Null,
            met: serde_json::Value::Null,
            why: WHY.into(),
        }
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_access_of_a_guest_is_compared_with_the_hosts() {
        let said = "host: io write 800.0 read 900 page-write 1000 page-read 2000\r\nnoise\r\n\
            vmm: guest io write 400.0 read 450.0 page-write 100 page-read 50\r\n";
        let rows = compare(said).unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.bench.as_str(), row.unit.as_str(), row.ratio.as_f64()))
            .collect();
        assert_eq!(
            seen,
            [
                ("disk, 1 MiB writes in order, icount", "MB/s", Some(0.5)),
                ("disk, 1 MiB reads in order, icount", "MB/s", Some(0.5)),
                ("disk, 4 KiB writes anywhere, icount", "a second", Some(0.1)),
                (
                    "disk, 4 KiB reads anywhere, icount",
                    "a second",
                    Some(0.025)
                ),
            ]
        );
        assert!(compare("host: io write 1\n").is_err());
        assert!(compare("host: io write\nvmm: guest io write\n").is_err());
    }
}
