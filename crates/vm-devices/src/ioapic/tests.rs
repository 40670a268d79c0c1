// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What inputs, entries and acknowledgements make of each other.

use super::*;

#[derive(Default)]
struct Sink {
    delivered: Mutex<Vec<Message>>,
    routes: Mutex<Vec<Vec<Option<Message>>>>,
    /// Called while a route is published.
    during_route: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl MsiSink for Sink {
    fn deliver(&self, addr: u64, data: u32) {
        self.delivered.lock().unwrap().push((addr, data));
    }

    fn route(&self, pins: &[Option<Message>]) {
        self.routes.lock().unwrap().push(pins.to_vec());
        let hook = self.during_route.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
    }
}

struct Rig {
    chip: Arc<IoApic>,
    sink: Arc<Sink>,
}

impl Rig {
    fn new() -> Self {
        let sink = Arc::new(Sink::default());
        Self {
            chip: IoApic::new(Arc::clone(&sink) as Arc<dyn MsiSink>),
            sink,
        }
    }

    fn write(&self, index: u8, value: u32) {
        let mut cx = IoCtx::new();
        self.chip.write(&mut cx, SELECT, 4, index.into());
        self.chip.write(&mut cx, WINDOW, 4, value.into());
    }

    fn read(&self, index: u8) -> u32 {
        let mut cx = IoCtx::new();
        self.chip.write(&mut cx, SELECT, 4, index.into());
        u32::try_from(self.chip.read(&mut cx, WINDOW, 4)).unwrap()
    }

    /// Writes the low half of an entry.
    fn entry(&self, pin: u8, low: u32) {
        self.write(0x10 + 2 * pin, low);
    }

    fn delivered(&self) -> Vec<Message> {
        std::mem::take(&mut self.sink.delivered.lock().unwrap())
    }

    fn last_routes(&self) -> Vec<Option<Message>> {
        self.sink
            .routes
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }

    fn irr(&self, pin: u8) -> bool {
        u64::from(self.read(0x10 + 2 * pin)) & REMOTE_IRR != 0
    }
}

const EDGE_0X31: Message = (0xfee0_0000, 0x31);
const LEVEL_0X31: Message = (0xfee0_0000, 0xc031);
const LEVEL_LOW: u32 = 0x8000;
const MASK_LOW: u32 = 0x1_0000;

#[test]
fn identification_is_a_version_0x20_with_24_inputs() {
    let rig = Rig::new();
    assert_eq!(rig.read(1), 0x0017_0020);
    rig.write(0, 0xffff_ffff);
    assert_eq!((rig.read(0), rig.read(2)), (0x0f00_0000, 0x0f00_0000));
    rig.write(1, 0);
    assert_eq!(rig.read(1), 0x0017_0020);
    assert_eq!(rig.read(0x10), MASK_LOW, "entries begin masked");
    assert_eq!(rig.read(0x40), 0, "no such register");
}

#[test]
fn entries_keep_what_a_guest_can_write() {
    let rig = Rig::new();
    rig.write(0x3e, 0xffff_ffff);
    rig.write(0x3f, 0xffff_ffff);
    assert_eq!(
        rig.read(0x3e),
        0x0001_afff,
        "delivery status and remote IRR are read-only"
    );
    assert_eq!(rig.read(0x3f), 0xff00_0000);
}

#[test]
fn an_edge_input_delivers_at_each_rising_edge() {
    let rig = Rig::new();
    rig.entry(4, 0x31);
    rig.chip.set(4, Level::High);
    assert_eq!(rig.delivered(), [EDGE_0X31]);
    rig.chip.set(4, Level::High);
    assert_eq!(rig.delivered(), [], "still high");
    rig.chip.set(4, Level::Low);
    rig.chip.set(4, Level::High);
    assert_eq!(rig.delivered(), [EDGE_0X31]);
    assert!(!rig.irr(4));
}

#[test]
fn a_masked_edge_is_lost() {
    let rig = Rig::new();
    rig.entry(4, 0x31 | MASK_LOW);
    rig.chip.set(4, Level::High);
    rig.entry(4, 0x31);
    assert_eq!(rig.delivered(), []);
}

#[test]
fn a_level_input_delivers_once_until_acknowledged_and_again_while_asserted() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.chip.set(9, Level::High);
    assert_eq!(rig.delivered(), [LEVEL_0X31]);
    assert!(rig.irr(9));
    rig.chip.eoi(0x30);
    assert_eq!(rig.delivered(), [], "another vector");
    rig.chip.eoi(0x31);
    assert_eq!(rig.delivered(), [LEVEL_0X31], "still asserted");
    rig.chip.set(9, Level::Low);
    rig.chip.eoi(0x31);
    assert_eq!(rig.delivered(), []);
    assert!(!rig.irr(9));
}

#[test]
fn two_level_inputs_that_share_a_vector_both_deliver_again() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.entry(10, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.chip.set(10, Level::High);
    rig.delivered();
    IrqChip::eoi(rig.chip.as_ref(), 0x31);
    assert_eq!(rig.delivered(), [LEVEL_0X31, LEVEL_0X31]);
}

#[test]
fn the_eoi_register_acknowledges_too() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.chip.set(9, Level::Low);
    rig.chip.write(&mut IoCtx::new(), EOI, 4, 0x31);
    assert!(!rig.irr(9));
}

#[test]
fn a_masked_level_input_delivers_when_unmasked_if_still_asserted() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW | MASK_LOW);
    rig.chip.set(9, Level::High);
    assert_eq!(rig.delivered(), []);
    rig.entry(9, 0x31 | LEVEL_LOW);
    assert_eq!(rig.delivered(), [LEVEL_0X31]);
}

#[test]
fn going_to_edge_forgets_an_interrupt_in_service() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.entry(9, 0x31 | MASK_LOW);
    assert!(!rig.irr(9));
    rig.delivered();
    rig.entry(9, 0x31 | LEVEL_LOW);
    assert_eq!(rig.delivered(), [LEVEL_0X31]);
}

#[test]
fn destination_and_delivery_mode_are_in_the_message() {
    let rig = Rig::new();
    rig.write(0x11, 0xab00_0000);
    for (low, message) in [
        (0x0031, Some((0xfeea_b000, 0x0031))),
        (0x0931, Some((0xfeea_b004, 0x0131))),
        (0x0200, Some((0xfeea_b000, 0x0200))),
        (0x8400, Some((0xfeea_b000, 0x0400))),
        (0x0500, Some((0xfeea_b000, 0x0500))),
        (0x8700, Some((0xfeea_b000, 0x0700))),
        (0x0331, None),
        (0x0631, None),
    ] {
        rig.entry(0, low);
        rig.chip.set(0, Level::High);
        rig.chip.set(0, Level::Low);
        assert_eq!(rig.delivered(), Vec::from_iter(message), "{low:#x}");
        assert!(!rig.irr(0));
    }
}

#[test]
fn routes_are_published_when_they_change_and_only_then() {
    let rig = Rig::new();
    rig.entry(4, 0x31);
    assert_eq!(rig.last_routes()[4], Some(EDGE_0X31));
    assert_eq!(rig.last_routes().iter().flatten().count(), 1);
    rig.entry(4, 0x31);
    rig.entry(5, 0x32 | MASK_LOW);
    assert_eq!(rig.sink.routes.lock().unwrap().len(), 1);
    rig.entry(4, 0x31 | MASK_LOW);
    assert_eq!(rig.last_routes(), [None; PINS]);
}

#[test]
fn a_masked_input_in_service_keeps_its_route_for_the_acknowledgement() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.entry(9, 0x31 | LEVEL_LOW | MASK_LOW);
    assert_eq!(rig.last_routes()[9], Some(LEVEL_0X31));
    rig.delivered();
    rig.chip.eoi(0x31);
    assert_eq!(rig.delivered(), [], "masked");
    rig.entry(9, 0x31 | LEVEL_LOW);
    assert_eq!(rig.delivered(), [LEVEL_0X31]);
}

#[test]
fn what_happens_while_a_route_is_published_is_delivered_after_it() {
    for (low, message) in [(0x31, EDGE_0X31), (0x31 | LEVEL_LOW, LEVEL_0X31)] {
        let rig = Rig::new();
        let (chip, sink) = (Arc::clone(&rig.chip), Arc::clone(&rig.sink));
        *rig.sink.during_route.lock().unwrap() = Some(Box::new(move || {
            chip.set(4, Level::High);
            chip.set(4, Level::Low);
            chip.set(4, Level::High);
            assert_eq!(*sink.delivered.lock().unwrap(), [], "not before its route");
        }));
        rig.entry(4, low);
        assert_eq!(rig.delivered(), [message]);
    }
}

#[test]
fn an_input_that_does_not_exist_and_a_window_of_the_wrong_width_do_nothing() {
    let rig = Rig::new();
    rig.chip.set(24, Level::High);
    rig.chip.set(u32::MAX, Level::High);
    let mut cx = IoCtx::new();
    rig.chip.write(&mut cx, SELECT, 1, 0x10);
    rig.chip.write(&mut cx, WINDOW, 1, 0x31);
    rig.chip.write(&mut cx, WINDOW, 8, 0x31);
    assert_eq!(rig.read(0x10), MASK_LOW);
    assert_eq!(rig.delivered(), []);
}

#[test]
fn a_hard_reset_masks_all_and_withdraws_routes_but_keeps_levels() {
    let rig = Rig::new();
    rig.entry(9, 0x31 | LEVEL_LOW);
    rig.chip.set(9, Level::High);
    rig.delivered();
    rig.chip.reset(ResetKind::Soft).unwrap();
    assert!(rig.irr(9), "a soft reset leaves it alone");
    rig.chip.reset(ResetKind::Hard).unwrap();
    assert_eq!(rig.last_routes(), [None; PINS]);
    assert_eq!(rig.read(0x10 + 18), MASK_LOW);
    rig.entry(9, 0x31 | LEVEL_LOW);
    assert_eq!(rig.delivered(), [LEVEL_0X31], "its device still asserts it");
}

#[test]
fn messages_are_counted_by_input_and_the_page_shows_the_inputs_in_use() {
    let rig = Rig::new();
    let stats = vm_pdm::stats::Stats::new();
    let mut scope = Scope::new(&stats, "/device/ioapic");
    rig.chip.stats(&mut scope).unwrap();
    rig.entry(4, 0x31);
    rig.chip.set(4, Level::High);
    rig.chip.set(4, Level::Low);
    rig.chip.set(4, Level::High);
    rig.chip.set(5, Level::High);
    rig.chip.eoi(0x31);
    let snapshot = stats.snapshot(&vm_pdm::stats::Pattern::default());
    let count = |name: &str| snapshot.get(&format!("/device/ioapic/{name}"));
    let counter = |n| Some(vm_pdm::stats::Value::Counter(n));
    assert_eq!(count("pin/4/delivered"), counter(2));
    assert_eq!(count("pin/5/delivered"), counter(0));
    assert_eq!((count("eois"), count("routed")), (counter(1), counter(1)));
    let mut page = Page::new();
    rig.chip.info(&mut page).unwrap();
    assert_eq!(
        page.into_text(),
        "inputs asserted: 0x000030\n\
         input  4: asserted, open, edge, vector 0x31, mode 0, physical destination 0x00; 2 messages\n\
         input  5: asserted, masked, edge, vector 0x00, mode 0, physical destination 0x00; 0 messages\n"
    );
}
