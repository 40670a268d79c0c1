// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm run --control` and `vmm ctl` as programs, on a guest that spins, and `docs/control.md` against
//! them. One printed line where KVM does not open.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod needs_kvm;
mod pvh;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use needs_kvm::kvm;
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::Value;
use tempfile::TempDir;

/// Far beyond what anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// `cli; 1: jmp 1b`, loaded and entered at 1 MiB.
const SPIN: [u8; 3] = [0xfa, 0xeb, 0xfe];

/// Sends what it receives at COM1, byte by byte, entered in 32-bit mode:
/// `1: mov dx, 0x3fd; 2: in al, dx; test al, 1; jz 2b; mov dx, 0x3f8; in al, dx; out dx, al; jmp 1b`.
const ECHO: [u8; 17] = [
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb,
    0xef,
];

fn vmm(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A running `vmm run --control`.
struct Program {
    child: Child,
    events: BufReader<std::process::ChildStderr>,
    socket: PathBuf,
    dir: TempDir,
}

impl Program {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Starts, and waits until the VM runs.
    fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, &SPIN, |_| {})
    }

    fn start_with(dir: TempDir, code: &[u8], more: impl FnOnce(&mut Command)) -> Self {
        let (kernel_path, socket) = (dir.path().join("kernel"), dir.path().join("socket"));
        fs::write(&kernel_path, pvh::elf(0x10_0000, code)).unwrap();
        for (image, bytes) in [("data.img", 1 << 20), ("other.img", 2 << 20)] {
            let image = fs::File::create(dir.path().join(image)).unwrap();
            image.set_len(bytes).unwrap();
        }
        let args = ["run", "--memory", "16M", "--json", "--disk", "none"];
        let mut command = vmm(&args);
        command
            .arg("--kernel")
            .arg(&kernel_path)
            .arg("--control")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        more(&mut command);
        let mut child = command.spawn().unwrap();
        // It has its terminal to itself.
        drop(command);
        let events = BufReader::new(child.stderr.take().unwrap());
        let mut program = Self {
            child,
            events,
            socket,
            dir,
        };
        loop {
            let mut line = String::new();
            let got = program.events.read_line(&mut line).unwrap();
            assert_ne!(got, 0, "the program ended before its VM ran");
            if line.contains(r#""new":"RUNNING""#) {
                return program;
            }
        }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.socket, args)
    }

    /// The exit status, once it has ended by itself, and what else it said.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.events.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(!self.socket.exists(), "the socket stayed behind");
        (status.code(), said)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless its test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ctl(socket: &Path, args: &[&str]) -> Output {
    let socket = socket.to_str().unwrap();
    vmm(&[&["ctl", socket], args].concat()).output().unwrap()
}

/// Standard output of a `vmm ctl` that succeeds.
fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// One line on standard error with each of `words`, this exit status, nothing on standard output.
fn refused(output: &Output, status: i32, words: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(output.stdout.is_empty());
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
}

/// The examples of a page: each fenced block's lines.
fn examples(page: &str) -> Vec<Vec<&str>> {
    let mut blocks = page.split("```control\n");
    blocks.next();
    blocks
        .map(|block| block.split("```").next().unwrap().lines().collect())
        .collect()
}

/// Members whose values are part of the protocol; of others only the type is.
const EXACT: [&str; 12] = [
    "id", "ok", "event", "kind", "state", "old", "new", "cause", "protocol", "ops", "op", "ending",
];

/// Asserts that a reply says what the example says.
fn same(example: &Value, got: &Value, at: &str) {
    match (example, got) {
        (Value::Object(one), Value::Object(two)) => {
            let names = |map: &serde_json::Map<String, Value>| -> Vec<String> {
                map.keys().cloned().collect()
            };
            assert_eq!(names(one), names(two), "{at}");
            for (name, value) in one {
                if EXACT.contains(&name.as_str()) {
                    assert_eq!(value, &two[name], "{at}: {name}");
                } else {
                    same(value, &two[name], at);
                }
            }
        }
        (Value::Array(one), Value::Array(two)) => {
            assert_eq!(one.len(), two.len(), "{at}");
            for (one, two) in one.iter().zip(two) {
                same(one, two, at);
            }
        }
        (one, two) => assert_eq!(
            std::mem::discriminant(one),
            std::mem::discriminant(two),
            "{at}: {two}"
        ),
    }
}

/// Plays one block on a connection of its own. Returns how many lines it compared. The images, and
/// the sockets of others, are beside the socket.
fn replay(socket: &Path, block: &[&str]) -> usize {
    let images = format!("{}/", socket.parent().unwrap().display());
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut compared = 0;
    for line in block {
        if let Some(request) = line.strip_prefix("> ") {
            let request = format!("{request}\n")
                .replace("/images/", &images)
                .replace("/run/", &images);
            reader.get_mut().write_all(request.as_bytes()).unwrap();
            continue;
        }
        let example = line.strip_prefix("< ").expect("a line is sent or received");
        let mut got = String::new();
        reader.read_line(&mut got).unwrap();
        let example = serde_json::from_str(example).expect(line);
        let got = serde_json::from_str(&got).unwrap_or_else(|e| panic!("{line}: {e}: {got:?}"));
        same(&example, &got, line);
        compared += 1;
    }
    compared
}

#[test]
fn the_examples_of_the_documented_protocol_are_what_a_vm_answers() {
    if !kvm() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control.md");
    let page = fs::read_to_string(path).unwrap();
    let program = Program::start();
    let _listener = UnixListener::bind(program.dir.path().join("peer.sock")).unwrap();
    let compared: usize = examples(&page)
        .iter()
        .map(|block| replay(&program.socket, block))
        .sum();
    // The page ends with a destroy.
    assert_eq!(program.ended().0, Some(0));
    assert!(compared >= 25, "{compared}");
}

#[test]
fn every_operation_is_documented_with_a_heading_of_its_own() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control.md");
    let page = fs::read_to_string(path).unwrap();
    let headings: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .flat_map(|heading| heading.split(", "))
        .collect();
    let version = examples(&page)
        .concat()
        .into_iter()
        .find(|line| line.contains(r#""ops":"#))
        .unwrap();
    let version: Value = serde_json::from_str(version.strip_prefix("< ").unwrap()).unwrap();
    for op in version["ops"].as_array().unwrap() {
        assert!(headings.contains(&op.as_str().unwrap()), "{op}");
    }
    assert_eq!(headings.len(), version["ops"].as_array().unwrap().len());
}

#[test]
fn a_session_of_ctl_from_status_to_power_off() {
    if !kvm() {
        return;
    }
    let program = Program::start();
    let mode = program.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(said(&program.ctl(&["status"])).contains("RUNNING"));
    assert_eq!(said(&program.ctl(&["suspend"])), "SUSPENDED\n");
    refused(&program.ctl(&["suspend"]), 8, &["suspend", "SUSPENDED"]);
    assert!(said(&program.ctl(&["info"])).contains("rip 0000000000100001"));
    assert_eq!(said(&program.ctl(&["reset"])), "SUSPENDED\n");
    assert_eq!(said(&program.ctl(&["resume"])), "RUNNING\n");
    let stats = said(&program.ctl(&["stats"]));
    assert!(stats.contains("1 hard"), "{stats}");
    assert!(stats.contains("/vm/ops/hard-reset/took "), "{stats}");
    assert!(!stats.contains("/vm/ops/soft-reset/took "), "{stats}");
    let all = said(&program.ctl(&["stats", "/vm/ops/soft*", "--all"]));
    assert!(all.starts_with("/vm/ops/soft-reset/failed "), "{all}");
    let metrics = said(&program.ctl(&["stats", "/emt/*", "--openmetrics"]));
    assert!(
        metrics.contains("vm_emt_kicks_total{emt=\"0\""),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(said(&program.ctl(&["info", "com1"])).contains("output: "));
    assert!(said(&program.ctl(&["info", "cpu", "0"])).starts_with("vCPU 0:"));
    refused(
        &program.ctl(&["info", "com9"]),
        8,
        &["com9", "com1", "ioapic"],
    );
    let place = program.dir.path().join("bundle");
    let made = said(&program.ctl(&["bundle", place.to_str().unwrap()]));
    assert_eq!(made, format!("{}\n", place.display()));
    let report = fs::read_to_string(place.join("report.txt")).unwrap();
    assert!(report.contains("vm: RUNNING"), "{report}");
    let again = program.ctl(&["bundle", place.to_str().unwrap()]);
    refused(&again, 8, &["bundle", "exists"]);
    assert!(said(&program.ctl(&["version"])).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(said(&program.ctl(&["wait", "OFF", "RUNNING"])), "RUNNING\n");
    let late = program.ctl(&["wait", "OFF", "--limit-ms", "1"]);
    refused(&late, 8, &["RUNNING", "limit"]);
    let status: Value = serde_json::from_str(&said(&program.ctl(&["--json", "status"]))).unwrap();
    assert_eq!(status["hard_resets"], 1);
    assert_eq!(program.ctl(&["wait", "NOWHERE"]).status.code(), Some(2));
    said(&program.ctl(&["poweroff"]));
    let (status, events) = program.ended();
    assert_eq!(status, Some(0));
    assert!(events.contains(r#""ending":"power-off""#), "{events}");
    assert!(
        events
            .contains(r#"{"event":"error","sequence":1,"op":"suspend","message":"suspend refused"#),
        "{events}"
    );
}

#[test]
fn a_disk_gets_and_loses_its_image_by_ctl() {
    if !kvm() {
        return;
    }
    let program = Program::start();
    let (dir, socket) = (program.dir.path(), program.socket.to_str().unwrap());
    let page = || said(&program.ctl(&["info", "disk0"]));
    assert!(page().contains("attached: nothing\n"));
    refused(&program.ctl(&["detach", "disk0"]), 8, &["disk0", "nothing"]);
    // Relative to where the client is.
    let attached = vmm(&["ctl", socket, "attach", "disk0", "data.img"])
        .current_dir(dir)
        .output()
        .unwrap();
    let data = dir.join("data.img").canonicalize().unwrap();
    let shown = format!("disk0: {}, 2048 sectors\n", data.display());
    assert_eq!(said(&attached), shown);
    let shown = format!("attached: {} (2048 sectors, read-write)\n", data.display());
    assert!(page().contains(&shown), "{}", page());
    let other = dir.join("other.img");
    let other = other.to_str().unwrap();
    refused(
        &program.ctl(&["attach", "disk0", other]),
        8,
        &["disk0", "data.img"],
    );
    refused(
        &program.ctl(&["attach", "disk0", &format!("{other},ro"), "--replace"]),
        8,
        &["other.img", "read-write"],
    );
    said(&program.ctl(&["reset"]));
    assert!(page().contains(&shown), "a reset keeps the image");
    let replaced = said(&program.ctl(&["attach", "disk0", other, "--replace"]));
    assert!(
        replaced.ends_with("other.img, 4096 sectors\n"),
        "{replaced}"
    );
    assert_eq!(
        said(&program.ctl(&["detach", "disk0"])),
        "disk0: nothing attached\n"
    );
    let changes = said(&program.ctl(&["stats", "/device/disk0/changes"]));
    assert!(changes.contains(" 3 "), "{changes}");
    said(&program.ctl(&["destroy"]));
    let (status, events) = program.ended();
    assert_eq!(status, Some(0));
    let gone = r#"{"event":"backend","device":"disk0","path":null,"read_only":null,"sectors":0}"#;
    assert!(events.contains(gone), "{events}");
    assert_eq!(
        events.matches(r#""event":"backend""#).count(),
        3,
        "{events}"
    );
}

/// Sends a line to the guest behind `stream`, and reads it back.
fn echoed(stream: &mut UnixStream, line: &str) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut got = vec![0; line.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), line);
}

#[test]
fn a_serial_port_gets_and_loses_its_other_end_by_ctl() {
    if !kvm() {
        return;
    }
    let program = Program::start_with(tempfile::tempdir().unwrap(), &ECHO, |_| {});
    let dir = program.dir.path();
    let page = || said(&program.ctl(&["info", "com1"]));
    assert!(
        page().contains("attached: standard input and output\n"),
        "{}",
        page()
    );
    let (one, two) = (dir.join("one"), dir.join("two"));
    let at = |path: &Path| format!("unix:{}", path.display());
    let peers = [&one, &two].map(|path| UnixListener::bind(path).unwrap());
    let there = program.ctl(&["attach", "com1", &at(&one)]);
    refused(&there, 8, &["com1", "standard input and output", "replace"]);
    let attached = said(&program.ctl(&["attach", "com1", &at(&one), "--replace"]));
    assert_eq!(attached, format!("com1: {}\n", at(&one)));
    let (mut first, _) = peers[0].accept().unwrap();
    echoed(&mut first, "hello\n");
    said(&program.ctl(&["attach", "com1", &at(&two), "--replace"]));
    let (mut second, _) = peers[1].accept().unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "it is closed");
    echoed(&mut second, "again\n");
    said(&program.ctl(&["reset"]));
    echoed(&mut second, "after a reset\n");
    // Its peer goes away: it stays attached, and says so.
    drop(second);
    while !page().contains("no more input comes: it has ended\n") {}
    assert!(page().contains(&format!("attached: {}\n", at(&two))));
    assert_eq!(
        said(&program.ctl(&["detach", "com1"])),
        "com1: nothing attached\n"
    );
    // A file takes output at its end, and while suspended nothing moves.
    said(&program.ctl(&["attach", "com1", &at(&one)]));
    let (mut first, _) = peers[0].accept().unwrap();
    said(&program.ctl(&["suspend"]));
    let log = dir.join("log");
    let log_at = log.to_str().unwrap();
    said(&program.ctl(&["attach", "com1", log_at, "--replace"]));
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    said(&program.ctl(&["attach", "com1", &at(&one), "--replace"]));
    let (mut first, _) = peers[0].accept().unwrap();
    first.write_all(b"typed while suspended, ").unwrap();
    said(&program.ctl(&["resume"]));
    let mut got = [0; 23];
    first.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"typed while suspended, ");
    echoed(&mut first, "and at last\n");
    assert_eq!(fs::read(&log).unwrap(), b"");
    let dash = program.ctl(&["attach", "com1", "-"]);
    assert_eq!(dash.status.code(), Some(2));
    let why = String::from_utf8_lossy(&dash.stderr).into_owned();
    assert!(why.contains("attached when the VM starts"), "{why}");
    said(&program.ctl(&["destroy"]));
    let (status, events) = program.ended();
    assert_eq!(status, Some(0));
    let gone = r#"{"event":"backend","device":"com1","path":null,"socket":null}"#;
    assert!(events.contains(gone), "{events}");
}

#[test]
fn a_guest_that_talks_to_a_peer_that_is_gone_goes_on_and_is_logged_once() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("peer");
    let at = format!("unix:{}", socket.display());
    let listener = UnixListener::bind(&socket).unwrap();
    // `1: mov dx, 0x3f8; mov al, 10; out dx, al; jmp 1b`: a guest that talks without end.
    let talk = [0x66, 0xba, 0xf8, 0x03, 0xb0, 0x0a, 0xee, 0xeb, 0xf7];
    let program = Program::start_with(dir, &talk, |_| {});
    said(&program.ctl(&["attach", "com1", &at, "--replace"]));
    let (mut peer, _) = listener.accept().unwrap();
    peer.read_exact(&mut [0; 100]).unwrap();
    drop(peer);
    let page = || said(&program.ctl(&["info", "com1"]));
    while !page().contains("output was lost: ") {}
    assert!(page().contains(&format!("attached: {at}\n")));
    assert_eq!(said(&program.ctl(&["suspend"])), "SUSPENDED\n");
    assert_eq!(said(&program.ctl(&["resume"])), "RUNNING\n");
    said(&program.ctl(&["detach", "com1"]));
    let discarded = said(&program.ctl(&["stats", "/device/com1/discarded"]));
    assert!(
        discarded.starts_with("/device/com1/discarded "),
        "{discarded}"
    );
    said(&program.ctl(&["destroy"]));
    let (status, said) = program.ended();
    assert_eq!(status, Some(0));
    let once = format!("com1: output to {at} is lost from here on: ");
    assert_eq!(said.matches(&once).count(), 1, "{said}");
}

/// A new terminal that passes on every byte as it is: whoever types, and the device.
fn terminal() -> (fs::File, PathBuf) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let typist = openpt(flags).unwrap();
    grantpt(&typist).unwrap();
    unlockpt(&typist).unwrap();
    let mut mode = tcgetattr(&typist).unwrap();
    mode.make_raw();
    tcsetattr(&typist, OptionalActions::Now, &mode).unwrap();
    let name = ptsname(&typist, Vec::new()).unwrap();
    (typist.into(), name.into_string().unwrap().into())
}

#[test]
fn a_terminal_detached_from_the_guest_still_ends_the_vm_and_another_is_as_good() {
    if !kvm() {
        return;
    }
    let ((mut here, path), (mut there, other)) = (terminal(), terminal());
    let no_controlling_terminal = OFlags::NOCTTY.bits().cast_signed();
    let device = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(no_controlling_terminal)
        .open(path)
        .unwrap();
    let program = Program::start_with(tempfile::tempdir().unwrap(), &ECHO, |command| {
        command
            .stdin(device.try_clone().unwrap())
            .stdout(device.try_clone().unwrap());
    });
    let mut got = [0; 4];
    here.write_all(b"here").unwrap();
    here.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"here");
    said(&program.ctl(&["detach", "com1"]));
    // The guest hears nothing of it, more than once.
    here.write_all(b"nobody").unwrap();
    let other = other.to_str().unwrap();
    let attached = said(&program.ctl(&["attach", "com1", other]));
    assert_eq!(attached, format!("com1: {other}\n"));
    there.write_all(b"over").unwrap();
    there.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"over");
    here.write_all(b"nobody again").unwrap();
    here.write_all(b"\x01x").unwrap();
    let (status, events) = program.ended();
    assert_eq!(status, Some(0));
    assert!(events.contains(r#""ending":"power-off""#), "{events}");
}

#[test]
fn a_console_may_be_at_a_socket_from_the_start() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("peer");
    let listener = UnixListener::bind(&socket).unwrap();
    let at = format!("unix:{}", socket.display());
    let console = format!("virtio:{at}");
    let program = Program::start_with(dir, &SPIN, |command| {
        command.args(["--console", &console]);
    });
    let (mut peer, _) = listener.accept().unwrap();
    let page = said(&program.ctl(&["info", "console0"]));
    assert!(page.contains(&format!("attached: {at}\n")), "{page}");
    said(&program.ctl(&["detach", "console0"]));
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    said(&program.ctl(&["destroy"]));
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn ctl_events_goes_on_until_the_vm_is_destroyed() {
    if !kvm() {
        return;
    }
    let program = Program::start();
    let mut watcher = vmm(&["ctl", program.socket.to_str().unwrap(), "events"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert_eq!(first, "RUNNING\n");
    assert_eq!(said(&program.ctl(&["destroy"])), "TERMINATED\n");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(watcher.wait().unwrap().success());
    assert!(
        rest.starts_with("RUNNING -> POWERING_OFF (user)\n"),
        "{rest}"
    );
    assert!(
        rest.ends_with("ended: TERMINATED, exit status 0\n"),
        "{rest}"
    );
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn a_socket_that_nobody_serves_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    refused(
        &ctl(&path, &["status"]),
        2,
        &["no control socket", "--control"],
    );
    drop(UnixListener::bind(&path).unwrap());
    refused(&ctl(&path, &["status"]), 2, &["nobody serves", "--control"]);
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(ctl(&file, &["status"]).status.code(), Some(2));
}

#[test]
fn what_answers_but_is_no_vm_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let strange = |answer: &'static [u8]| {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ctl(&path, &["status"]));
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            drop(stream);
            asked.join().unwrap()
        })
    };
    refused(&strange(b"220 mail ready\r\n"), 8, &["control protocol"]);
    refused(&strange(b""), 8, &["went without a reply"]);
    refused(&strange(b"{\"ok\":false}\n"), 8, &["no reason"]);
}

#[test]
fn a_live_socket_or_another_file_is_refused_and_a_killed_programs_is_replaced() {
    if !kvm() {
        return;
    }
    let mut program = Program::start();
    let kernel = program.dir.path().join("kernel");
    let run = |socket: &Path| {
        let paths = [kernel.to_str().unwrap(), socket.to_str().unwrap()];
        let args = ["run", "--kernel", paths[0], "--control", paths[1]];
        vmm(&args).output().unwrap()
    };
    refused(&run(&program.socket), 2, &["socket", "another path"]);
    refused(&run(&kernel), 2, &["kernel", "not a socket"]);
    // The live one is still there.
    assert!(said(&program.ctl(&["status"])).contains("RUNNING"));
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    assert!(program.socket.exists());
    let dir = std::mem::replace(&mut program.dir, tempfile::tempdir().unwrap());
    let again = Program::start_in(dir);
    assert_eq!(said(&again.ctl(&["destroy"])), "TERMINATED\n");
    assert_eq!(again.ended().0, Some(0));
}

#[test]
fn another_user_is_kept_out_by_the_mode_and_then_by_credentials() {
    if !kvm() {
        return;
    }
    let program = Program::start();
    if program.socket.metadata().unwrap().uid() != 0 {
        println!("skipped: being another user needs root");
        return;
    }
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set(program.dir.path(), 0o755).unwrap();
    // The other user may not reach where it was built. Copied by another process: a descriptor of
    // ours that is open for writing could be inherited by what another test starts meanwhile, and
    // then the copy could not be executed (ETXTBSY).
    let copy = program.dir.path().join("vmm");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_vmm"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let other = |op: &str| {
        Command::new(&copy)
            .args(["ctl", program.socket.to_str().unwrap(), op])
            .stdin(Stdio::null())
            .current_dir("/")
            .gid(65534)
            .uid(65534)
            .output()
            .unwrap()
    };
    refused(&other("suspend"), 2, &["another user's"]);
    set(&program.socket, 0o666).unwrap();
    refused(&other("suspend"), 8, &["only the user who runs this VM"]);
    assert!(said(&program.ctl(&["status"])).contains("RUNNING"));
    said(&program.ctl(&["destroy"]));
    // It warned of the client it turned away.
    let (status, events) = program.ended();
    assert_eq!(status, Some(0));
    assert!(events.contains("uid 65534"), "{events}");
}

#[test]
fn a_socket_that_cannot_be_made_is_told_and_leaves_nothing() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel_path = dir.path().join("kernel");
    fs::write(&kernel_path, pvh::elf(0x10_0000, &SPIN)).unwrap();
    let run = |socket: &Path| {
        let mut command = vmm(&["run", "--memory", "16M", "--kernel"]);
        command.arg(&kernel_path).arg("--control").arg(socket);
        command.output().unwrap()
    };
    let long = dir.path().join("x".repeat(120));
    refused(&run(&long), 2, &["path of a socket", "xxx"]);
    refused(&run(&dir.path().join("no/s")), 2, &["no/s"]);
    refused(&run(dir.path()), 2, &["not a socket"]);
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["kernel"]);
}

#[test]
fn what_is_done_to_one_vm_leaves_another_alone() {
    if !kvm() {
        return;
    }
    let (one, two) = (Program::start(), Program::start());
    said(&one.ctl(&["suspend"]));
    assert!(said(&two.ctl(&["status"])).contains("RUNNING"));
    said(&one.ctl(&["destroy"]));
    assert!(said(&two.ctl(&["status"])).contains("RUNNING"));
    said(&two.ctl(&["destroy"]));
    assert_eq!((one.ended().0, two.ended().0), (Some(0), Some(0)));
}
