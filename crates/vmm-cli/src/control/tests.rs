// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Clients of every sort against a VM on scripted vCPUs.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use vm_core::{Parts, Vm, VmSpec};
use vm_cpu::script::{Script, ScriptEngine};
use vm_devices::{DiskAccess, DiskImage, Ends, Ged, GuestRam, Serial, SerialSpec, Virtio};
use vm_pdm::{
    Action, Device, Devices, Effect, IoCtx, IoHandler, IrqChip, IrqLine, Level, Places,
    RuntimeError,
};
use vm_state::{ResumeReason, State, SuspendReason};

use super::{Bound, Server};
use crate::reach::Reach;
use crate::run::Event;

/// Far beyond what anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Interrupts that nobody takes.
struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

/// `disk0` with an image of 8 sectors, in `dir`, and `rng0`; neither is in a VM.
fn drives(dir: &Path) -> Places<DiskImage> {
    let path = dir.join("first");
    std::fs::write(&path, [1; 4096]).unwrap();
    let image = DiskImage::open(&path, DiskAccess::ReadWrite).unwrap();
    let ram = GuestRam::new();
    let irq = IrqLine::new(Arc::new(Nowhere), 5);
    let disk = Virtio::disk("disk0", 0x1000, irq.clone(), ram.clone(), image);
    disk.power_on().unwrap();
    let mut devices = Devices::new();
    devices.add(disk.clone()).unwrap();
    devices
        .add(Virtio::entropy("rng0", 0x2000, irq, ram))
        .unwrap();
    Places::new(&devices, vec![disk])
}

/// `com1` without ends.
fn port() -> Places<Ends> {
    let irq = IrqLine::new(Arc::new(Nowhere), 4);
    let serial = Serial::new(SerialSpec::default(), irq, None).unwrap();
    serial.power_on().unwrap();
    let mut devices = Devices::new();
    let ends = serial.ends();
    devices.add(serial).unwrap();
    Places::new(&devices, vec![ends])
}

/// A VM that runs, and its control socket.
struct Stand {
    vm: Vm,
    server: Option<Server>,
    quits: Receiver<Event>,
    ged: Arc<Ged>,
    path: PathBuf,
    _dir: TempDir,
}

impl Stand {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let engine = Arc::new(ScriptEngine::new(Script::new().work(100).forever()));
        let spec = VmSpec {
            vcpus: 2,
            memory_bytes: 1 << 20,
            ..VmSpec::default()
        };
        let vm = Vm::create(spec, Parts::bare(engine)).unwrap();
        vm.power_on().unwrap();
        let (events, quits) = mpsc::channel();
        let ged = Ged::new(IrqLine::new(Arc::new(Nowhere), 21), 2, 2);
        let reach = Arc::new(Reach::default());
        reach.ged.set(Arc::clone(&ged)).unwrap();
        let drives = drives(dir.path());
        reach.drives.set(drives).unwrap();
        reach.ends.set(port()).unwrap();
        let server = Server::start(
            Bound::new(&path).unwrap(),
            &vm,
            &reach,
            &events,
            "vm.cpus = 2\n".into(),
        )
        .unwrap();
        Self {
            vm,
            server: Some(server),
            quits,
            ged,
            path,
            _dir: dir,
        }
    }

    fn peer(&self) -> Peer {
        Peer::new(&self.path)
    }

    /// The VM goes on and others are served, whatever a client did.
    fn unhurt(&self) {
        assert_eq!(self.vm.state(), State::Running);
        let mut peer = self.peer();
        assert_eq!(peer.state("suspend"), "SUSPENDED");
        assert_eq!(peer.state("resume"), "RUNNING");
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        drop(self.server.take());
        assert!(std::thread::panicking() || !self.path.exists());
        let _ = self.vm.power_off();
        let ended = self.vm.destroy(LIMIT);
        assert!(std::thread::panicking() || ended.is_ok() || self.vm.state() == State::Terminated);
    }
}

/// A client that knows nothing of the server's code.
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends; that the other end has closed already is for the reader to find.
    fn send(&mut self, bytes: &[u8]) {
        match self.0.get_mut().write_all(bytes) {
            Ok(()) => {}
            Err(e) => assert!(
                matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                "{e}"
            ),
        }
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
            Err(e) => panic!("{e}"),
        }
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(format!("{request}\n").as_bytes());
        self.line().expect("a reply")
    }

    fn op(&mut self, op: &str) -> Value {
        self.ask(&json!({ "id": op, "op": op }))
    }

    fn state(&mut self, op: &str) -> String {
        let reply = self.op(op);
        assert_eq!(reply["ok"], true, "{reply}");
        reply["state"].as_str().unwrap().to_owned()
    }

    /// One error line of this kind, then the end.
    fn dropped(&mut self, kind: &str) {
        let last = self.line().expect("an error line");
        assert_eq!(last["ok"], false, "{last}");
        assert_eq!(last["error"]["kind"], kind, "{last}");
        assert_eq!(self.line(), None);
    }
}

#[test]
fn every_operation_is_answered_with_its_id() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    for (op, member) in [
        ("status", "previous"),
        ("suspend", "state"),
        ("info", "text"),
        ("resume", "state"),
        ("reset", "state"),
        ("stats", "vcpus"),
        ("version", "protocol"),
        ("events", "state"),
    ] {
        let reply = peer.op(op);
        assert_eq!(reply["id"], op);
        assert_eq!(reply["ok"], true, "{reply}");
        assert!(reply.get(member).is_some(), "{reply}");
    }
    assert_eq!(stand.vm.status().hard_resets, 1);
}

#[test]
fn a_usage_error_leaves_the_client_connected() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let reply = peer.op("suspnd");
    assert_eq!(reply["error"]["kind"], "usage");
    assert_eq!(reply["id"], "suspnd");
    assert_eq!(peer.op("status")["ok"], true);
}

#[test]
fn garbage_is_answered_with_one_line_and_the_end() {
    let stand = Stand::new();
    let garbage: [&[u8]; 5] = [
        b"\n",
        b"\xff\xfe\x00\x01 nonsense\n{\"op\":\"poweroff\"}\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"[1,2,3]\n",
        b"{\"op\":\"suspend\",\"op\":\"destroy\"}\n",
    ];
    for bytes in garbage {
        let mut peer = stand.peer();
        peer.send(bytes);
        peer.dropped("malformed");
    }
    stand.unhurt();
}

#[test]
fn a_line_without_end_is_cut_off_at_its_limit() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    peer.send(&vec![b'x'; 1 << 20]);
    peer.dropped("malformed");
    let mut peer = stand.peer();
    peer.send(&[vec![b' '; 1 << 20], b"{\"op\":\"suspend\"}\n".to_vec()].concat());
    peer.dropped("malformed");
    stand.unhurt();
}

#[test]
fn a_request_of_just_the_longest_length_is_served() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let request = br#"{"id":1,"op":"suspend"}"#;
    let mut line = vec![b' '; super::protocol::LINE_LIMIT - request.len()];
    line.extend(request);
    line.push(b'\n');
    peer.send(&line);
    assert_eq!(peer.line().unwrap()["state"], "SUSPENDED");
    line.insert(0, b' ');
    peer.send(&line);
    peer.dropped("malformed");
}

#[test]
fn half_a_request_and_a_hang_up_do_nothing() {
    let mut stand = Stand::new();
    for half in [&b"{\"op\":\"power"[..], b"{\"op\":\"poweroff\"}", b""] {
        let mut peer = stand.peer();
        peer.send(half);
        drop(peer);
    }
    stand.unhurt();
    // With every client's thread joined, whatever they would have done is done.
    drop(stand.server.take());
    assert_eq!(stand.vm.state(), State::Running);
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_replies() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    peer.send(b"{\"id\":1,\"op\":\"suspend\"}\n{\"id\":2,\"op\":\"resume\"}\n");
    peer.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.line().unwrap()["id"], 1);
    assert_eq!(peer.line().unwrap()["id"], 2);
    assert_eq!(peer.line(), None);
    let mut peer = stand.peer();
    peer.send(b"{\"id\":3,\"op\":\"wait\",\"until\":[\"SUSPENDED\"]}\n");
    peer.0.get_ref().shutdown(Shutdown::Write).unwrap();
    // The wait is there before the VM is suspended, or finds it suspended.
    stand.vm.suspend(SuspendReason::User).unwrap();
    assert_eq!(peer.line().unwrap()["state"], "SUSPENDED");
    assert_eq!(peer.line(), None);
}

#[test]
fn of_a_hundred_clients_sixteen_are_served_and_the_others_are_told() {
    let stand = Stand::new();
    let mut served: Vec<_> = (0..16).map(|_| stand.peer()).collect();
    for peer in &mut served {
        assert_eq!(peer.op("status")["ok"], true);
    }
    let mut others: Vec<_> = (16..100).map(|_| stand.peer()).collect();
    for peer in &mut others {
        peer.dropped("busy");
    }
    for peer in &mut served {
        assert_eq!(peer.op("version")["ok"], true);
    }
    // A malformed line's client has left its place before it sees the end.
    let mut peer = served.pop().unwrap();
    peer.send(b"bye\n");
    peer.dropped("malformed");
    assert_eq!(stand.peer().op("status")["ok"], true);
}

/// How many events came until the end; their numbers have no gap.
fn gapless_to_the_end(peer: &mut Peer) -> u64 {
    let mut text = Vec::new();
    match peer.0.read_to_end(&mut text) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    let sequences: Vec<u64> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|event| event["sequence"].as_u64())
        .collect();
    assert!(sequences.windows(2).all(|two| two[0] + 1 == two[1]));
    u64::try_from(sequences.len()).unwrap()
}

#[test]
fn a_client_that_never_reads_its_events_is_dropped_and_hurts_nobody() {
    const ROUNDS: u64 = 2000;
    let stand = Stand::new();
    let mut deaf = stand.peer();
    assert_eq!(deaf.op("events")["ok"], true);
    let mut other = stand.peer();
    for _ in 0..ROUNDS {
        stand.vm.suspend(SuspendReason::User).unwrap();
        stand.vm.resume(ResumeReason::User).unwrap();
    }
    assert_eq!(other.state("suspend"), "SUSPENDED");
    assert_eq!(other.state("resume"), "RUNNING");
    // What fitted is there in order; then the connection ends, perhaps within a line.
    let told = gapless_to_the_end(&mut deaf);
    assert!((1..4 * ROUNDS).contains(&told), "{told} events");
    stand.unhurt();
}

#[test]
fn replies_wait_for_a_client_that_reads_late_and_none_is_lost() {
    const REQUESTS: u64 = 5000;
    let stand = Stand::new();
    let mut peer = stand.peer();
    let mut writer = peer.0.get_ref().try_clone().unwrap();
    let sender = std::thread::Builder::new()
        .name("sender".into())
        .spawn(move || {
            for id in 0..REQUESTS {
                writeln!(writer, "{{\"id\":{id},\"op\":\"status\"}}").unwrap();
            }
        })
        .unwrap();
    stand.unhurt();
    for id in 0..REQUESTS {
        assert_eq!(peer.line().unwrap()["id"], id);
    }
    sender.join().unwrap();
}

#[test]
fn of_two_clients_that_suspend_at_once_one_is_refused() {
    let stand = Stand::new();
    let (path, barrier) = (&stand.path, Barrier::new(2));
    for _ in 0..50 {
        let race = || {
            let mut peer = Peer::new(path);
            barrier.wait();
            peer.op("suspend")
        };
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(race);
            let two = race();
            (one.join().unwrap(), two)
        });
        let (won, lost) = if one["ok"] == true {
            (one, two)
        } else {
            (two, one)
        };
        assert_eq!(won["state"], "SUSPENDED", "{won}");
        assert_eq!(lost["error"]["kind"], "refused", "{lost}");
        assert_eq!(stand.peer().state("resume"), "RUNNING");
    }
}

#[test]
fn a_wait_ends_with_the_state_or_its_limit_and_holds_up_nothing() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let wait =
        |id: u64, ms: u64| json!({"id": id, "op": "wait", "until": ["SUSPENDED"], "limit_ms": ms});
    let reply = peer.ask(&wait(1, 0));
    assert_eq!(reply["error"]["kind"], "timeout");
    assert!(
        reply["error"]["message"]
            .as_str()
            .unwrap()
            .contains("RUNNING")
    );
    peer.send(format!("{}\n", wait(2, 60_000)).as_bytes());
    // The same client's other requests are served meanwhile.
    assert_eq!(peer.op("status")["state"], "RUNNING");
    peer.send(b"{\"id\":3,\"op\":\"suspend\"}\n");
    let replies = [peer.line().unwrap(), peer.line().unwrap()];
    let ids: Vec<_> = replies.iter().map(|reply| reply["id"].clone()).collect();
    assert_eq!(ids, [2, 3]);
    assert_eq!(replies[0]["state"], "SUSPENDED");
}

#[test]
fn a_client_has_sixteen_waits_at_once() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    for id in 0..16 {
        peer.send(format!("{{\"id\":{id},\"op\":\"wait\",\"until\":[\"OFF\"]}}\n").as_bytes());
    }
    let reply = peer.ask(&json!({"id": 16, "op": "wait", "until": ["OFF"]}));
    assert_eq!(reply["error"]["kind"], "busy");
    assert_eq!(reply["id"], 16);
}

#[test]
fn destroy_is_answered_when_the_vm_is_gone_and_event_streams_end_with_the_end() {
    let mut stand = Stand::new();
    let mut watcher = stand.peer();
    assert_eq!(watcher.state("events"), "RUNNING");
    let mut waiter = stand.peer();
    waiter.send(b"{\"id\":1,\"op\":\"wait\",\"until\":[\"LOAD_FAILURE\"]}\n");
    assert_eq!(waiter.op("version")["ok"], true);
    let mut peer = stand.peer();
    peer.send(b"{\"id\":9,\"op\":\"destroy\"}\n");
    assert!(matches!(
        stand.quits.recv_timeout(LIMIT),
        Ok(Event::Quit(_))
    ));
    // What `vmm run` does then.
    stand.vm.power_off().unwrap();
    stand.vm.destroy(LIMIT).unwrap();
    let server = stand.server.take().unwrap();
    server.finish("{\"event\":\"end\"}\n".to_owned());
    let reply = peer.line().unwrap();
    assert_eq!(
        (&reply["id"], &reply["state"]),
        (&json!(9), &json!("TERMINATED"))
    );
    assert_eq!(waiter.line().unwrap()["error"]["kind"], "gone");
    let mut states = Vec::new();
    let mut last = Value::Null;
    while let Some(event) = watcher.line() {
        states.extend(event["new"].as_str().map(str::to_owned));
        last = event;
    }
    assert_eq!(states, ["POWERING_OFF", "OFF", "DESTROYING", "TERMINATED"]);
    assert_eq!(last["event"], "end");
    assert!(!stand.path.exists());
}

#[test]
fn a_server_that_goes_while_the_vm_runs_answers_who_waits() {
    let mut stand = Stand::new();
    let mut waiter = stand.peer();
    waiter.send(b"{\"id\":1,\"op\":\"wait\",\"until\":[\"OFF\"]}\n");
    assert_eq!(waiter.op("version")["ok"], true);
    drop(stand.server.take());
    assert_eq!(waiter.line().unwrap()["error"]["kind"], "gone");
    assert_eq!(waiter.line(), None);
    assert_eq!(stand.vm.state(), State::Running);
}

#[test]
fn a_pressed_power_button_reaches_the_guest_and_the_vm_goes_on_until_it_acts() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let reply = peer.ask(&json!({"id": 1, "op": "poweroff", "graceful": true}));
    assert_eq!(
        (&reply["ok"], &reply["state"]),
        (&json!(true), &json!("RUNNING"))
    );
    assert_eq!(
        stand.ged.read(&mut IoCtx::new(), 0, 4),
        1,
        "the button's event"
    );
    stand.unhurt();
}

#[test]
fn an_unplug_is_answered_when_the_guest_has_given_the_vcpu_up_and_a_plug_at_once() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let guest = {
        let ged = Arc::clone(&stand.ged);
        let guest = std::thread::Builder::new().name("guest".into());
        let guest = guest.spawn(move || {
            let mut cx = IoCtx::new();
            ged.write(&mut cx, 4, 4, 1);
            // What a guest's interrupt would tell it.
            while ged.read(&mut cx, 8, 1) & 4 == 0 {
                std::thread::yield_now();
            }
            ged.write(&mut cx, 8, 1, 8);
            cx.take()
        });
        guest.unwrap()
    };
    let reply = peer.ask(&json!({"id": 1, "op": "unplug", "vcpu": 1}));
    assert_eq!(reply, json!({"id": 1, "ok": true, "plugged": [0]}));
    assert_eq!(guest.join().unwrap(), [Effect::Unplug(1)]);
    assert!(!stand.vm.is_plugged(1));
    let reply = peer.ask(&json!({"id": 2, "op": "plug", "vcpu": 1}));
    assert_eq!(reply, json!({"id": 2, "ok": true, "plugged": [0, 1]}));
    let reply = peer.ask(&json!({"id": 3, "op": "plug", "vcpu": 1}));
    assert_eq!(reply["error"]["kind"], "refused");
    stand.unhurt();
}

#[test]
fn a_guest_that_keeps_its_vcpu_makes_an_unplug_time_out_with_the_vcpu_still_there() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let reply = peer.ask(&json!({"id": 1, "op": "unplug", "vcpu": 1, "limit_ms": 0}));
    assert_eq!(reply["error"]["kind"], "timeout");
    assert!(stand.vm.is_plugged(1) && stand.ged.is_plugged(1));
    for (vcpu, word) in [(0, "vCPU 0"), (2, "numbered from 0")] {
        let reply = peer.ask(&json!({"id": 2, "op": "unplug", "vcpu": vcpu}));
        assert_eq!(reply["error"]["kind"], "refused");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains(word), "{message}");
    }
    stand.unhurt();
}

#[test]
fn a_cap_is_set_and_one_that_cannot_be_changes_nothing() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let reply = peer.ask(&json!({"id": 1, "op": "cap", "percent": 35}));
    assert_eq!(reply, json!({"id": 1, "ok": true, "cap_percent": 35}));
    let reply = peer.ask(&json!({"id": 2, "op": "cap", "percent": 0}));
    assert_eq!(reply["error"]["kind"], "failed");
    assert_eq!(stand.vm.cap(), 35);
    stand.unhurt();
}

#[test]
fn a_page_is_answered_with_its_text_and_one_that_is_not_there_with_those_that_are() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let reply = peer.ask(&json!({"id": 1, "op": "info", "page": "cpu", "args": "1"}));
    let text = reply["text"].as_str().unwrap();
    assert!(text.starts_with("vCPU 1:"), "{text}");
    let reply = peer.ask(&json!({"id": 2, "op": "info", "page": "help"}));
    assert!(
        reply["text"].as_str().unwrap().contains("timers "),
        "{reply}"
    );
    let reply = peer.ask(&json!({"id": 3, "op": "info", "page": "cpus"}));
    assert_eq!(reply["error"]["kind"], "usage");
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.contains("help, bus, cpu"), "{message}");
    stand.unhurt();
}

#[test]
fn statistics_are_told_by_pattern_and_begin_anew_when_asked_to() {
    let stand = Stand::new();
    let mut peer = stand.peer();
    let path = "/vm/ops/power-on/took";
    let mut count = |reset: bool| {
        let reply = peer.ask(&json!({"id": 1, "op": "stats", "pattern": path, "reset": reset}));
        let samples = reply["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 1, "{reply}");
        assert_eq!(samples[0]["path"], path);
        assert_eq!(samples[0]["unit"], "ns");
        samples[0]["profile"]["count"].clone()
    };
    assert_eq!(count(false), 1);
    assert_eq!(count(true), 1);
    assert_eq!(count(false), 0);
    let reply = peer.ask(&json!({"id": 2, "op": "stats"}));
    assert!(reply.get("samples").is_none(), "{reply}");
    stand.unhurt();
}

fn error(message: String, action: Action) -> RuntimeError {
    RuntimeError {
        id: "DiskFull",
        source: "disk0".into(),
        message,
        action,
    }
}

/// The members of the page's error event that has this one.
fn documented(member: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("< "));
    let mut events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let event = events.find(|event| event["event"] == "error" && event.get(member).is_some());
    members(&event.expect("an example on the page"))
}

fn members(object: &Value) -> Vec<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn an_error_that_suspends_the_vm_is_told_after_the_changes_it_made_and_as_documented() {
    let stand = Stand::new();
    let mut watcher = stand.peer();
    assert_eq!(watcher.state("events"), "RUNNING");
    stand.vm.raise(error("no room".into(), Action::Suspend));
    for new in ["SUSPENDING", "SUSPENDED"] {
        let event = watcher.line().unwrap();
        assert_eq!(
            (&event["event"], &event["new"]),
            (&json!("state"), &json!(new))
        );
    }
    let told = watcher.line().unwrap();
    assert_eq!(
        told,
        json!({"event": "error", "sequence": 1, "id": "DiskFull", "source": "disk0",
            "message": "no room", "action": "suspend"})
    );
    assert_eq!(members(&told), documented("source"));
    // What nobody's state changes for is told as well, between the changes.
    stand.vm.raise(error("slow".into(), Action::Inform));
    assert_eq!(watcher.line().unwrap()["action"], "inform");
    watcher.send(b"{\"id\":1,\"op\":\"resume\"}\n");
    for new in ["RESUMING", "RUNNING"] {
        assert_eq!(watcher.line().unwrap()["new"], new);
    }
    assert_eq!(watcher.line().unwrap()["id"], 1);
    stand.unhurt();
}

#[test]
fn an_operation_that_fails_is_told_to_who_streams_and_only_answered_to_who_does_not() {
    let stand = Stand::new();
    let mut watcher = stand.peer();
    // Asking again changes nothing.
    for _ in 0..2 {
        assert_eq!(watcher.state("events"), "RUNNING");
    }
    let mut other = stand.peer();
    assert_eq!(other.op("resume")["error"]["kind"], "refused");
    let told = watcher.line().unwrap();
    assert_eq!(members(&told), documented("op"));
    assert_eq!(
        (&told["op"], &told["sequence"]),
        (&json!("resume"), &json!(1))
    );
    // An event of another's is no reply and ends no wait.
    other.send(b"{\"id\":2,\"op\":\"wait\",\"until\":[\"SUSPENDED\"]}\n");
    assert_eq!(other.op("version")["ok"], true);
    stand.vm.raise(error("slow".into(), Action::Inform));
    assert_eq!(watcher.line().unwrap()["sequence"], 2);
    stand.vm.suspend(SuspendReason::User).unwrap();
    assert_eq!(other.line().unwrap()["id"], 2);
    stand.vm.resume(ResumeReason::User).unwrap();
    stand.unhurt();
}

#[test]
fn a_client_that_never_reads_its_errors_is_dropped_and_hurts_nobody() {
    const ERRORS: u64 = 8000;
    let stand = Stand::new();
    let mut deaf = stand.peer();
    assert_eq!(deaf.op("events")["ok"], true);
    let (told, heard) = mpsc::channel();
    let listening = stand.vm.observe_errors(move |error| {
        told.send(error.sequence).unwrap();
    });
    for sequence in 1..=ERRORS {
        stand.vm.raise(error("x".repeat(500), Action::Inform));
        // One after the other, so that the VM itself has room for each.
        assert_eq!(heard.recv_timeout(LIMIT), Ok(sequence));
    }
    drop(listening);
    let told = gapless_to_the_end(&mut deaf);
    assert!((1..ERRORS).contains(&told), "{told} errors");
    stand.unhurt();
}

#[test]
fn an_image_comes_and_goes_and_who_streams_events_is_told_as_documented() {
    let stand = Stand::new();
    let dir = stand.path.parent().unwrap();
    let second = dir.join("second");
    std::fs::write(&second, [2; 8192]).unwrap();
    let mut watcher = stand.peer();
    assert_eq!(watcher.state("events"), "RUNNING");
    let mut peer = stand.peer();
    let reply = peer.ask(&json!({"id": 1, "op": "detach", "device": "disk0"}));
    assert_eq!(reply, json!({"id": 1, "ok": true, "device": "disk0"}));
    let told = watcher.line().unwrap();
    let gone = json!({"event": "backend", "device": "disk0", "path": null, "read_only": null,
        "sectors": 0});
    assert_eq!(told, gone);
    // The VM lets go of the file.
    drop(DiskImage::open(&dir.join("first"), DiskAccess::ReadWrite).unwrap());
    let attach = json!({"id": 2, "op": "attach", "device": "disk0", "path": second});
    let reply = peer.ask(&attach);
    assert_eq!(
        reply,
        json!({"id": 2, "ok": true, "device": "disk0", "path": second, "sectors": 16})
    );
    let came = json!({"event": "backend", "device": "disk0", "path": second,
        "read_only": false, "sectors": 16});
    assert_eq!(watcher.line().unwrap(), came);
    // Told before the reply, if it is one's own.
    let replace = json!({"id": 3, "op": "attach", "device": "disk0", "path": dir.join("first"),
        "replace": true});
    let mut own = watcher.ask(&replace);
    assert_eq!(
        (&own["event"], &own["sectors"]),
        (&json!("backend"), &json!(8))
    );
    own = watcher.line().unwrap();
    assert_eq!((&own["id"], &own["ok"]), (&json!(3), &json!(true)));
    stand.unhurt();
}

#[test]
fn ends_come_and_go_and_who_streams_events_is_told_as_documented() {
    let stand = Stand::new();
    let dir = stand.path.parent().unwrap();
    let (log, socket) = (dir.join("log"), dir.join("peer"));
    let listener = UnixListener::bind(&socket).unwrap();
    let mut watcher = stand.peer();
    assert_eq!(watcher.state("events"), "RUNNING");
    let mut peer = stand.peer();
    let attach = |path: Value, socket: Value| {
        let mut request = json!({"id": 1, "op": "attach", "device": "com1", "replace": true});
        let members = [("path", path), ("socket", socket)];
        for (name, value) in members.into_iter().filter(|(_, v)| !v.is_null()) {
            request[name] = value;
        }
        request
    };
    let reply = peer.ask(&attach(json!(log), json!(null)));
    assert_eq!(
        reply,
        json!({"id": 1, "ok": true, "device": "com1", "path": log})
    );
    let told = watcher.line().unwrap();
    let came = json!({"event": "backend", "device": "com1", "path": log, "socket": null});
    assert_eq!(told, came);
    let reply = peer.ask(&attach(json!(null), json!(socket)));
    assert_eq!(
        reply,
        json!({"id": 1, "ok": true, "device": "com1", "socket": socket})
    );
    let told = watcher.line().unwrap();
    let came = json!({"event": "backend", "device": "com1", "path": null, "socket": socket});
    assert_eq!(told, came);
    let (mut theirs, _) = listener.accept().unwrap();
    let reply = peer.ask(&json!({"id": 2, "op": "detach", "device": "com1"}));
    assert_eq!(reply, json!({"id": 2, "ok": true, "device": "com1"}));
    let gone = json!({"event": "backend", "device": "com1", "path": null, "socket": null});
    assert_eq!(watcher.line().unwrap(), gone);
    // The VM lets go of the connection.
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    stand.unhurt();
}

#[test]
fn sd_p04_ends_that_cannot_come_or_go_are_answered_with_why_and_told_nobody() {
    let stand = Stand::new();
    let dir = stand.path.parent().unwrap();
    let mut peer = stand.peer();
    let mut refused = |request: Value, kind: &str, words: &[&str]| {
        let reply = peer.ask(&request);
        assert_eq!(reply["error"]["kind"], kind, "{reply}");
        let message = reply["error"]["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
    };
    let detach = |device| json!({"op": "detach", "device": device});
    let socket = |device, file| json!({"op": "attach", "device": device, "socket": dir.join(file)});
    refused(detach("com1"), "refused", &["com1", "nothing attached"]);
    refused(detach("com2"), "usage", &["com2", "com1, disk0"]);
    refused(
        socket("disk0", "s"),
        "refused",
        &["disk0", "attached already"],
    );
    let mut replace = socket("disk0", "s");
    replace["replace"] = json!(true);
    refused(replace, "refused", &["disk0", "unix:", "/s", "an image"]);
    let none = socket("com1", "none");
    refused(none, "failed", &["com1", "unix:", "/none", "listens"]);
    let mut file = json!({"op": "attach", "device": "com1", "path": dir});
    refused(file.clone(), "failed", &["com1", "give a file"]);
    file["path"] = json!(dir.join("log"));
    file["read_only"] = json!(true);
    refused(file.clone(), "refused", &["com1", "/log", "read-only"]);
    assert!(!dir.join("log").exists());
    file["read_only"] = json!(false);
    assert_eq!(peer.ask(&file)["ok"], true);
    let mut refused = |request: Value, words: &[&str]| {
        let message = peer.ask(&request)["error"]["message"].to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    // Before anything is connected to.
    refused(socket("com1", "none"), &["com1", "/log", "replace"]);
    stand.unhurt();
}

#[test]
fn sd_p04_an_image_that_cannot_come_or_go_is_answered_with_why_and_told_nobody() {
    let stand = Stand::new();
    let dir = stand.path.parent().unwrap();
    let first = dir.join("first");
    std::fs::write(dir.join("odd"), [0; 100]).unwrap();
    std::fs::write(dir.join("free"), [0; 512]).unwrap();
    let taken = dir.join("taken");
    std::fs::write(&taken, [0; 512]).unwrap();
    let _other = DiskImage::open(&taken, DiskAccess::ReadWrite).unwrap();
    let mut watcher = stand.peer();
    assert_eq!(watcher.state("events"), "RUNNING");
    let mut peer = stand.peer();
    let mut refused = |request: Value, kind: &str, words: &[&str]| {
        let reply = peer.ask(&request);
        assert_eq!(reply["error"]["kind"], kind, "{reply}");
        let message = reply["error"]["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
    };
    let attach = |device: &str, file: &str, replace: bool| json!({"op": "attach", "device": device, "path": dir.join(file), "replace": replace});
    refused(
        json!({"op": "detach", "device": "disk7"}),
        "usage",
        &["disk7", "disk0"],
    );
    refused(
        json!({"op": "detach", "device": "rng0"}),
        "refused",
        &["rng0"],
    );
    refused(attach("rng0", "free", true), "refused", &["rng0"]);
    let here = first.to_str().unwrap();
    refused(attach("disk0", "free", false), "refused", &["disk0", here]);
    refused(
        attach("disk0", "first", true),
        "refused",
        &["disk0", here, "detach"],
    );
    for (file, word) in [
        ("none", "/none"),
        ("odd", "512"),
        ("", "directory"),
        ("taken", "in use"),
    ] {
        refused(attach("disk0", file, true), "failed", &["disk", word]);
    }
    let mut read_only = attach("disk0", "free", true);
    read_only["read_only"] = json!(true);
    refused(read_only, "refused", &["disk0", "/free", "read-write"]);
    // None of it has closed the image that is attached.
    assert!(DiskImage::open(&first, DiskAccess::ReadWrite).is_err());
    stand.vm.fail().unwrap();
    for new in ["FATAL_ERROR"] {
        // What was refused by the VM is an error of an operation's; nobody was told of an image.
        let mut told = watcher.line().unwrap();
        while told["event"] == "error" {
            told = watcher.line().unwrap();
        }
        assert_eq!(told["new"], new);
    }
    refused(
        json!({"op": "detach", "device": "disk0"}),
        "refused",
        &["FATAL_ERROR"],
    );
}
