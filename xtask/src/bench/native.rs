// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What `vmm` itself costs on this host's own KVM: the start of a VM with 1 and with 64 vCPUs, its
//! threads and its memory. What the guest does meanwhile does not matter.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Effort, Row};
use crate::lab::setup::{Files, Kernel};
use crate::{product, sys, workspace};

const MEMORY_MIB: u64 = 256;
const LIMIT: Duration = Duration::from_secs(30);
const TARGET_MS: f64 = 1000.0;

/// One VM, when it had just begun to run.
#[derive(Clone, Copy, Debug)]
struct Started {
    /// Process start to the reply that it runs.
    ms: f64,
    threads: f64,
    /// Resident memory without the guest's.
    own_kib: f64,
}

/// Starts VMs in turn; no rows where there is no KVM.
pub(super) fn rows(effort: Effort) -> Result<Vec<Row>> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: no /dev/kvm for the start of VMs on this host");
        return Ok(Vec::new());
    }
    let kernel = Files::ensure(&[Kernel::V6_1])?.vmlinux(Kernel::V6_1);
    let vmm = product::vmm()?;
    let rounds = if effort == Effort::Quick { 1 } else { 11 };
    eprintln!("{rounds} starts of VMs with 1 and with 64 vCPUs on this host");
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(start(&vmm, &kernel, 1)?);
        many.push(start(&vmm, &kernel, 64)?);
    }
    Ok(compare(&one, &many))
}

/// Runs a VM that is silent and ends with us.
pub(super) fn command(vmm: &Path, kernel: &Path, cpus: u32, socket: &Path) -> Command {
    let mut command = Command::new(vmm);
    command
        .args(["run", "--memory", &format!("{MEMORY_MIB}M")])
        .args(["--cpus", &cpus.to_string()])
        .arg("--kernel")
        .arg(kernel)
        .arg("--control")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::tie_to_us(&mut command);
    command
}

/// Starts a VM, looks at it when it runs, and kills it.
fn start(vmm: &Path, kernel: &Path, cpus: u32) -> Result<Started> {
    let socket = workspace::target().join(format!("bench-{}.sock", std::process::id()));
    let mut command = command(vmm, kernel, cpus, &socket);
    let begun = Instant::now();
    let mut child = command.spawn().context("cannot start vmm")?;
    let seen = look(&mut child, &socket, begun);
    child.kill()?;
    child.wait()?;
    // A killed VMM leaves its socket, which the next one replaces; the last is ours to remove.
    drop(std::fs::remove_file(&socket));
    seen.with_context(|| format!("a VM with {cpus} vCPUs on this host's KVM"))
}

fn look(child: &mut Child, socket: &Path, begun: Instant) -> Result<Started> {
    let mut peer = loop {
        match UnixStream::connect(socket) {
            Ok(peer) => break peer,
            Err(_) if begun.elapsed() < LIMIT && child.try_wait()?.is_none() => {
                std::thread::yield_now();
            }
            Err(error) => return Err(error).context("vmm has no control socket"),
        }
    };
    peer.set_read_timeout(Some(LIMIT))?;
    writeln!(peer, "{{\"op\":\"wait\",\"until\":[\"RUNNING\"]}}")?;
    let mut reply = String::new();
    BufReader::new(peer).read_line(&mut reply)?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    if !reply.contains("\"ok\":true") {
        bail!("it does not run: {reply}");
    }
    let proc = format!("/proc/{}", child.id());
    let status = std::fs::read_to_string(format!("{proc}/status"))?;
    let smaps = std::fs::read_to_string(format!("{proc}/smaps"))?;
    Ok(Started {
        ms,
        threads: field(&status, "Threads:").context("no count of threads")?,
        own_kib: own_kib(&smaps),
    })
}

/// The number behind `name` in the first line that begins with it.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Resident memory of all mappings that are smaller than the guest's.
#[expect(clippy::cast_precision_loss, reason = "a number of KiB")]
fn own_kib(smaps: &str) -> f64 {
    let guest_kib = (MEMORY_MIB << 10) as f64;
    let (mut size, mut sum) = (0.0, 0.0);
    for line in smaps.lines() {
        size = field(line, "Size:").unwrap_or(size);
        sum += field(line, "Rss:")
            .filter(|_| size < guest_kib)
            .unwrap_or(0.0);
    }
    sum
}

fn compare(one: &[Started], many: &[Started]) -> Vec<Row> {
    let median = |all: &[Started], of: fn(&Started) -> f64| {
        let mut values: Vec<_> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let row = |bench: &str, unit: &str, of: fn(&Started) -> f64| {
        let (ours, theirs) = (median(many, of), median(one, of));
        Row {
            bench: bench.into(),
            ours: ours.into(),
            unit: unit.into(),
            against: "a VM with 1 vCPU".into(),
            theirs: theirs.into(),
            ratio: (ours / theirs).into(),
            target: serde_json::Value::Null,
            met: serde_json::Value::Null,
            why: String::new(),
        }
    };
    let mut start = row("64 vCPUs, process start to RUNNING", "ms", |vm| vm.ms);
    start.target = format!("<= {TARGET_MS} ms").into();
    start.met = (median(many, |vm| vm.ms) <= TARGET_MS).into();
    vec![
        start,
        row("64 vCPUs, threads", "threads", |vm| vm.threads),
        row("64 vCPUs, memory without the guest's", "KiB", |vm| {
            vm.own_kib
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_64_vcpus_is_held_to_a_second() {
        let vm = |ms| Started {
            ms,
            threads: 65.0,
            own_kib: 100.0,
        };
        let rows = compare(&[vm(5.0)], &[vm(1500.0), vm(900.0), vm(10.0)]);
        assert_eq!(rows[0].ours.as_f64(), Some(900.0));
        assert_eq!(rows[0].met, true);
        assert_eq!(compare(&[vm(5.0)], &[vm(1001.0)])[0].met, false);
    }

    #[test]
    fn guest_memory_is_not_counted_as_ours() {
        let smaps = "Size: 262144 kB\nRss: 9000 kB\nSize: 8 kB\nRss: 4 kB\nRss: 3 kB\n";
        assert!((own_kib(smaps) - 7.0).abs() < 0.1);
    }
}
