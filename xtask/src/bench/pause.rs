// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Suspend and resume over the control socket, by a client that stays connected: from the request's
//! line to its reply's, on this host's KVM and in the lab, whose clock counts instructions.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Effort, Row, in_lab, native};
use crate::lab::qemu::{COUNTED_CPU, Clock, Job, Talk};
use crate::lab::setup::{Files, Kernel};
use crate::{product, workspace};

const LAB: Kernel = Kernel::V6_12;
const GUEST: Kernel = Kernel::V6_1;
const MEMORY_MIB: u32 = 256;
const REACHED: &str = "guest init reached";
const MARK: &str = "rounds ";
const LIMIT: Duration = Duration::from_secs(120);

/// What Firecracker needed when last measured, its API over one connection, in ms.
const FIRECRACKER: &str = "firecracker (recorded)";
const NATIVE: [(&str, f64); 2] = [("suspend", 0.25), ("resume", 0.16)];
const ICOUNT: [(&str, f64); 2] = [("suspend", 0.27), ("resume", 0.30)];

fn count(effort: Effort) -> u32 {
    match effort {
        Effort::Quick => 50,
        Effort::Full => 500,
    }
}

/// On this host; no rows where there is no KVM.
pub(super) fn native_rows(effort: Effort) -> Result<Vec<Row>> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: no /dev/kvm for suspends on this host");
        return Ok(Vec::new());
    }
    let files = Files::ensure(&[GUEST])?;
    let vmm = product::vmm()?;
    let socket = workspace::target().join(format!("pause-{}.sock", std::process::id()));
    let mut command = native::command(&vmm, &files.vmlinux(GUEST), 1, &socket);
    let mut child = command.spawn().context("cannot start vmm")?;
    let begun = Instant::now();
    while !socket.exists() && begun.elapsed() < LIMIT && child.try_wait()?.is_none() {
        std::thread::yield_now();
    }
    eprintln!("suspends and resumes on this host");
    let mut rounds = Command::new(files.labx());
    rounds.arg("rounds").arg(&socket);
    rounds.arg(count(effort).to_string());
    let said = workspace::run_within(&mut rounds, LIMIT);
    child.kill()?;
    child.wait()?;
    drop(std::fs::remove_file(&socket));
    compare(&said?, "native", NATIVE)
}

/// In the lab, of a guest that has reached its init and idles.
pub(super) fn lab_rows(effort: Effort) -> Result<Vec<Row>> {
    let files = Files::ensure(&[LAB, GUEST])?;
    files.ensure_qemu()?;
    eprintln!("suspends and resumes in the lab, its clock driven by instructions");
    let script = format!(
        "./vmm run --kernel kernel --initrd initrd --cpu {COUNTED_CPU} --memory {MEMORY_MIB}M --control sock \
             --append 'console=ttyS0 quiet panic=-1' </dev/null >output 2>&1 &
         for step in $(seq 1 300); do
             grep -q '{REACHED}' output && break
             sleep 0.1
         done
         labx rounds sock {} || cat output\n",
        count(effort)
    );
    let job = Job {
        kernel: LAB,
        cpus: 1,
        memory_mib: 2048,
        clock: Clock::Instructions,
        talk: Talk::Output,
        limit: LIMIT,
        silence: None,
        modules: vec!["kvm".into()],
        files: vec![
            (product::vmm()?, "vmm".into()),
            (files.vmlinux(GUEST), "kernel".into()),
            (
                product::tiny_initramfs(&files.labx(), files.dir())?,
                "initrd".into(),
            ),
        ],
        out: None,
        script,
    };
    compare(&in_lab::run(&files, &job)?, "icount", ICOUNT)
}

/// A row each for suspend and resume.
fn compare(said: &str, clock: &str, recorded: [(&str, f64); 2]) -> Result<Vec<Row>> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK));
    let line = line.with_context(|| format!("no figures of suspends:\n{said}"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    let mut rows = Vec::new();
    for (what, theirs) in recorded {
        let figure = words.iter().skip_while(|word| **word != what).nth(1);
        let ours: f64 = figure
            .and_then(|figure| figure.parse().ok())
            .with_context(|| format!("no figure of {what}: {line:?}"))?;
        rows.push(Row {
            bench: format!("{what} over the control socket, {clock}"),
            ours: ours.into(),
            unit: "ms".into(),
            against: FIRECRACKER.into(),
            theirs: theirs.into(),
            ratio: (ours / theirs).into(),
            target: "< 1".into(),
            met: (ours < theirs).into(),
            why: String::new(),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_suspend_and_resume_has_a_row() {
        let rows = compare("noise\nrounds suspend 0.2 resume 0.4\r\n", "icount", ICOUNT).unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.bench.as_str(), row.ours.as_f64(), row.met.as_bool()))
            .collect();
        let (suspend, resume) = (
            "suspend over the control socket, icount",
            "resume over the control socket, icount",
        );
        assert_eq!(
            seen,
            [
                (suspend, Some(0.2), Some(true)),
                (resume, Some(0.4), Some(false))
            ]
        );
        assert!(compare("rounds suspend x resume 1\n", "native", NATIVE).is_err());
        assert!(compare("nothing", "native", NATIVE).is_err());
    }
}
