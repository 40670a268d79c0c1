// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs the checks of `cargo xtask lab test`: one boot of the lab for all checks that want the
//! same one, two labs at a time, one line for each check as it ends.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;

use super::qemu::{self, Clock, End, Job, Talk};
use super::setup::{Files, Kernel};
use super::tests::{self, Check};
use crate::product;

const MARK: &str = "@@check ";
const LABS_AT_ONCE: usize = 2;
const SPARE: Duration = Duration::from_secs(180);

#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// A few checks in one lab
    #[arg(long)]
    quick: bool,
    /// Long checks too: a gibibyte of a disk where CI takes a slice
    #[arg(long)]
    full: bool,
    /// Print what passing checks say, too
    #[arg(long)]
    show: bool,
    /// Only checks whose name contains this; may be repeated
    #[arg(long, value_name = "WORDS")]
    only: Vec<String>,
}

/// One lab and the checks that want it.
#[derive(Debug)]
struct Group {
    lab: Kernel,
    cpus: u32,
    clock: Clock,
    checks: Vec<Check>,
}

/// What became of the checks so far, and who prints.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

/// Runs them all; status 1 when one failed.
pub(crate) fn main(args: &Args) -> Result<u8> {
    let started = Instant::now();
    let files = Files::ensure(&Kernel::ALL)?;
    files.ensure_qemu()?;
    files.ensure_e2fs()?;
    files.ensure_xen()?;
    let programs = product::test_programs("vm-cpu-kvm")?;
    let vmm = product::vmm()?;
    let initrd = product::guest_initramfs(&files.busybox(), files.dir())?;
    let names: Vec<_> = programs
        .iter()
        .map(|program| program.name.clone())
        .collect();
    let memory_mib = lab_memory_mib()?;
    let wanted = |check: &Check| {
        (check.quick || !args.quick)
            && (args.only.is_empty() || args.only.iter().any(|words| check.name.contains(words)))
    };
    let mut checks = tests::all(&names, memory_mib);
    if args.full {
        checks.extend(tests::long(memory_mib));
    }
    checks.retain(wanted);
    let mut counted = tests::counted();
    counted.retain(wanted);
    let mut contents = vec![
        (vmm, "vmm".to_owned()),
        (initrd, "guest.cpio".to_owned()),
        (files.e2fs(), "e2fs.cpio".to_owned()),
        (files.xen(), "xen".to_owned()),
    ];
    for kernel in Kernel::ALL {
        contents.push((files.vmlinux(kernel), format!("vmlinux-{}", kernel.name())));
        contents.push((files.vmlinuz(kernel), format!("vmlinuz-{}", kernel.name())));
        let modules = format!("modules-{}.cpio", kernel.name());
        contents.push((files.guest_modules(kernel), modules));
    }
    contents.extend(
        programs
            .into_iter()
            .map(|p| (p.path, format!("test-{}", p.name))),
    );

    let mut groups = group(checks, Clock::Wall);
    groups.extend(group(counted, Clock::Instructions));
    let groups = Mutex::new(groups);
    let tally = Mutex::new(Tally::default());
    let lab = Lab {
        files: &files,
        contents: &contents,
        memory_mib,
        show: args.show,
        tally: &tally,
    };
    std::thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for n in 0..LABS_AT_ONCE {
            let worker = || -> Result<()> {
                loop {
                    // Taken in a statement of its own, so that the lock is free during the run.
                    let next = locked(&groups).pop_front();
                    let Some(group) = next else { break };
                    lab.run(&group)?;
                }
                Ok(())
            };
            let builder = std::thread::Builder::new().name(format!("lab-{n}"));
            workers.push(builder.spawn_scoped(scope, worker)?);
        }
        // An error of either ends the task, but only when both labs have ended.
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })?;
    let Tally { passed, failed } = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{passed} passed, {failed} failed ({} s)",
        started.elapsed().as_secs()
    );
    Ok(u8::from(failed > 0 || passed == 0))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn group(checks: Vec<Check>, clock: Clock) -> VecDeque<Group> {
    let mut groups: BTreeMap<(Kernel, u32), Vec<Check>> = BTreeMap::new();
    for check in checks {
        groups
            .entry((check.lab, check.cpus))
            .or_default()
            .push(check);
    }
    let mut groups: VecDeque<_> = groups
        .into_iter()
        .map(|((lab, cpus), checks)| Group {
            lab,
            cpus,
            clock,
            checks,
        })
        .collect();
    // The longest first, so that the two workers end at about the same time.
    groups
        .make_contiguous()
        .sort_by_key(|group| std::cmp::Reverse(group.checks.len()));
    groups
}

/// 8 GiB where the host has memory to spare; an emulated machine touches little of it.
fn lab_memory_mib() -> Result<u32> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    let kib = kib.context("/proc/meminfo has no MemAvailable")?;
    Ok(if kib >= 8 << 20 { 8192 } else { 2560 })
}

#[derive(Debug)]
struct Lab<'a> {
    files: &'a Files,
    contents: &'a [(PathBuf, String)],
    memory_mib: u32,
    /// Print the output of passing checks.
    show: bool,
    tally: &'a Mutex<Tally>,
}

impl Lab<'_> {
    /// All checks of a group. A lab that breaks under a check is booted once more for it.
    fn run(&self, group: &Group) -> Result<()> {
        let (mut from, mut broke_at) = (0, None);
        while from < group.checks.len() {
            let mut reader = Reader::new(self, group, from);
            let end = qemu::run(self.files, &self.job(group, from)?, &mut |bytes| {
                reader.take(bytes);
            })?;
            let reached = reader.next;
            let output = reader.output;
            match end {
                End::Status(_) if reached == group.checks.len() => return Ok(()),
                End::Signal(number) => anyhow::bail!("ended by signal {number}"),
                End::Status(_) | End::Late | End::Broken { .. } => {
                    let reason = match end {
                        End::Broken { reason, .. } => reason,
                        End::Late => "the lab's time limit passed, or it fell silent".to_owned(),
                        End::Status(_) | End::Signal(_) => "the lab ended early".to_owned(),
                    };
                    from = reached;
                    let Some(check) = group.checks.get(reached) else {
                        return Ok(());
                    };
                    if broke_at == Some(reached) {
                        self.verdict(group, check, 0.0, Err(format!("{output}\n{reason}")));
                        from = reached + 1;
                    } else {
                        eprintln!("lab: {reason}\nlab: booting it again for: {}", check.name);
                        broke_at = Some(reached);
                    }
                }
            }
        }
        Ok(())
    }

    fn job(&self, group: &Group, from: usize) -> Result<Job> {
        let checks = group.checks.get(from..).context("checks are left")?;
        let limit: u32 = checks.iter().map(|check| check.limit_s).sum();
        // The lab's clock may stand still.
        let longest = checks.iter().map(|check| check.limit_s).max();
        let silence = longest.map(|limit| Duration::from_secs(limit.into()) + SPARE / 2);
        let mut script = String::from("cd /job\n");
        for (n, check) in checks.iter().enumerate() {
            let (n, limit) = (from + n, check.limit_s);
            // Each check has a directory of its own to write in; the mark starts a line.
            script.push_str(&format!(
                "mkdir -p /tmp/{n} && cp -s /job/* /tmp/{n}/ && cd /tmp/{n}\n\
                 cat >/tmp/{n}/check.sh <<'END-OF-CHECK'\n{}\nEND-OF-CHECK\n\
                 echo '{MARK}{n} begins'\n\
                 timeout -s KILL {limit} sh check.sh </dev/null 2>&1\n\
                 printf '\\n{MARK}{n} ended %s\\n' $?\n\
                 killall -q -KILL vmm\n",
                check.script
            ));
        }
        Ok(Job {
            kernel: group.lab,
            cpus: group.cpus,
            memory_mib: self.memory_mib,
            clock: group.clock,
            talk: Talk::Output,
            limit: Duration::from_secs(limit.into()) + SPARE,
            silence,
            modules: vec!["kvm".into()],
            files: self.contents.to_vec(),
            out: None,
            script,
        })
    }

    fn verdict(&self, group: &Group, check: &Check, seconds: f64, end: Result<(), String>) {
        let mut tally = locked(self.tally);
        let place = format!("[lab {}, {} cpu]", group.lab.name(), group.cpus);
        match end {
            Ok(()) => {
                tally.passed += 1;
                println!("ok     {seconds:6.1} s  {place} {}", check.name);
            }
            Err(output) => {
                tally.failed += 1;
                println!("FAILED {seconds:6.1} s  {place} {}\n{output}", check.name);
            }
        }
    }
}

/// Reads the lab's output, check by check.
#[derive(Debug)]
struct Reader<'a> {
    lab: &'a Lab<'a>,
    group: &'a Group,
    /// The check that is running or comes next.
    next: usize,
    began: Instant,
    line: Vec<u8>,
    output: String,
}

impl<'a> Reader<'a> {
    fn new(lab: &'a Lab<'a>, group: &'a Group, from: usize) -> Self {
        let (line, output) = (Vec::new(), String::new());
        Self {
            lab,
            group,
            next: from,
            began: Instant::now(),
            line,
            output,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(String::from_utf8_lossy(&line).trim_end());
            } else {
                self.line.push(byte);
            }
        }
    }

    fn take_line(&mut self, line: &str) {
        let Some(mark) = line.strip_prefix(MARK) else {
            self.output.push_str(line);
            self.output.push('\n');
            return;
        };
        match mark.rsplit_once(" ended ") {
            None => {
                self.began = Instant::now();
                self.output.clear();
            }
            Some((_, status)) => {
                if let Some(check) = self.group.checks.get(self.next) {
                    let seconds = self.began.elapsed().as_secs_f64();
                    let end = judge(check, status, seconds, &self.output);
                    let passed = end.is_ok();
                    self.lab.verdict(self.group, check, seconds, end);
                    if passed && self.lab.show {
                        println!("{}", self.output);
                    }
                }
                self.next += 1;
                self.output.clear();
            }
        }
    }
}

/// Everything wrong with the end of a check, behind its output. `seconds` are the host's: a check
/// that was killed long before its limit was killed by something else, or the lab's clock is off.
fn judge(check: &Check, status: &str, seconds: f64, output: &str) -> Result<(), String> {
    let mut wrong = Vec::new();
    if status != check.status.to_string() {
        let killed = match status {
            "137" => format!(" (killed after {seconds:.0} s, limit {} s)", check.limit_s),
            _ => String::new(),
        };
        wrong.push(format!("status {status}{killed}, not {}", check.status));
    }
    for words in check
        .says
        .iter()
        .filter(|words| !output.contains(words.as_str()))
    {
        wrong.push(format!("its output lacks {words:?}"));
    }
    for words in check.lacks.iter().filter(|words| output.contains(**words)) {
        wrong.push(format!("its output has {words:?}"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{output}-> {}", wrong.join("\n-> ")))
    }
}

#[cfg(test)]
mod tests_of_the_reader {
    use super::*;

    fn check(name: &str) -> Check {
        Check {
            name: name.into(),
            lab: Kernel::V6_12,
            cpus: 1,
            script: String::new(),
            status: 4,
            says: vec!["hello".into()],
            lacks: vec!["panic"],
            limit_s: 1,
            quick: true,
        }
    }

    #[test]
    fn status_and_output_both_decide() {
        let check = check("x");
        assert_eq!(judge(&check, "4", 1.0, "hello\n"), Ok(()));
        assert!(
            judge(&check, "0", 1.0, "hello\n")
                .unwrap_err()
                .contains("status 0, not 4")
        );
        assert!(
            judge(&check, "4", 1.0, "")
                .unwrap_err()
                .contains("lacks \"hello\"")
        );
        assert!(
            judge(&check, "4", 1.0, "hello panic")
                .unwrap_err()
                .contains("has \"panic\"")
        );
        assert!(
            judge(&check, "137", 17.0, "hello")
                .unwrap_err()
                .contains("killed after 17 s, limit 1 s")
        );
    }

    #[test]
    fn output_is_told_apart_by_check_in_whatever_pieces_it_comes() {
        let files = Files::at(PathBuf::from("/nonexistent"));
        let tally = Mutex::new(Tally::default());
        let lab = Lab {
            files: &files,
            contents: &[],
            memory_mib: 0,
            show: false,
            tally: &tally,
        };
        let checks = vec![check("a"), check("b"), check("c")];
        let group = Group {
            lab: Kernel::V6_12,
            cpus: 1,
            clock: Clock::Wall,
            checks,
        };
        let mut reader = Reader::new(&lab, &group, 0);
        let stream = b"noise\n@@check 0 begins\nhello\n\n@@check 0 ended 4\n@@check 1 begins\n\
            no newline\n@@check 1 ended 4\n@@check 2 begins\nhel";
        for piece in stream.chunks(3) {
            reader.take(piece);
        }
        assert_eq!(reader.next, 2);
        let tally = locked(&tally);
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }
}
