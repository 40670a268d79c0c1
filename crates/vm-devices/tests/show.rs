// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the devices count, and their pages.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::sync::Arc;
use std::time::Duration;

use vm_devices::{Cmos, CmosMemory, DebugExit, Ends, I8042, IoApic, PostPort, Serial, SerialSpec};
use vm_pdm::info::Page;
use vm_pdm::stats::{Pattern, Scope, Stats, Value};
use vm_pdm::{BusBuilder, Buses, Device, IoCtx, IrqLine, MsiSink};

struct Nowhere;

impl MsiSink for Nowhere {
    fn deliver(&self, _: u64, _: u32) {}
    fn route(&self, _: &[Option<(u64, u32)>]) {}
}

fn text(device: &dyn Device) -> String {
    let mut page = Page::new();
    device.info(&mut page).unwrap();
    page.into_text()
}

/// What `device` counted under `name`, having registered just now.
fn count(device: &dyn Device, name: &str) -> u64 {
    let stats = Stats::new();
    let mut scope = Scope::new(&stats, "/d");
    device.stats(&mut scope).unwrap();
    match stats
        .snapshot(&Pattern::default())
        .get(&format!("/d/{name}"))
    {
        Some(Value::Counter(n)) => n,
        other => panic!("{name}: {other:?}"),
    }
}

fn serial() -> (Arc<Serial>, Buses) {
    let ioapic = IoApic::new(Arc::new(Nowhere));
    let irq = IrqLine::new(ioapic, Serial::COM1_GSI);
    let spec = SerialSpec {
        output_bytes: 256,
        ..SerialSpec::default()
    };
    let ends = Ends::new("a sink", None, Box::new(std::io::sink()));
    let serial = Serial::new(spec, irq, Some(ends)).unwrap();
    let mut bus = BusBuilder::new();
    serial.attach(&mut bus).unwrap();
    (serial, bus.build())
}

#[test]
fn a_serial_port_counts_what_is_sent_and_lost_and_its_page_changes_nothing() {
    let (serial, bus) = serial();
    let mut cx = IoCtx::new();
    bus.pio_write(&mut cx, Serial::COM1 + 1, 1, 2);
    for _ in 0..300 {
        bus.pio_write(&mut cx, Serial::COM1, 1, u32::from(b'x'));
    }
    assert_eq!(count(&*serial, "sent"), 256);
    assert_eq!(count(&*serial, "lost"), 44);
    assert_eq!(count(&*serial, "received"), 0);
    assert!(count(&*serial, "interrupts") > 0);
    let first = text(&*serial);
    assert!(
        first.contains("output: 256 of 256 bytes wait for the host, 44 were lost\n"),
        "{first}"
    );
    assert_eq!(text(&*serial), first);
}

#[test]
fn the_small_devices_count_and_show_what_they_have() {
    let post = PostPort::new();
    let cmos = Cmos::new(CmosMemory::default(), Box::new(|| Duration::ZERO));
    let mut bus = BusBuilder::new();
    post.attach(&mut bus).unwrap();
    cmos.attach(&mut bus).unwrap();
    let bus = bus.build();
    let mut cx = IoCtx::new();
    bus.pio_write(&mut cx, PostPort::PORT, 1, 0x42);
    bus.pio_write(&mut cx, Cmos::PORT, 1, 0x0b);
    bus.pio_read(&mut cx, Cmos::PORT + 1, 1);
    bus.pio_write(&mut cx, Cmos::PORT + 1, 1, 0x06);
    assert_eq!(count(&*post, "writes"), 1);
    assert_eq!(text(&*post), "the last code is 0x42\n");
    assert_eq!((count(&*cmos, "reads"), count(&*cmos, "writes")), (1, 1));
    assert_eq!(
        text(&*cmos),
        "the guest's clock is 0 s ahead of the host's\nindex 0x0b, register B 0x06\n"
    );
}

#[test]
fn a_device_without_state_says_that_it_has_nothing_to_show() {
    let stateless: [Arc<dyn Device>; 2] = [DebugExit::new(0xf4), I8042::new()];
    for device in stateless {
        let expected = format!("{} has nothing to show\n", device.name());
        assert_eq!(text(&*device), expected);
    }
}
