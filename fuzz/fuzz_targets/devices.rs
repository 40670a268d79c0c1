// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary accesses, of any size and at any offset, to the registers of every device, through the
//! buses and past them: no access panics, asks for more than it may, or has a device grow. The input
//! is a sequence of 12-byte acts. No device is powered on, so no thread runs.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use vm_devices::{
    AcpiPm, Cmos, CmosMemory, ConsoleSpec, DebugExit, Ends, Ged, I8042, IoApic, PostPort, Serial, SerialSpec, Virtio,
    VirtioConsole,
};
use vm_pdm::{
    BusBuilder, Buses, Device, Devices, IoCtx, IoHandler, IrqChip, IrqLine, Level, MsiSink, ResetKind,
};
use vmm_fuzz::{Image, Memory};

const OUTPUT: usize = 512;
const WINDOWS: u64 = 0xd000_0000;

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(1 << 16));
static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::new(4096));

struct Nowhere;

impl MsiSink for Nowhere {
    fn deliver(&self, address: u64, _: u32) {
        assert_eq!(address >> 20, 0xfee, "a message to something other than a processor");
    }
    fn route(&self, pins: &[Option<(u64, u32)>]) {
        assert_eq!(pins.len(), 24);
    }
}

/// All devices, and ways to reach them.
struct Machine {
    buses: Buses,
    devices: Devices,
    handlers: Vec<Arc<dyn IoHandler>>,
    ioapic: Arc<IoApic>,
    serial: Arc<Serial>,
    console: Arc<VirtioConsole>,
}

impl Machine {
    fn new(clock_ns: u64) -> Self {
        let mut bus = BusBuilder::new();
        let (mut devices, mut handlers) = (Devices::new(), Vec::<Arc<dyn IoHandler>>::new());
        let ioapic = IoApic::new(Arc::new(Nowhere));
        let line = |gsi| IrqLine::new(Arc::clone(&ioapic) as _, gsi);
        let spec = SerialSpec { output_bytes: OUTPUT, ..SerialSpec::default() };
        let ends = || Some(Ends::new("a sink", None, Box::new(std::io::sink())));
        let serial = Serial::new(spec, line(4), ends()).expect("a serial port");
        let memory = CmosMemory { below_4g_bytes: 3 << 30, above_4g_bytes: 1 << 40 };
        let ram = MEMORY.fresh();
        let spec = ConsoleSpec { output_bytes: OUTPUT, ..ConsoleSpec::new("console0", WINDOWS + 0x2000) };
        let console = VirtioConsole::new(spec, line(7), ram.clone(), ends());
        let console = console.expect("a console");
        macro_rules! add {
            ($($device:expr),* $(,)?) => {$({
                let device = $device;
                device.attach(&mut bus).expect("an address of its own");
                devices.add(Arc::clone(&device) as Arc<dyn Device>).expect("a name of its own");
                handlers.push(device);
            })*};
        }
        add!(
            Arc::clone(&ioapic),
            Arc::clone(&serial),
            Cmos::new(memory, Box::new(move || Duration::from_nanos(clock_ns))),
            I8042::new(),
            AcpiPm::new(),
            PostPort::new(),
            Ged::new(line(8), 4, 2),
            DebugExit::new(DebugExit::DEFAULT_PORT),
            Virtio::disk("disk0", WINDOWS, line(5), ram.clone(), IMAGE.fresh()),
            Virtio::entropy("rng0", WINDOWS + 0x1000, line(6), ram),
            Arc::clone(&console),
        );
        Self { buses: bus.build(), devices, handlers, ioapic, serial, console }
    }

    /// One act: what, how wide, where, and eight bytes.
    fn act(&self, cx: &mut IoCtx, act: &[u8; 12]) {
        let [what, size, a, b, value @ ..] = *act;
        let (place, value) = (u16::from_le_bytes([a, b]), u64::from_le_bytes(value));
        let narrow = u32::from_le_bytes([act[4], act[5], act[6], act[7]]);
        let window = WINDOWS + u64::from(place % 0x3000);
        let handler = &self.handlers[usize::from(a) % self.handlers.len()];
        match what % 12 {
            0 => drop(self.buses.pio_read(cx, place, size)),
            1 => self.buses.pio_write(cx, place, size, narrow),
            // The ports that there are.
            2 => drop(self.buses.pio_read(cx, port(a), size % 5)),
            3 => self.buses.pio_write(cx, port(a), size % 5, narrow),
            4 => drop(self.buses.mmio_read(cx, window, size)),
            5 => self.buses.mmio_write(cx, window, size, value),
            6 => self.buses.mmio_write(cx, window & !3, 4, narrow.into()),
            7 => self.buses.mmio_write(cx, IoApic::BASE + u64::from(place & 0x1f0), 4, narrow.into()),
            // Past the bus, which a handler may not rely on.
            8 => drop(handler.read(cx, value, size)),
            9 => handler.write(cx, u64::from(b), size, value),
            10 if size % 2 == 0 => self.ioapic.eoi(a),
            10 => self.ioapic.set(u32::from(a % 26), if b % 2 == 0 { Level::Low } else { Level::High }),
            _ if size % 4 == 0 => self.devices.reset(ResetKind::Hard).expect("never refused"),
            _ if size % 4 == 1 => self.devices.reset(ResetKind::Soft).expect("never refused"),
            _ if size % 4 == 2 => self.devices.suspend().expect("never refused"),
            _ => self.devices.resume().expect("never refused"),
        }
        assert!(cx.take().len() <= 8, "an access asks for at most one thing a byte");
        assert!(self.serial.queued() <= OUTPUT && self.console.queued() <= OUTPUT);
    }
}

/// A port that a device has.
fn port(n: u8) -> u16 {
    const BASES: [u16; 11] = [0x3f8, 0x3fc, 0x70, 0x60, 0x64, 0x80, 0xf4, 0x600, 0x610, 0x614, 0x618];
    BASES[usize::from(n % 11)] + u16::from(n / 11 % 4)
}

fuzz_target!(|data: &[u8]| {
    let clock = data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let machine = Machine::new(clock);
    let mut cx = IoCtx::new();
    for act in data.as_chunks::<12>().0 {
        machine.act(&mut cx, act);
    }
});
