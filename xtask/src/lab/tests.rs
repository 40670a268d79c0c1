// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What `cargo xtask lab test` checks, as data. The scripts run in the lab's `/job`, which holds
//! `vmm`, `guest.cpio`, `e2fs.cpio`, `xen`, `vmlinux-K`, `vmlinuz-K` and `modules-K.cpio` for both guest
//! kernels, and the KVM engine's test programs as `test-NAME`.

mod attach;
mod beside;
mod clocks;
mod disks;
mod files;
mod kernels;
mod power;

use self::beside::{start, type_a_line};
use super::setup::Kernel;

/// One check: a script, and what its end and output must be.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) name: String,
    /// The lab's own kernel.
    pub(crate) lab: Kernel,
    /// CPUs of the lab.
    pub(crate) cpus: u32,
    pub(crate) script: String,
    pub(crate) status: u8,
    /// All of these must be in the output.
    pub(crate) says: Vec<String>,
    /// None of these may be in it.
    pub(crate) lacks: Vec<&'static str>,
    pub(crate) limit_s: u32,
    /// Part of `--quick`.
    pub(crate) quick: bool,
}

const BOOT_LIMIT_S: u32 = 120;
const CONTRACT_LIMIT_S: u32 = 240;
const REACHED: &str = "vmm: guest userspace reached, uptime ";

/// Every check, given the engine's test programs and how much memory the lab has.
pub(crate) fn all(test_programs: &[String], lab_memory_mib: u32) -> Vec<Check> {
    let mut checks = Vec::new();
    for lab in [Kernel::V6_12, Kernel::V6_1] {
        for guest in Kernel::ALL {
            for image in ["vmlinux", "vmlinuz"] {
                checks.push(boots(lab, guest, image));
            }
        }
    }
    // The models of the loom program are not built without their cfg: they would prove nothing.
    for program in test_programs.iter().filter(|name| *name != "loom") {
        checks.push(contract(Kernel::V6_12, 1, program));
        checks.push(contract(Kernel::V6_12, 2, program));
        checks.push(contract(Kernel::V6_1, 1, program));
    }
    for guest in Kernel::ALL {
        checks.push(disks::carries(guest));
        checks.push(disks::full_host(guest));
        checks.push(attach::images(guest));
        checks.push(attach::ends(guest));
        checks.push(as_is(guest));
        checks.push(two_cpus(guest));
        checks.push(reset(guest));
    }
    checks.extend(kernels::checks());
    checks.push(files::ext4_killed());
    checks.push(files::checksums(64));
    checks.push(disks::rebooted());
    checks.push(disks::killed());
    for model in ["x86-64-v2", "x86-64-v3"] {
        checks.push(cpu_model(model));
    }
    checks.push(serial_input());
    for guest in Kernel::ALL {
        checks.push(console(guest));
    }
    checks.push(memory(lab_memory_mib));
    checks.push(reboot());
    checks.extend(power::checks());
    checks.push(clocks::suspended_smp());
    checks
}

/// Checks of lengths that CI does not wait for, `--full`.
pub(crate) fn long(lab_memory_mib: u32) -> Vec<Check> {
    // A lab's files are in its memory.
    let mib = if lab_memory_mib >= 8192 { 1024 } else { 512 };
    vec![files::checksums(mib)]
}

/// Checks of what takes how long, in a lab whose clock is driven by instructions: no load of the
/// host, and no other lab, is in their figures.
pub(crate) fn counted() -> Vec<Check> {
    let mut checks = clocks::suspended();
    checks.push(clocks::idle());
    checks
}

fn run(image: &str, cpus: u32, memory: &str, options: &str, guest: &str) -> String {
    format!(
        "./vmm run --kernel {image} --initrd guest.cpio --cpus {cpus} --memory {memory} {options} \
         --append 'console=ttyS0 quiet panic=-1 guest={guest}'"
    )
}

/// A guest whose drivers come in an initrd of their own; Linux unpacks both.
fn run_with_drivers(guest: Kernel, options: &str, word: &str) -> String {
    let kernel = guest.name();
    let options = format!("--initrd modules-{kernel}.cpio {options}");
    run(&format!("vmlinux-{kernel}"), 1, "256M", &options, word)
}

fn boots(lab: Kernel, guest: Kernel, image: &str) -> Check {
    let image_file = format!("{image}-{}", guest.name());
    Check {
        name: format!("{image_file} reaches userspace and powers off"),
        lab,
        cpus: 1,
        script: run(&image_file, 1, "256M", "", "once"),
        status: 0,
        says: vec![REACHED.into(), " s, 1 CPU(s)".into()],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: BOOT_LIMIT_S,
        quick: lab == Kernel::V6_12 && image == "vmlinux",
    }
}

fn contract(lab: Kernel, cpus: u32, program: &str) -> Check {
    Check {
        name: format!("vm-cpu-kvm tests pass: {program}"),
        lab,
        cpus,
        script: format!("exec ./test-{program} --nocapture"),
        status: 0,
        says: vec!["test result: ok".into()],
        // The lab has all of KVM: a test that is skipped there is run nowhere.
        lacks: vec!["skipped:"],
        limit_s: CONTRACT_LIMIT_S,
        quick: lab == Kernel::V6_12 && cpus == 1,
    }
}

/// The kernel's own decompressor runs in the guest.
fn as_is(guest: Kernel) -> Check {
    let kernel = guest.name();
    Check {
        name: format!("vmlinuz-{kernel} entered as is decompresses itself and reaches userspace"),
        lab: Kernel::V6_12,
        cpus: 1,
        script: run(
            &format!("vmlinuz-{kernel}"),
            1,
            "512M",
            "--kernel-form as-is",
            "once",
        ),
        status: 0,
        says: vec![REACHED.into(), " s, 1 CPU(s)".into()],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: 2 * BOOT_LIMIT_S,
        quick: false,
    }
}

fn cpu_model(model: &str) -> Check {
    Check {
        name: format!("a guest boots with CPU model {model}"),
        lab: Kernel::V6_12,
        cpus: 2,
        script: run("vmlinux-6.12", 2, "256M", &format!("--cpu {model}"), "once"),
        status: 0,
        says: vec![REACHED.into(), " s, 2 CPU(s)".into()],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

fn two_cpus(guest: Kernel) -> Check {
    let kernel = guest.name();
    Check {
        name: format!("a guest with {kernel} sees both its CPUs"),
        lab: Kernel::V6_12,
        cpus: 2,
        script: run(&format!("vmlinux-{kernel}"), 2, "256M", "", "once"),
        status: 0,
        says: vec![REACHED.into(), " s, 2 CPU(s)".into()],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

/// A line longer than the 16550's FIFO, sent when the guest waits for it.
fn serial_input() -> Check {
    let line = "serial-".repeat(30);
    let vmm = run("vmlinux-6.1", 1, "256M", "", "echo");
    let typed = type_a_line(&vmm, &line);
    let script = format!("{typed}\ncat output\nexit $status");
    Check {
        name: "serial input reaches the guest whole and is echoed".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: vec![format!(
            "vmm: guest read {} characters: [{line}]",
            line.len()
        )],
        lacks: Vec::new(),
        limit_s: BOOT_LIMIT_S,
        quick: true,
    }
}

/// A line in, much more than the outbox holds out.
fn console(guest: Kernel) -> Check {
    let line = "console-".repeat(30);
    let kernel = guest.name();
    let vmm = run_with_drivers(guest, "--console virtio", "console");
    let typed = type_a_line(&vmm, &line);
    let script = format!(
        "{typed}
         seq 1 100000 >pattern
         sed -n '/^1$/,/^100000$/p' output | cmp - pattern && echo 'every line came out'
         grep vmm: output
         exit $status"
    );
    Check {
        name: format!("a virtio console of a guest with {kernel} carries both ways"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: vec![
            format!("vmm: guest read {} characters: [{line}]", line.len()),
            "every line came out".into(),
            "vmm: guest said it all".into(),
        ],
        lacks: vec!["Kernel panic", "Call Trace", "cannot load"],
        limit_s: BOOT_LIMIT_S,
        quick: guest == Kernel::V6_12,
    }
}

fn memory(lab_memory_mib: u32) -> Check {
    let (asked, mib) = if lab_memory_mib >= 8192 {
        ("6G", 6144)
    } else {
        ("1G", 1024)
    };
    // The first MiB has holes: a page for the firmware, the video memory and ROM range.
    let (vmm, least) = (run("vmlinux-6.1", 1, asked, "", "memory"), mib - 2);
    let script = format!(
        "{vmm} >output 2>&1
         status=$?
         cat output
         seen=$(sed -n 's/.*guest RAM \\([0-9]*\\) MiB.*/\\1/p' output)
         [ \"${{seen:-0}}\" -ge {least} ] && echo 'all memory is seen'
         exit $status"
    );
    Check {
        name: format!("a guest with --memory {asked} sees all of it"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: vec!["all memory is seen".into()],
        lacks: Vec::new(),
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

fn reboot() -> Check {
    Check {
        name: "a reboot under --no-reboot ends with status 0".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script: run("vmlinux-6.1", 1, "256M", "--no-reboot", "reboot"),
        status: 0,
        says: vec![REACHED.into()],
        lacks: vec!["Kernel panic"],
        limit_s: BOOT_LIMIT_S,
        quick: true,
    }
}

/// The guest reboots again and again; the second time it comes up is enough.
fn reset(guest: Kernel) -> Check {
    let kernel = guest.name();
    let vmm = run(&format!("vmlinux-{kernel}"), 1, "256M", "", "reboot");
    let start = start(&vmm);
    let script = format!(
        "{start}
         told 'userspace reached' 2 && echo 'it came up again'
         kill -TERM $machine
         wait $machine
         status=$?
         cat output
         exit $status"
    );
    Check {
        name: format!("a guest with {kernel} that reboots comes up again"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: vec!["it came up again".into()],
        lacks: vec!["Kernel panic"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

#[cfg(test)]
mod the_list {
    use super::*;

    #[test]
    fn every_check_of_one_lab_has_a_name_of_its_own() {
        let checks = all(&["contract".into()], 8192);
        let (long, counted) = (long(8192), counted());
        let mut keys: Vec<_> = checks
            .iter()
            .chain(&long)
            .chain(&counted)
            .map(|c| (c.lab, c.cpus, c.name.clone()))
            .collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert!(checks.iter().any(|check| check.quick));
    }

    #[test]
    fn a_small_lab_gets_a_smaller_memory_check() {
        assert!(memory(8192).script.contains("--memory 6G"));
        assert!(memory(2048).script.contains("--memory 1G"));
    }
}
