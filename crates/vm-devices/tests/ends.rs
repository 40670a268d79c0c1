// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host's ends of a serial port that come and go while its guest sends and receives. What is said of
//! the stream behind it is true of a console too; a console's own is in `virtio/ends.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest;

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::{Driver, Edges, Gate, LIMIT, noise};
use vm_devices::{Ends, IoApic, Serial, SerialInput, SerialSpec};
use vm_pdm::info::Page;
use vm_pdm::stats::{Pattern, Scope, Stats, Value};
use vm_pdm::{
    Begun, BusBuilder, Change, Device, Devices, IoCtx, IrqLine, MsiSink, PlaceError, Places,
    ResetKind,
};

const LINUX: u32 = 512;
/// A limit that is to run out.
const SHORT: Duration = Duration::from_millis(5);

struct Rig {
    serial: Arc<Serial>,
    driver: Driver,
}

impl Rig {
    /// Powered on.
    fn new(ends: Option<Ends>) -> Self {
        let rig = Self::off(ends);
        rig.serial.power_on().unwrap();
        rig
    }

    fn off(ends: Option<Ends>) -> Self {
        Self::with_limit(ends, LIMIT)
    }

    /// Powered off; a power-off waits so long.
    fn with_limit(ends: Option<Ends>, drain_limit: Duration) -> Self {
        let edges = Arc::new(Edges::default());
        let irq = IrqLine::new(Arc::clone(&edges) as Arc<_>, Serial::COM1_GSI);
        let spec = SerialSpec {
            drain_limit,
            ..SerialSpec::default()
        };
        let serial = Serial::new(spec, irq, ends).unwrap();
        let mut bus = BusBuilder::new();
        serial.attach(&mut bus).unwrap();
        let driver = Driver::new(Arc::new(bus.build()), edges, LINUX);
        Self { serial, driver }
    }

    fn write(&self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.driver.write(0, byte));
    }

    /// On interrupts.
    fn send(&mut self, bytes: &[u8]) {
        self.driver.send(bytes);
        while self.driver.sent < self.driver.sends.len() {
            self.driver.interrupt();
        }
    }

    fn receive(&mut self, count: usize) {
        while self.driver.received.len() < count {
            self.driver.interrupt();
        }
    }

    fn change(&self, change: Change<Ends>) -> Result<(), PlaceError> {
        let begun = self.serial.ends().begin(change)?;
        self.serial.ends().settle(begun, LIMIT)
    }

    fn settle(&self, begun: Begun) {
        self.serial.ends().settle(begun, LIMIT).unwrap();
    }

    fn page(&self) -> String {
        let mut page = Page::new();
        self.serial.info(&mut page).unwrap();
        page.into_text()
    }

    fn count(&self, name: &str) -> u64 {
        let stats = Stats::new();
        let mut scope = Scope::new(&stats, "/d");
        self.serial.stats(&mut scope).unwrap();
        match stats
            .snapshot(&Pattern::default())
            .get(&format!("/d/{name}"))
        {
            Some(Value::Counter(n)) => n,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Looks until it is so.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(Instant::now() < end, "{what} never came: {}", self.page());
            std::thread::yield_now();
        }
    }

    /// Stuck in a write of `bytes` to `gate`, for which no power-off waits long.
    fn stuck(bytes: &[u8]) -> (Self, Gate) {
        let gate = Gate::default();
        let rig = Self::with_limit(Some(to(&gate)), SHORT);
        rig.serial.power_on().unwrap();
        rig.write(bytes);
        gate.wait_entered();
        (rig, gate)
    }
}

/// Output to `gate`, no input.
fn to(gate: &Gate) -> Ends {
    Ends::new("a gate", None, Box::new(gate.clone()))
}

fn opened() -> Gate {
    let gate = Gate::default();
    gate.open();
    gate
}

/// Ends of two pipes, and what is at their other ends.
fn pipes() -> (Ends, PipeWriter, PipeReader) {
    let ((input, typed), (screen, output)) = (pipe().unwrap(), pipe().unwrap());
    let output = File::from(OwnedFd::from(output));
    let ends = Ends::new("two pipes", Some(Box::new(input)), Box::new(output));
    (ends, typed, screen)
}

#[test]
fn output_from_before_a_replace_goes_to_the_old_end_and_later_output_to_the_new() {
    let (old, new) = (opened(), opened());
    let rig = Rig::new(Some(to(&old)));
    rig.write(b"one");
    rig.change(Change::Replace(to(&new))).unwrap();
    assert_eq!(old.written(), b"one");
    rig.write(b"two");
    rig.change(Change::Detach).unwrap();
    assert_eq!(
        (old.written(), new.written()),
        (b"one".into(), b"two".into())
    );
}

#[test]
fn output_that_waits_behind_a_stuck_write_is_written_to_the_old_end_before_a_replace() {
    let (rig, old) = Rig::stuck(b"one\n");
    let new = opened();
    rig.write(b"two\n");
    let begun = rig.serial.ends().begin(Change::Replace(to(&new))).unwrap();
    rig.write(b"three\n");
    assert_eq!(rig.serial.ends().attached().as_deref(), Some("a gate"));
    old.open();
    rig.settle(begun);
    assert_eq!(old.written(), b"one\ntwo\n");
    new.wait_for(6);
    assert_eq!(new.written(), b"three\n");
}

/// Notes what it takes, a few bytes at a time, in one note of several sinks'.
struct Note(Arc<Mutex<Vec<(usize, u8)>>>, usize);

impl Write for Note {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let count = buf.len().min(7);
        let taken = buf[..count].iter().map(|&byte| (self.1, byte));
        self.0.lock().unwrap().extend(taken);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn replaces_beside_a_guest_that_sends_lose_double_and_reorder_nothing() {
    const BYTES: usize = 64 << 10;
    let notes: Arc<Mutex<Vec<(usize, u8)>>> = Arc::default();
    let note = |n| Ends::new("notes", None, Box::new(Note(Arc::clone(&notes), n)));
    let mut rig = Rig::new(Some(note(0)));
    let serial = Arc::clone(&rig.serial);
    let expected = noise(BYTES);
    let done = AtomicBool::new(false);
    let changes = std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::SeqCst) {
                n += 1;
                let begun = serial.ends().begin(Change::Replace(note(n))).unwrap();
                serial.ends().settle(begun, LIMIT).unwrap();
            }
            n
        });
        rig.send(&expected);
        done.store(true, Ordering::SeqCst);
        changer.join().unwrap()
    });
    rig.change(Change::Detach).unwrap();
    let notes = std::mem::take(&mut *notes.lock().unwrap());
    assert!(changes > 0 && notes.is_sorted_by_key(|(n, _)| *n));
    let bytes: Vec<u8> = notes.into_iter().map(|(_, byte)| byte).collect();
    assert_eq!(bytes, expected);
    assert_eq!((rig.serial.lost(), rig.count("discarded")), (0, 0));
}

#[test]
fn a_stuck_output_is_late_by_name_and_all_is_as_before() {
    let (rig, old) = Rig::stuck(b"one\n");
    let new = opened();
    rig.write(b"two\n");
    for change in [Change::Replace(to(&new)), Change::Detach] {
        let begun = rig.serial.ends().begin(change).unwrap();
        let late = rig.serial.ends().settle(begun, SHORT).unwrap_err();
        assert!(matches!(late, PlaceError::Late { .. }), "{late}");
        assert!(late.to_string().contains("com1"), "{late}");
        assert_eq!(rig.serial.ends().attached().as_deref(), Some("a gate"));
    }
    rig.write(b"three\n");
    old.open();
    old.wait_for(14);
    assert_eq!(old.written(), b"one\ntwo\nthree\n");
    assert_eq!((new.written(), rig.count("changes")), (vec![], 0));
    rig.change(Change::Replace(to(&new))).unwrap();
    assert_eq!(rig.count("changes"), 1);
}

#[test]
fn input_that_was_read_is_the_guests_and_the_next_is_the_new_ends() {
    let (old, mut typed, _screen) = pipes();
    let (new, mut typed_then, _screen_then) = pipes();
    let mut rig = Rig::new(Some(old));
    let expected = noise(2000);
    typed.write_all(&expected).unwrap();
    // It takes as much as it keeps for the guest, and looks no further.
    rig.until("input", |rig| rig.page().contains("input: 960 bytes wait"));
    rig.change(Change::Replace(new)).unwrap();
    let closed = typed.write_all(b"x").unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::BrokenPipe);
    typed_then.write_all(b"then").unwrap();
    rig.receive(1028);
    assert_eq!(
        rig.driver.received,
        [&expected[..1024], b"then".as_slice()].concat()
    );
}

/// Input that is there, and whose read does not return.
struct Blocked {
    ready: PipeReader,
    entered: Sender<()>,
    go: Receiver<()>,
}

impl Read for Blocked {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        // Who listens may have heard enough.
        let _ = self.entered.send(());
        self.go.recv_timeout(LIMIT).unwrap();
        Err(ErrorKind::WouldBlock.into())
    }
}

impl AsRawFd for Blocked {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

#[test]
fn a_stuck_input_is_late_and_goes_on_when_it_can() {
    let (ready, mut typed) = pipe().unwrap();
    typed.write_all(b"x").unwrap();
    let ((entered, has_entered), (let_go, go)) = (channel(), channel());
    let blocked: Box<dyn SerialInput> = Box::new(Blocked { ready, entered, go });
    let ends = Ends::new("blocked", Some(blocked), Box::new(std::io::sink()));
    let rig = Rig::new(Some(ends));
    has_entered.recv_timeout(LIMIT).unwrap();
    let begun = rig.serial.ends().begin(Change::Detach).unwrap();
    let late = rig.serial.ends().settle(begun, SHORT).unwrap_err();
    assert!(matches!(late, PlaceError::Late { .. }), "{late}");
    let_go.send(()).unwrap();
    has_entered.recv_timeout(LIMIT).unwrap();
    let begun = rig.serial.ends().begin(Change::Detach).unwrap();
    let_go.send(()).unwrap();
    rig.settle(begun);
    assert_eq!(rig.serial.ends().attached(), None);
}

#[test]
fn input_is_read_again_after_a_change_that_was_late() {
    let (input, mut typed) = pipe().unwrap();
    let gate = Gate::default();
    let ends = Ends::new("mixed", Some(Box::new(input)), Box::new(gate.clone()));
    let mut rig = Rig::new(Some(ends));
    rig.write(b"stuck\n");
    gate.wait_entered();
    for round in 1..20 {
        let begun = rig.serial.ends().begin(Change::Detach).unwrap();
        rig.serial.ends().settle(begun, Duration::ZERO).unwrap_err();
        typed.write_all(b"x").unwrap();
        rig.receive(round);
    }
    gate.open();
}

#[test]
fn a_detached_port_takes_output_discards_and_counts_it_and_has_no_input() {
    let (ends, mut typed, mut screen) = pipes();
    let mut rig = Rig::new(Some(ends));
    rig.write(b"seen\n");
    rig.change(Change::Detach).unwrap();
    let mut seen = Vec::new();
    screen.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"seen\n", "and it is closed");
    assert!(typed.write_all(b"x").is_err());
    assert_eq!(rig.serial.ends().attached(), None);
    assert!(
        rig.page().ends_with("attached: nothing\n"),
        "{}",
        rig.page()
    );
    // More than the outbox holds.
    rig.send(&noise(64 << 10));
    rig.serial.power_off().unwrap();
    assert_eq!(rig.count("discarded"), 64 << 10);
    assert_eq!((rig.serial.lost(), rig.count("changes")), (0, 1));
    assert_eq!(rig.driver.received, []);
}

#[test]
fn a_port_may_be_made_without_ends_and_get_them_later() {
    let mut rig = Rig::new(None);
    rig.write(b"nobody listens\n");
    rig.until("a byte", |rig| rig.count("discarded") == 15);
    let (ends, mut typed, mut screen) = pipes();
    rig.change(Change::Attach(ends)).unwrap();
    assert!(
        rig.page().ends_with("attached: two pipes\n"),
        "{}",
        rig.page()
    );
    rig.write(b"hello\n");
    let mut seen = [0; 6];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello\n");
    typed.write_all(b"hi").unwrap();
    rig.receive(2);
    assert_eq!(rig.driver.received, b"hi");
}

struct Nowhere;

impl MsiSink for Nowhere {
    fn deliver(&self, _: u64, _: u32) {}
    fn route(&self, _: &[Option<(u64, u32)>]) {}
}

#[test]
fn sd_p04_ends_that_are_there_already_missing_or_in_a_change_are_refused_by_name() {
    let (rig, gate) = Rig::stuck(b"one\n");
    let mut devices = Devices::new();
    devices.add(rig.serial.clone()).unwrap();
    devices.add(IoApic::new(Arc::new(Nowhere))).unwrap();
    let places: Places<Ends> = Places::new(&devices, vec![rig.serial.ends()]);
    let missing = places.get("com2").err().unwrap();
    assert!(missing.to_string().ends_with("attached to: com1"));
    let fixed = places.get("ioapic").err().unwrap();
    assert!(matches!(fixed, PlaceError::NoPlace { .. }), "{fixed}");
    let place = places.get("com1").unwrap();
    let there = place.begin(Change::Attach(to(&gate))).unwrap_err();
    assert!(matches!(there, PlaceError::Attached { .. }), "{there}");
    assert!(there.to_string().contains("com1 has a gate"), "{there}");
    let begun = place.begin(Change::Detach).unwrap();
    for change in [
        Change::Attach(to(&gate)),
        Change::Replace(to(&gate)),
        Change::Detach,
    ] {
        let underway = place.begin(change).unwrap_err();
        assert!(
            matches!(underway, PlaceError::Underway { .. }),
            "{underway}"
        );
    }
    gate.open();
    rig.settle(begun);
    let empty = place.begin(Change::Detach).unwrap_err();
    assert!(matches!(empty, PlaceError::Empty { .. }), "{empty}");
    assert_eq!(rig.count("changes"), 1);
}

#[test]
fn sd_p12_ends_that_came_while_the_vm_ran_are_quiet_with_their_port() {
    let (rig, new) = (Rig::new(None), opened());
    let (input, mut typed) = pipe().unwrap();
    let ends = Ends::new("mixed", Some(Box::new(input)), Box::new(new.clone()));
    rig.change(Change::Attach(ends)).unwrap();
    rig.serial.suspend().unwrap();
    typed.write_all(b"typed").unwrap();
    rig.write(b"sent\n");
    let rises = rig.driver.edges.rises();
    // Both threads come to a change.
    let third = opened();
    rig.change(Change::Replace(to(&third))).unwrap();
    assert_eq!(rig.serial.queued(), 5, "it stays in the device");
    assert_eq!((new.written(), third.written()), (vec![], vec![]));
    assert_eq!(rig.driver.edges.rises(), rises);
    rig.serial.resume().unwrap();
    third.wait_for(5);
    assert_eq!(third.written(), b"sent\n");
    assert_eq!(new.written(), []);
    rig.write(b"!\n");
    third.wait_for(7);
}

#[test]
fn a_change_waits_for_a_write_and_not_for_a_resume() {
    let (rig, old) = Rig::stuck(b"one\n");
    let new = opened();
    rig.write(b"two\n");
    let begun = rig.serial.ends().begin(Change::Replace(to(&new))).unwrap();
    rig.serial.suspend().unwrap();
    old.open();
    rig.settle(begun);
    assert_eq!((old.written(), new.written()), (b"one\n".into(), vec![]));
    rig.serial.resume().unwrap();
    new.wait_for(4);
    assert_eq!(new.written(), b"two\n");
}

#[test]
fn a_reset_in_a_change_loses_neither_output_nor_the_change() {
    let (rig, old) = Rig::stuck(b"one\n");
    let new = opened();
    rig.write(b"two\n");
    let begun = rig.serial.ends().begin(Change::Replace(to(&new))).unwrap();
    rig.serial.reset(ResetKind::Hard).unwrap();
    rig.write(b"three\n");
    rig.serial.reset(ResetKind::Soft).unwrap();
    old.open();
    rig.settle(begun);
    new.wait_for(6);
    assert_eq!(
        (old.written(), new.written()),
        (b"one\ntwo\n".into(), b"three\n".into())
    );
    rig.serial.reset(ResetKind::Hard).unwrap();
    assert_eq!(rig.serial.ends().attached().as_deref(), Some("a gate"));
}

#[test]
fn a_power_off_in_a_change_writes_all_to_whom_it_was_meant_for() {
    let (old, new) = (Gate::default(), opened());
    let (input, _typed) = pipe().unwrap();
    let ends = Ends::new("mixed", Some(Box::new(input)), Box::new(old.clone()));
    let rig = Rig::new(Some(ends));
    rig.write(b"one\n");
    old.wait_entered();
    rig.write(b"two\n");
    let begun = rig.serial.ends().begin(Change::Replace(to(&new))).unwrap();
    rig.write(b"three\n");
    std::thread::scope(|scope| {
        let off = scope.spawn(|| rig.serial.power_off());
        old.open();
        rig.settle(begun);
        off.join().unwrap().unwrap();
    });
    assert_eq!(
        (old.written(), new.written()),
        (b"one\ntwo\n".into(), b"three\n".into())
    );
}

#[test]
fn what_a_power_off_in_a_change_gave_up_goes_to_what_is_there_at_the_next_power_on() {
    let (rig, old) = Rig::stuck(b"one\n");
    let new = opened();
    rig.write(b"two\n");
    let begun = rig.serial.ends().begin(Change::Replace(to(&new))).unwrap();
    rig.write(b"three\n");
    let stuck = rig.serial.power_off().unwrap_err();
    assert!(stuck.to_string().contains("io-serial-out"), "{stuck}");
    old.open();
    rig.settle(begun);
    rig.until("the end", |rig| rig.serial.power_off().is_ok());
    rig.serial.power_on().unwrap();
    rig.until("the rest", |rig| rig.serial.queued() == 0);
    rig.until("the end", |rig| rig.serial.power_off().is_ok());
    assert_eq!(
        [old.written(), new.written()].concat(),
        b"one\ntwo\nthree\n"
    );
}

#[test]
fn a_change_of_a_port_that_was_powered_off_in_a_stuck_write_is_late() {
    let (rig, old) = Rig::stuck(b"one\n");
    rig.serial.power_off().unwrap_err();
    let begun = rig.serial.ends().begin(Change::Detach).unwrap();
    rig.serial.ends().settle(begun, SHORT).unwrap_err();
    old.open();
    rig.until("the end", |rig| rig.serial.power_off().is_ok());
    rig.change(Change::Detach).unwrap();
    assert_eq!(old.written(), b"one\n");
}

#[test]
fn ends_may_come_and_go_before_power_on_and_after_power_off() {
    let (old, new) = (opened(), opened());
    let rig = Rig::off(Some(to(&old)));
    rig.write(b"one\n");
    rig.change(Change::Replace(to(&new))).unwrap();
    assert_eq!(rig.serial.queued(), 4, "nothing moves before power-on");
    rig.serial.power_on().unwrap();
    rig.serial.power_off().unwrap();
    assert_eq!((old.written(), new.written()), (vec![], b"one\n".into()));
    rig.write(b"two\n");
    rig.change(Change::Detach).unwrap();
    rig.change(Change::Attach(to(&old))).unwrap();
    rig.serial.power_on().unwrap();
    rig.serial.power_off().unwrap();
    assert_eq!(old.written(), b"two\n");
}

#[test]
fn a_peer_that_goes_away_costs_its_bytes_and_nothing_else() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let input = Box::new(ours.try_clone().unwrap());
    let mut rig = Rig::new(Some(Ends::new("a socket", Some(input), Box::new(ours))));
    theirs.write_all(b"bye").unwrap();
    rig.receive(3);
    drop(theirs);
    rig.until("the end of input", |rig| {
        rig.page().contains("no more input comes: ")
    });
    rig.send(&noise(64 << 10));
    rig.until("the last byte", |rig| rig.count("discarded") == 64 << 10);
    let page = rig.page();
    let expected = "attached: a socket\nno more input comes: it has ended\noutput was lost: ";
    assert!(page.contains(expected), "{page}");
    // Another is as good as new.
    let (ends, mut typed, mut screen) = pipes();
    rig.change(Change::Replace(ends)).unwrap();
    assert!(
        rig.page().ends_with("attached: two pipes\n"),
        "{}",
        rig.page()
    );
    typed.write_all(b"x").unwrap();
    rig.receive(4);
    rig.write(b"y\n");
    let mut seen = [0; 2];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"y\n");
}

/// Panics whenever it is used.
struct Broken(PipeReader);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        panic!("an input of the embedder's that panics, as this test wants it to")
    }
}

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("a sink of the embedder's that panics, as this test wants it to")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Broken {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[test]
fn ends_that_panic_can_be_replaced() {
    let broken = || Broken(pipe().unwrap().0);
    let ends = Ends::new("broken", Some(Box::new(broken())), Box::new(broken()));
    let mut rig = Rig::new(Some(ends));
    rig.write(b"lost\n");
    rig.until("both panics", |rig| {
        let page = rig.page();
        page.contains("output was lost") && page.contains("no more input")
    });
    assert_eq!(rig.count("discarded"), 5);
    let (ends, mut typed, mut screen) = pipes();
    rig.change(Change::Replace(ends)).unwrap();
    typed.write_all(b"in").unwrap();
    rig.receive(2);
    rig.write(b"out\n");
    let mut seen = [0; 4];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"out\n");
}

/// What one thread does to the port over and over.
type Deed = fn(&Serial, &Held);

/// A gate that tells whether anybody still has it.
#[derive(Clone)]
struct Held(Gate, Arc<()>);

impl Write for Held {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn changes_beside_walks_resets_a_guest_and_other_changes_leave_a_port_that_works() {
    const ROUNDS: usize = 300;
    fn change(serial: &Serial, change: Change<Ends>, limit: Duration) {
        // Refusals and late ones are part of it.
        if let Ok(begun) = serial.ends().begin(change) {
            let _ = serial.ends().settle(begun, limit);
        }
    }
    let deeds: [Deed; 5] = [
        |serial, gate| {
            let ends = Ends::new("held", None, Box::new(gate.clone()));
            change(serial, Change::Replace(ends), LIMIT);
        },
        |serial, _| {
            change(serial, Change::Detach, Duration::ZERO);
            change(serial, Change::Attach(pipes().0), LIMIT);
        },
        |serial, _| {
            serial.suspend().unwrap();
            let queued = serial.queued();
            std::thread::yield_now();
            assert!(serial.queued() >= queued, "a suspended port sends nothing");
            serial.resume().unwrap();
        },
        |serial, _| serial.reset(ResetKind::Hard).unwrap(),
        |serial, _| {
            use vm_pdm::IoHandler;
            for byte in *b"text\n" {
                serial.write(&mut IoCtx::new(), 0, 1, byte.into());
            }
        },
    ];
    let (rig, gate) = (Rig::new(None), Held(opened(), Arc::new(())));
    std::thread::scope(|scope| {
        for deed in deeds {
            let (serial, gate) = (&*rig.serial, &gate);
            scope.spawn(move || (0..ROUNDS).for_each(|_| deed(serial, gate)));
        }
    });
    let (ends, mut typed, mut screen) = pipes();
    rig.change(Change::Replace(ends)).unwrap();
    assert_eq!(Arc::strong_count(&gate.1), 1, "those that went are closed");
    let mut rig = rig;
    rig.driver.write(1, 1);
    typed.write_all(b"in").unwrap();
    rig.receive(2);
    assert_eq!(rig.driver.received, b"in");
    rig.write(b"out\n");
    rig.change(Change::Detach).unwrap();
    let mut seen = Vec::new();
    screen.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"out\n");
}
