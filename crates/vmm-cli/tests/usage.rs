// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the user gets wrong is said in one line that names it, with exit status 2, and nothing
//! is started.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod needs_kvm;
mod pvh;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use needs_kvm::kvm;
use tempfile::TempDir;

fn vmm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// Runs and asserts a refusal: status 2, one line, each of `words` in it, no output.
fn refused(args: &[&str], words: &[&str]) {
    let output = vmm(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert!(
        output.stdout.is_empty(),
        "{args:?} printed {:?}",
        output.stdout
    );
    assert_eq!(
        errors.lines().count(),
        1,
        "{args:?}: not one line:\n{errors}"
    );
    for word in words {
        assert!(errors.contains(word), "{args:?}: no {word:?} in {errors}");
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path)
    }
    fn missing(&self) -> String {
        text(&self.0.path().join("missing"))
    }
    fn dir(&self) -> String {
        text(self.0.path())
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// An ELF32 kernel with a PVH note and one segment at 1 MiB: `hlt`.
fn kernel() -> Vec<u8> {
    pvh::elf(0x10_0000, &[0xf4])
}

#[test]
fn a_kernel_that_is_missing_empty_or_a_directory_is_named() {
    let files = Files::new();
    refused(&["run", "--kernel", &files.missing()], &["missing"]);
    let empty = files.put("empty", b"");
    refused(&["run", "--kernel", &empty], &["empty"]);
    refused(
        &["run", "--kernel", &files.dir()],
        &[&files.dir(), "directory"],
    );
    refused(&["run"], &["--kernel"]);
}

#[test]
fn a_kernel_that_is_noise_or_truncated_is_named_with_what_was_found() {
    let files = Files::new();
    let noise = files.put("noise", &[0xa5; 4096]);
    refused(&["run", "--kernel", &noise], &["noise", "a5a5"]);
    let whole = kernel();
    for cut in [5, 40, 60, 100, whole.len() - 1] {
        let path = files.put("cut", &whole[..cut]);
        refused(&["run", "--kernel", &path], &["cut"]);
    }
}

#[test]
fn an_initrd_that_is_missing_or_a_directory_is_named() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    refused(
        &["run", "--kernel", &kernel, "--initrd", &files.missing()],
        &["missing"],
    );
    refused(
        &["run", "--kernel", &kernel, "--initrd", &files.dir()],
        &["directory"],
    );
}

#[test]
fn a_disk_that_cannot_be_is_named_with_what_would_be_right() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    let odd = files.put("odd.img", &[0; 1000]);
    let refused = |disk: &str, words: &[&str]| {
        refused(&["run", "--kernel", &kernel, "--disk", disk], words);
    };
    refused(&files.missing(), &["disk", "missing"]);
    refused(&format!("{},ro", files.missing()), &["disk", "missing"]);
    refused(&files.dir(), &[&files.dir(), "directory"]);
    refused(&odd, &["odd.img", "1000 bytes", "512"]);
    refused("/dev/null", &["/dev/null", "character device"]);
    refused(",ro", &["--disk"]);
    let config = files.put("vm.toml", b"[[disk]]\npaht = 'x'\n");
    self::refused(
        &["run", "--config", &config, "--kernel", &kernel],
        &["disk.0.paht", "path"],
    );
}

#[test]
fn a_disk_that_is_given_twice_is_refused_and_so_is_one_too_many() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    let disk = files.put("disk.img", &[0; 1024]);
    refused(
        &["run", "--kernel", &kernel, "--disk", &disk, "--disk", &disk],
        &["disk.img", "in use"],
    );
    let read_only = format!("{disk},ro");
    let mut args = vec!["run", "--kernel", &kernel, "--rng"];
    for _ in 0..16 {
        args.extend(["--disk", &read_only]);
    }
    refused(&args, &["17", "16"]);
}

#[test]
fn vcpu_counts_that_cannot_be_are_refused_with_the_range() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    for cpus in ["0", "65", "4294967295"] {
        refused(&["run", "--kernel", &kernel, "--cpus", cpus], &[cpus, "64"]);
    }
}

#[test]
fn memory_sizes_that_cannot_be_are_refused_with_what_would_be_right() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    refused(
        &["run", "--kernel", &kernel, "--memory", "0"],
        &["memory", "0"],
    );
    refused(
        &["run", "--kernel", &kernel, "--memory", "64K"],
        &["memory"],
    );
    refused(&["run", "--kernel", &kernel, "--memory", "12Q"], &["12Q"]);
    refused(&["run", "--kernel", &kernel, "--memory", "-1"], &["-1"]);
    refused(
        &["run", "--kernel", &kernel, "--memory", "1000000G"],
        &["memory", "host"],
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    let config = files.put("vm.toml", b"[vm]\ncpuss = 2\n");
    refused(
        &["run", "--config", &config, "--kernel", &kernel],
        &["vm.toml", "vm.cpuss", "vm.cpus?"],
    );
    refused(
        &["run", "--kernel", &kernel, "--set", "vm.memroy=1G"],
        &["vm.memroy", "memory"],
    );
}

#[test]
fn a_config_that_does_not_parse_is_named_with_its_line() {
    let files = Files::new();
    let config = files.put("bad.toml", b"[vm]\ncpus = = 2\n");
    refused(&["run", "--config", &config], &["bad.toml", "2"]);
    refused(&["run", "--config", &files.dir()], &["directory"]);
    refused(&["run", "--config", &files.missing()], &["missing"]);
}

#[test]
fn a_set_that_does_not_parse_is_named() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    for set in ["vm.cpus", "=2", "vm..cpus=2", ""] {
        refused(
            &["run", "--kernel", &kernel, "--set", set],
            &["--set", "path.to.key=value"],
        );
    }
    refused(
        &["run", "--kernel", &kernel, "--set", "vm.cpus=two"],
        &["vm.cpus", "two", "64"],
    );
}

#[test]
fn a_debug_exit_port_that_is_none_is_refused() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    for port in ["0x10000", "none", "-3"] {
        refused(
            &["run", "--kernel", &kernel, "--debug-exit", port],
            &["run.debug_exit", "65535"],
        );
    }
}

#[test]
fn an_engine_or_cpu_model_that_is_unknown_is_refused_with_the_known_ones() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    refused(
        &["run", "--kernel", &kernel, "--engine", "xen"],
        &["xen", "kvm"],
    );
    refused(
        &["run", "--kernel", &kernel, "--cpu", "486"],
        &["486", "host"],
    );
    refused(
        &["run", "--kernel", &kernel, "--cpu", "x86-64-v9"],
        &["x86-64-v9", "x86-64-v3"],
    );
    refused(
        &["run", "--kernel", &kernel, "--cpu", "host,-avx3"],
        &["-avx3", "vm.cpu", "avx2, "],
    );
}

#[test]
fn kernel_forms_that_do_not_fit_are_refused_by_name() {
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    let run = ["run", "--kernel", &kernel];
    let refused = |rest: &[&str], words: &[&str]| refused(&[&run, rest].concat(), words);
    refused(&["--kernel-form", "as-is"], &["kernel", "bzImage"]);
    refused(&["--kernel-form", "as-is-32"], &["kernel", "bzImage"]);
    refused(&["--load-address", "0x200000"], &["--kernel-form flat"]);
    refused(
        &["--kernel-form", "flat", "--load-address", "0x1000"],
        &["load_address"],
    );
}

#[test]
fn wrong_flags_end_with_status_2() {
    let output = vmm(&["run", "--kernal", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--kernel"));
    assert_eq!(vmm(&[]).status.code(), Some(2));
    assert_eq!(vmm(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_place_for_a_bundle_that_cannot_be_is_named_before_anything_runs() {
    if !kvm() {
        return;
    }
    let files = Files::new();
    let kernel = files.put("kernel", &kernel());
    let refused = |place: &str, words: &[&str]| {
        refused(&["run", "--kernel", &kernel, "--bundle", place], words);
    };
    refused(&files.dir(), &[&files.dir(), "exists"]);
    let nowhere = format!("{}/b", files.missing());
    refused(&nowhere, &[&files.missing(), "not a directory"]);
}

#[test]
fn a_guest_that_dies_leaves_a_bundle_and_status_4() {
    if !kvm() {
        return;
    }
    let files = Files::new();
    // ud2, and no IDT: a triple fault.
    let kernel = files.put("kernel", &pvh::elf(0x10_0000, &[0x0f, 0x0b]));
    let place = files.0.path().join("b");
    let output = vmm(&[
        "run",
        "--kernel",
        &kernel,
        "--memory",
        "16M",
        "--bundle",
        &text(&place),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(
        errors.contains(&format!("see {}", place.display())),
        "{errors}"
    );
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    let report = read("report.txt");
    for word in ["triple fault", "rip 0000000000100000", "GURU_MEDITATION"] {
        assert!(report.contains(word), "no {word} in {report}");
    }
    assert!(read("config.toml").contains("--bundle"));
    assert!(read("pages/ioapic.txt").len() > 1);
    assert!(
        read("log.txt").contains("GURU_MEDITATION"),
        "{}",
        read("log.txt")
    );
    assert!(read("stats.openmetrics").ends_with("# EOF\n"));
}

/// What a guest does at the end is tested where KVM is; the same images serve both.
#[test]
fn a_kernel_segment_outside_memory_is_refused_with_its_address() {
    if !kvm() {
        return;
    }
    let files = Files::new();
    let kernel = files.put("kernel", &pvh::elf(0x4000_0000, &[0xf4]));
    refused(
        &["run", "--kernel", &kernel, "--memory", "64M"],
        &["kernel", "0x40000000"],
    );
}
