// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A console: nothing is lost either way, nobody but the guest's console waits for its reader.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use proptest::prelude::*;
use vm_devices::{ConsoleSpec, Ends, GuestRam, SerialInput, VirtioConsole};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vm_pdm::info::Page;
use vm_pdm::{BusBuilder, Buses, Device, IoCtx, IrqChip, IrqLine, Level, ResetKind};

const ADDRESS: u64 = 0xd000_0000;
const RAM: u64 = 1 << 20;
const QUEUE: u16 = 16;
/// Buffers, a page each: of input, then of output.
const DATA: u64 = 0x4_0000;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const WRITE: u16 = 2;

/// Only a device that hangs takes this long.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

struct Edges(Mutex<Sender<()>>);

impl IrqChip for Edges {
    fn set(&self, _: u32, level: Level) {
        if level == Level::High {
            // Nobody listens any more when the guest is gone.
            let _ = self.0.lock().unwrap().send(());
        }
    }
}

/// A guest's driver, and both ends of the host.
pub(super) struct Guest {
    pub(super) console: Arc<VirtioConsole>,
    ram: GuestRam,
    bus: Buses,
    interrupts: Receiver<()>,
    /// Per queue.
    available: [u16; 2],
    used: [u16; 2],
    pub(super) typed: PipeWriter,
    pub(super) screen: PipeReader,
}

/// Where table, available and used ring of a queue are.
fn rings(queue: u16) -> (u64, u64, u64) {
    let base = 0x1_0000 * u64::from(queue + 1);
    (base, base + 0x1000, base + 0x2000)
}

fn page(queue: u16, slot: u16) -> u64 {
    DATA + u64::from(queue * QUEUE + slot) * 0x1000
}

impl Guest {
    pub(super) fn new() -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), usize::try_from(RAM).unwrap())]);
        let ram = ram.unwrap();
        let (edges, interrupts) = channel();
        let irq = IrqLine::new(Arc::new(Edges(Mutex::new(edges))), 5);
        let (input, typed) = pipe().unwrap();
        let (screen, output) = pipe().unwrap();
        let input: Box<dyn SerialInput> = Box::new(input);
        let output = Box::new(File::from(OwnedFd::from(output)));
        let spec = ConsoleSpec::new("console0", ADDRESS);
        let ends = Ends::new("two pipes", Some(input), output);
        let console = VirtioConsole::new(spec, irq, ram.clone(), Some(ends)).unwrap();
        let mut bus = BusBuilder::new();
        console.attach(&mut bus).unwrap();
        console.power_on().unwrap();
        let mut this = Self {
            console,
            ram,
            bus: bus.build(),
            interrupts,
            available: [0; 2],
            used: [0; 2],
            typed,
            screen,
        };
        this.start();
        this
    }

    fn read(&self, offset: u64) -> u64 {
        self.bus.mmio_read(&mut IoCtx::new(), ADDRESS + offset, 4)
    }

    fn write(&self, offset: u64, value: u64) {
        self.bus
            .mmio_write(&mut IoCtx::new(), ADDRESS + offset, 4, value);
    }

    pub(super) fn start(&mut self) {
        for (offset, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 0),
            (0x20, 0),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
        ] {
            self.write(offset, value);
        }
        for queue in [RECEIVE, TRANSMIT] {
            let (table, available, used) = rings(queue);
            for at in [table, available, used] {
                self.put(at, &[0; 0x1000]);
            }
            for (offset, value) in [
                (0x30, queue.into()),
                (0x38, QUEUE.into()),
                (0x80, table),
                (0x90, available),
                (0xa0, used),
                (0x44, 1),
            ] {
                self.write(offset, value);
            }
        }
        (self.available, self.used) = ([0; 2], [0; 2]);
        self.write(0x70, 15);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    /// Makes a buffer available; its slot.
    fn offer(&mut self, queue: u16, at: u64, bytes: u32) -> u16 {
        let (table, available, _) = rings(queue);
        let index = &mut self.available[usize::from(queue)];
        let slot = *index % QUEUE;
        *index = index.wrapping_add(1);
        let (index, entry) = (*index, table + 16 * u64::from(slot));
        let flags = if queue == RECEIVE { WRITE } else { 0 };
        self.put(entry, &at.to_le_bytes());
        self.put(entry + 8, &bytes.to_le_bytes());
        self.put(entry + 12, &flags.to_le_bytes());
        self.put(available + 4 + 2 * u64::from(slot), &slot.to_le_bytes());
        self.put(available + 2, &index.to_le_bytes());
        slot
    }

    fn ring(&self, queue: u16) {
        self.write(0x50, queue.into());
    }

    fn used(&self, queue: u16) -> u16 {
        self.ram.read_obj(GuestAddress(rings(queue).2 + 2)).unwrap()
    }

    /// Offers a buffer of output if a slot is free; whether one was.
    pub(super) fn try_send(&mut self, bytes: &[u8]) -> bool {
        let n = usize::from(TRANSMIT);
        if self.available[n].wrapping_sub(self.used(TRANSMIT)) == QUEUE {
            return false;
        }
        let at = page(TRANSMIT, self.available[n] % QUEUE);
        self.put(at, bytes);
        self.offer(TRANSMIT, at, u32::try_from(bytes.len()).unwrap());
        self.ring(TRANSMIT);
        true
    }

    /// Offers a page for input.
    pub(super) fn listen(&mut self, bytes: u32) {
        let at = page(RECEIVE, self.available[0] % QUEUE);
        self.offer(RECEIVE, at, bytes);
        self.ring(RECEIVE);
    }

    pub(super) fn interrupt(&self) {
        self.interrupts.recv_timeout(LIMIT).expect("an interrupt");
        let status = self.read(0x60);
        self.write(0x64, status);
    }

    /// The bytes of the next buffer of input that is given back.
    pub(super) fn received(&mut self) -> Vec<u8> {
        while self.used(RECEIVE) == self.used[0] {
            self.interrupt();
        }
        let entry = rings(RECEIVE).2 + 4 + 8 * u64::from(self.used[0] % QUEUE);
        self.used[0] = self.used[0].wrapping_add(1);
        let slot: u32 = self.ram.read_obj(GuestAddress(entry)).unwrap();
        let bytes: u32 = self.ram.read_obj(GuestAddress(entry + 4)).unwrap();
        let mut data = vec![0; usize::try_from(bytes).unwrap()];
        let at = page(RECEIVE, u16::try_from(slot).unwrap());
        self.ram.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    fn is_broken(&self) -> bool {
        self.read(0x70) & 0x40 != 0
    }

    fn dirty(&self) -> Vec<u64> {
        let region = self.ram.find_region(GuestAddress(0)).unwrap();
        (0..RAM)
            .step_by(4096)
            .filter(|at| region.bitmap().dirty_at(usize::try_from(*at).unwrap()))
            .collect()
    }

    fn clean(&self) {
        for region in self.ram.iter() {
            region.get_mmap().bitmap().reset();
        }
    }
}

pub(super) fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1].wrapping_mul(31))
        .collect()
}

/// A thread, which the test joins.
fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).unwrap()
}

#[test]
fn it_is_a_console_with_one_port() {
    let guest = Guest::new();
    assert_eq!((guest.read(0), guest.read(8)), (0x7472_6976, 3));
    // No size, no multiport, no emergency write.
    guest.write(0x14, 0);
    assert_eq!(guest.read(0x10) & 7, 0);
    guest.write(0x30, 2);
    assert_eq!(guest.read(0x34), 0, "two queues");
}

#[test]
fn output_arrives_whole_and_in_order() {
    let mut guest = Guest::new();
    let expected = noise(200_000);
    let mut screen = guest.screen.try_clone().unwrap();
    let reader = spawn("reader", move || {
        let mut bytes = vec![0; 200_000];
        screen.read_exact(&mut bytes).unwrap();
        bytes
    });
    for piece in expected.chunks(999) {
        while !guest.try_send(piece) {
            std::thread::yield_now();
        }
    }
    assert!(reader.join().unwrap() == expected);
}

#[test]
fn a_buffer_larger_than_the_outbox_passes_through_it() {
    let mut guest = Guest::new();
    // All of the data pages but the last, as one buffer.
    let bytes = 31 * 4096;
    let expected = noise(bytes);
    guest.put(DATA, &expected);
    guest.offer(TRANSMIT, DATA, u32::try_from(bytes).unwrap());
    guest.ring(TRANSMIT);
    let mut got = vec![0; bytes];
    guest.screen.read_exact(&mut got).unwrap();
    assert!(got == expected);
    while guest.used(TRANSMIT) == 0 {
        guest.interrupt();
    }
}

#[test]
fn input_arrives_whole_and_in_order_however_small_the_buffers_are() {
    for room in [1, 7, 4096] {
        let mut guest = Guest::new();
        let expected = noise(3000);
        let mut typed = guest.typed.try_clone().unwrap();
        let bytes = expected.clone();
        let writer = spawn("writer", move || typed.write_all(&bytes).unwrap());
        for _ in 0..QUEUE {
            guest.listen(room);
        }
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.extend(guest.received());
            guest.listen(room);
        }
        assert_eq!(got, expected, "{room}");
        writer.join().unwrap();
    }
}

#[test]
fn what_is_typed_before_the_driver_starts_is_not_lost() {
    let mut guest = Guest::new();
    guest.write(0x70, 0);
    guest.typed.write_all(b"early").unwrap();
    guest.start();
    guest.listen(64);
    let mut got = guest.received();
    while got.len() < 5 {
        guest.listen(64);
        got.extend(guest.received());
    }
    assert_eq!(got, b"early");
}

#[test]
fn input_marks_its_buffer_and_the_used_ring_and_nothing_else() {
    let mut guest = Guest::new();
    guest.listen(64);
    guest.clean();
    guest.typed.write_all(b"x").unwrap();
    assert_eq!(guest.received(), b"x");
    assert_eq!(guest.dirty(), [rings(RECEIVE).2, page(RECEIVE, 0)]);
}

#[test]
fn a_stalled_reader_delays_neither_an_access_nor_a_suspend_and_loses_nothing() {
    let mut guest = Guest::new();
    let mut sent = Vec::new();
    // Until the pipe, the thread's chunk, the outbox and the queue are full.
    let mut fails = 0;
    while fails < 1000 {
        let piece = noise(1000 + sent.len() % 7);
        if guest.try_send(&piece) {
            sent.extend(piece);
            fails = 0;
        } else {
            fails += 1;
            std::thread::yield_now();
        }
    }
    assert!(guest.console.queued() <= 16 << 10);
    guest.console.suspend().unwrap();
    assert!(!guest.console.is_pending());
    let before = guest.used(TRANSMIT);
    let mut got = vec![0; 4096];
    guest.screen.read_exact(&mut got).unwrap();
    assert_eq!(guest.used(TRANSMIT), before, "suspended");
    guest.console.resume().unwrap();
    let mut rest = vec![0; sent.len() - got.len()];
    guest.screen.read_exact(&mut rest).unwrap();
    got.extend(rest);
    assert!(got == sent);
}

#[test]
fn input_waits_while_suspended() {
    let mut guest = Guest::new();
    guest.listen(64);
    guest.console.suspend().unwrap();
    guest.typed.write_all(b"held").unwrap();
    guest.clean();
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    assert_eq!((guest.used(RECEIVE), guest.dirty()), (0, vec![]));
    guest.console.resume().unwrap();
    assert_eq!(guest.received(), b"held");
}

#[test]
fn a_hard_reset_forgets_the_driver_and_its_unfinished_buffer() {
    let mut guest = Guest::new();
    // More than pipe, chunk and outbox take, so it stays under way.
    guest.offer(TRANSMIT, 0x1000, u32::try_from(RAM - 0x1000).unwrap());
    guest.ring(TRANSMIT);
    assert_eq!(guest.used(TRANSMIT), 0);
    guest.console.reset(ResetKind::Hard).unwrap();
    assert_eq!(guest.read(0x70), 0);
    guest.start();
    guest.listen(64);
    guest.typed.write_all(b"after").unwrap();
    assert_eq!(guest.received(), b"after");
    assert_eq!(guest.used(TRANSMIT), 0);
}

#[test]
fn buffers_that_cannot_be_break_the_device_and_a_reset_mends_it() {
    for (queue, at, bytes) in [
        (TRANSMIT, DATA, 0),
        (TRANSMIT, RAM, 8),
        (TRANSMIT, u64::MAX - 3, 8),
        (RECEIVE, DATA, 0),
        (RECEIVE, RAM - 4, 8),
    ] {
        let mut guest = Guest::new();
        guest.typed.write_all(b"12345678").unwrap();
        guest.offer(queue, at, bytes);
        guest.ring(queue);
        while !guest.is_broken() {
            guest.interrupt();
        }
        guest.start();
        assert!(guest.try_send(b"ok"));
        let mut got = [0; 2];
        guest.screen.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ok");
    }
}

#[test]
fn power_off_writes_what_is_left_and_power_on_goes_on() {
    let mut guest = Guest::new();
    assert!(guest.try_send(b"no line"));
    guest.console.power_off().unwrap();
    let mut got = [0; 7];
    guest.screen.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"no line");
    guest.console.power_on().unwrap();
    guest.start();
    assert!(guest.try_send(b"again"));
    let mut got = [0; 5];
    guest.screen.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"again");
}

#[test]
fn its_page_tells_what_waits() {
    let mut guest = Guest::new();
    guest.console.power_off().unwrap();
    assert!(guest.try_send(b"waits"));
    let mut page = Page::new();
    guest.console.info(&mut page).unwrap();
    assert_eq!(
        page.into_text(),
        "status 0x0f, the driver accepted 0x100000000\nqueue 0: 16 entries, may have work\n\
         queue 1: 16 entries, no work\noutput: 5 of 16384 bytes wait for the host\n\
         input: 0 bytes wait for the guest\n\
         attached: two pipes\n"
    );
}

/// Something a guest, a typist or the VM does.
#[derive(Debug, Clone)]
enum Act {
    Register { offset: u64, value: u32 },
    Buffer { queue: u16, at: u64, bytes: u32 },
    Index { queue: u16, index: u16 },
    Ring(u16),
    Start,
    Type(u8),
    Reset,
    SuspendResume,
}

fn act() -> impl Strategy<Value = Act> {
    let at = prop_oneof![4 => DATA..RAM, 1 => RAM - 8..RAM + 8, 1 => any::<u64>()];
    let bytes = prop_oneof![4 => 1..3000_u32, 1 => Just(0), 1 => any::<u32>()];
    let value = prop_oneof![0..20_u32, any::<u32>()];
    prop_oneof![
        1 => ((0..0x40_u64).prop_map(|n| n * 4), value)
            .prop_map(|(offset, value)| Act::Register { offset, value }),
        8 => (0..2_u16, at, bytes).prop_map(|(queue, at, bytes)| Act::Buffer { queue, at, bytes }),
        1 => (0..2_u16, any::<u16>()).prop_map(|(queue, index)| Act::Index { queue, index }),
        6 => (0..3_u16).prop_map(Act::Ring),
        1 => Just(Act::Start),
        2 => (1..100_u8).prop_map(Act::Type),
        1 => Just(Act::Reset),
        1 => Just(Act::SuspendResume),
    ]
}

fn perform(guest: &mut Guest, act: &Act) {
    match act {
        Act::Register { offset, value } => guest.write(*offset, (*value).into()),
        Act::Buffer { queue, at, bytes } => {
            guest.offer(*queue, *at, *bytes);
        }
        Act::Index { queue, index } => guest.put(rings(*queue).1 + 2, &index.to_le_bytes()),
        Act::Ring(queue) => guest.ring(*queue),
        Act::Start => guest.start(),
        Act::Type(bytes) => guest.typed.write_all(&noise((*bytes).into())).unwrap(),
        Act::Reset => guest.console.reset(ResetKind::Hard).unwrap(),
        Act::SuspendResume => {
            guest.console.suspend().unwrap();
            guest.console.resume().unwrap();
        }
    }
    assert!(guest.console.queued() <= 16 << 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Its threads end if they panic, and then nothing passes any more.
    #[test]
    fn whatever_a_driver_does_the_console_works_after_a_reset(
        acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut guest = Guest::new();
        let mut screen = guest.screen.try_clone().unwrap();
        let reader = spawn("reader", move || {
            let mut last = [0; 4];
            let mut bytes = [0; 4096];
            while &last != b"done" {
                let count = screen.read(&mut bytes).unwrap();
                for byte in &bytes[..count] {
                    last.rotate_left(1);
                    last[3] = *byte;
                }
            }
        });
        for act in &acts {
            perform(&mut guest, act);
        }
        guest.start();
        prop_assert!(guest.try_send(b"done"));
        reader.join().unwrap();
        guest.typed.write_all(b"x").unwrap();
        guest.listen(16);
        prop_assert!(!guest.received().is_empty());
    }
}
