// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the lab's init cannot do in shell: end QEMU with a status, hold VMs open, measure.
//!
//! One file without dependencies, so that the lab setup builds it with rustc alone in a second.
//! Verbs: `exit N`, `hold`, `now`, `run CMD...`, `until MARKER SECONDS GUEST_MIB CMD...`,
//! `io PATH MIB COUNT`, `rounds SOCKET COUNT`.
//! As process 1 it is the smallest guest: it says that it was reached, and waits.

// UNSAFETY: port I/O, KVM ioctls and wait4 have no wrapper in std, and there is no dependency.
#![expect(
    unsafe_code,
    reason = "port I/O, ioctls and wait4 without a libc crate"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Error, Read as _, Result, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// isa-debug-exit of the lab: QEMU ends with status (value << 1) | 1.
const EXIT_PORT: u16 = 0xf4;
const KVM_CREATE_VM: c_ulong = 0xae01;
const KVM_CREATE_VCPU: c_ulong = 0xae41;
const KVM_CREATE_IRQCHIP: c_ulong = 0xae60;
const KVM_GET_SREGS: c_ulong = 0x8138_ae83;
const KVM_SET_SREGS: c_ulong = 0x4138_ae84;
/// Offset of `apic_base` in `struct kvm_sregs` (312 bytes), Linux `asm/kvm.h`.
const SREGS_APIC_BASE: usize = 272;
/// `struct rusage` is 18 longs on x86-64: two timevals, then `ru_maxrss`.
const RUSAGE_MAXRSS: usize = 4;
/// Past the page cache, x86-64 `asm/fcntl.h`.
const O_DIRECT: c_int = 0o40_000;
const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

unsafe extern "C" {
    fn iopl(level: c_int) -> c_int;
    fn tcdrain(fd: c_int) -> c_int;
    fn sync();
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut [c_long; 18]) -> c_int;
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        println!("guest init reached");
        loop {
            std::thread::park();
        }
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["exit", status] => exit(status.parse().unwrap_or(125)).map(|()| 0),
        ["hold"] => hold().map(|()| 0),
        ["holding"] => holding().map(|()| 0),
        ["now"] => now().map(|()| 0),
        ["run", command @ ..] if !command.is_empty() => run(command),
        ["until", marker, seconds, mib, command @ ..] if !command.is_empty() => {
            until(marker, seconds, mib, command)
        }
        ["io", path, mib, count] => io(path, mib, count).map(|()| 0),
        ["rounds", socket, count] => rounds(socket, count).map(|()| 0),
        _ => {
            eprintln!(
                "usage: labx exit N | hold | now | run CMD... | until MARKER S MIB CMD... | \
                 io PATH MIB COUNT | rounds SOCKET COUNT"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("labx: {error}");
            ExitCode::from(125)
        }
    }
}

fn check(rc: c_int) -> Result<c_int> {
    if rc < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// Lets the serial console drain, then ends QEMU; the status is sent plus one, so that QEMU's own
/// status 1 (it could not start) stays apart.
fn exit(status: u8) -> Result<()> {
    // SAFETY: sync takes nothing and returns nothing.
    unsafe { sync() };
    if let Ok(serial) = File::options().write(true).open("/dev/ttyS0") {
        // SAFETY: the file is open for the length of the call.
        unsafe { tcdrain(serial.as_raw_fd()) };
    }
    // SAFETY: asks for port access for this process only.
    check(unsafe { iopl(3) })?;
    let value = u32::from(status) + 1;
    // SAFETY: iopl(3) allows port output; the port belongs to QEMU's isa-debug-exit device.
    unsafe {
        std::arch::asm!("out dx, eax", in("dx") EXIT_PORT, in("eax") value, options(nomem, nostack));
    }
    Ok(())
}

/// Starts the holder and returns when it holds.
fn hold() -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg("holding")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let Some(out) = child.stdout.take() else {
        return Ok(());
    };
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.trim() == "held" {
        Ok(())
    } else {
        Err(Error::other("cannot hold VMs on /dev/kvm"))
    }
}

/// Keeps enabled for good what KVM counts in static keys: any VM (preempt notifiers), a vCPU
/// without a local APIC, one whose local APIC is off by software, one whose is off by hardware.
fn holding() -> Result<()> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let bare_vm = create(kvm.as_raw_fd(), KVM_CREATE_VM, 0)?;
    let vm = create(kvm.as_raw_fd(), KVM_CREATE_VM, 0)?;
    // SAFETY: KVM_CREATE_IRQCHIP takes no argument.
    check(unsafe { ioctl(vm.as_raw_fd(), KVM_CREATE_IRQCHIP, 0) })?;
    let bare_vcpu = create(bare_vm.as_raw_fd(), KVM_CREATE_VCPU, 0)?;
    let soft_off = create(vm.as_raw_fd(), KVM_CREATE_VCPU, 0)?;
    let hard_off = create(vm.as_raw_fd(), KVM_CREATE_VCPU, 1)?;
    let mut sregs = [0_u64; 39];
    let at: *mut c_void = (&raw mut sregs).cast();
    // SAFETY: the buffer has the 312 bytes of struct kvm_sregs.
    check(unsafe { ioctl(hard_off.as_raw_fd(), KVM_GET_SREGS, at) })?;
    sregs[SREGS_APIC_BASE / 8] = 0xfee0_0000;
    let at: *mut c_void = (&raw mut sregs).cast();
    // SAFETY: as above.
    check(unsafe { ioctl(hard_off.as_raw_fd(), KVM_SET_SREGS, at) })?;
    println!("held");
    loop {
        std::thread::park();
        std::hint::black_box((&bare_vcpu, &soft_off, &hard_off));
    }
}

fn create(fd: c_int, request: c_ulong, argument: c_ulong) -> Result<OwnedFd> {
    // SAFETY: the two create requests take an integer.
    let fd = check(unsafe { ioctl(fd, request, argument) })?;
    // SAFETY: the kernel has just made this file, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Time since boot in seconds.
fn now() -> Result<()> {
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    println!("{}", uptime.split(' ').next().unwrap_or_default());
    Ok(())
}

/// Runs a command and says its wall time and peak memory on standard error.
fn run(command: &[&str]) -> Result<u8> {
    let start = Instant::now();
    let child = Command::new(command[0]).args(&command[1..]).spawn()?;
    let (status, usage) = wait(&child)?;
    let wall = start.elapsed().as_secs_f64();
    eprintln!(
        "labx: wall {wall:.6} s, maxrss {} KiB, status {status:#x}",
        usage[RUSAGE_MAXRSS]
    );
    let code = if status & 0x7f == 0 {
        (status >> 8) & 0xff
    } else {
        128 + (status & 0x7f)
    };
    Ok(u8::try_from(code).unwrap_or(125))
}

fn wait(child: &Child) -> Result<(c_int, [c_long; 18])> {
    let pid = c_int::try_from(child.id()).map_err(Error::other)?;
    let (mut status, mut usage) = (0, [0; 18]);
    // SAFETY: both out-pointers are valid for the call, and the array is a struct rusage.
    check(unsafe { wait4(pid, &raw mut status, 0, &raw mut usage) })?;
    Ok((status, usage))
}

/// Runs a command until its output has `marker`, then prints `MS RSS_KIB` (the memory of the
/// process without mappings of guest memory's size or more) and kills it.
fn until(marker: &str, seconds: &str, guest_mib: &str, command: &[&str]) -> Result<u8> {
    let seconds: u64 = seconds.parse().map_err(Error::other)?;
    let guest_kib = guest_mib.parse::<u64>().map_err(Error::other)? << 10;
    let start = Instant::now();
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    // A command that hangs is killed by its own timer, which the kill below does not need.
    let mut timer = Command::new("/bin/busybox")
        .args(["sh", "-c", &format!("sleep {seconds}; kill -KILL {pid}")])
        .stdout(Stdio::null())
        .spawn()?;
    let (mut seen, mut byte) = (Vec::new(), [0]);
    let mut out = child.stdout.take().map(BufReader::new);
    let found = loop {
        let Some(out) = out.as_mut() else { break false };
        if out.read(&mut byte)? == 0 {
            break false;
        }
        seen.push(byte[0]);
        if seen.ends_with(marker.as_bytes()) {
            break true;
        }
    };
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let rss = if found {
        own_rss_kib(pid, guest_kib)?
    } else {
        0
    };
    child.kill()?;
    child.wait()?;
    timer.kill()?;
    timer.wait()?;
    if !found {
        eprintln!("{}", String::from_utf8_lossy(&seen));
        return Err(Error::other(format!(
            "no {marker:?} in the output within {seconds} s"
        )));
    }
    println!("{ms:.3} {rss}");
    Ok(0)
}

/// Sum of Rss over the mappings of /proc/PID/smaps that are smaller than guest memory.
fn own_rss_kib(pid: u32, guest_kib: u64) -> Result<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let field = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .ok()
    };
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        size = field(line, "Size:").unwrap_or(size);
        if let Some(rss) = field(line, "Rss:").filter(|_| size < guest_kib) {
            sum += rss;
        }
    }
    Ok(sum)
}

/// Overwrites and reads the first `mib` MiB of a file or disk past the cache: in order, a MiB at a
/// time, then `count` pages anywhere in it. Prints `io write MBPS read MBPS page-write IOPS page-read
/// IOPS`.
fn io(path: &str, mib: &str, count: &str) -> Result<()> {
    let mib: u64 = mib.parse().map_err(Error::other)?;
    let count: u64 = count.parse().map_err(Error::other)?;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(path)?;
    let mut space = vec![0x5a; MIB + PAGE];
    let skip = space.as_ptr().align_offset(PAGE);
    let buffer = &mut space[skip..skip + MIB];
    let in_order = |per_second: f64| per_second * 1.048_576;
    let write = in_order(rate(mib, |n| file.write_all_at(buffer, n << 20))?);
    let read = in_order(rate(mib, |n| file.read_exact_at(buffer, n << 20))?);
    // All of the pages would be a permutation: the factor is odd, and the number of pages even.
    let place = |n: u64| (n.wrapping_mul(2_654_435_761) % (mib << 8)) << 12;
    let page = &mut buffer[..PAGE];
    let page_write = rate(count, |n| file.write_all_at(page, place(n)))?;
    let page_read = rate(count, |n| file.read_exact_at(page, place(n)))?;
    println!(
        "io write {write:.1} read {read:.1} page-write {page_write:.1} page-read {page_read:.1}"
    );
    Ok(())
}

/// How often a second `step` can be done, over `count` times.
#[expect(
    clippy::cast_precision_loss,
    reason = "far below 2^53, and a rate is rounded anyway"
)]
fn rate(count: u64, mut step: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for n in 0..count {
        step(n)?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Suspends and resumes the VM behind a control socket, `count` times, as a client that stays
/// connected. Prints `rounds suspend MS resume MS`: medians, from the request's line to its reply's.
fn rounds(socket: &str, count: &str) -> Result<()> {
    let count: u32 = count.parse().map_err(Error::other)?;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut ask = |request: &str| {
        let (mut reply, start) = (String::new(), Instant::now());
        stream.write_all(request.as_bytes())?;
        replies.read_line(&mut reply)?;
        if reply.contains("\"ok\":true") {
            Ok(start.elapsed().as_secs_f64() * 1e3)
        } else {
            Err(Error::other(format!("{request}{reply}")))
        }
    };
    ask("{\"op\":\"wait\",\"until\":[\"RUNNING\"]}\n")?;
    let (mut suspends, mut resumes) = (Vec::new(), Vec::new());
    for _ in 0..count {
        suspends.push(ask("{\"op\":\"suspend\"}\n")?);
        resumes.push(ask("{\"op\":\"resume\"}\n")?);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let (suspend, resume) = (median(suspends), median(resumes));
    println!("rounds suspend {suspend:.4} resume {resume:.4}");
    Ok(())
}
