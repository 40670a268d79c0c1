// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whatever a guest does, from however many vCPUs: no device panics, none grows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use vm_devices::{
    AcpiPm, Cmos, CmosMemory, DebugExit, Ends, I8042, IoApic, PostPort, Serial, SerialSpec,
};
use vm_pdm::{
    BusBuilder, Buses, Device, Devices, IoCtx, IoHandler, IrqChip, IrqLine, Level, MsiSink,
    ResetKind,
};

struct Nowhere;

impl MsiSink for Nowhere {
    fn deliver(&self, addr: u64, _: u32) {
        assert_eq!(
            addr >> 20,
            0xfee,
            "a message to something other than a processor"
        );
    }
    fn route(&self, pins: &[Option<(u64, u32)>]) {
        assert_eq!(pins.len(), 24);
    }
}

struct Machine {
    buses: Buses,
    handlers: Vec<Arc<dyn IoHandler>>,
    devices: Devices,
    serial: Arc<Serial>,
    ioapic: Arc<IoApic>,
}

const OUTPUT: usize = 512;

fn machine(clock_ns: u64) -> Machine {
    let mut bus = BusBuilder::new();
    let mut devices = Devices::new();
    let ioapic = IoApic::new(Arc::new(Nowhere));
    let irq = IrqLine::new(Arc::clone(&ioapic) as Arc<_>, Serial::COM1_GSI);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let spec = SerialSpec {
        output_bytes: OUTPUT,
        ..SerialSpec::default()
    };
    let ends = Ends::new("a pipe", Some(Box::new(reader)), Box::new(std::io::sink()));
    let serial = Serial::new(spec, irq, Some(ends)).unwrap();
    let memory = CmosMemory {
        below_4g_bytes: 3 << 30,
        above_4g_bytes: 1 << 40,
    };
    let cmos = Cmos::new(memory, Box::new(move || Duration::from_nanos(clock_ns)));
    let (i8042, acpi, post) = (I8042::new(), AcpiPm::new(), PostPort::new());
    let exit = DebugExit::new(DebugExit::DEFAULT_PORT);
    ioapic.attach(&mut bus).unwrap();
    serial.attach(&mut bus).unwrap();
    cmos.attach(&mut bus).unwrap();
    i8042.attach(&mut bus).unwrap();
    acpi.attach(&mut bus).unwrap();
    post.attach(&mut bus).unwrap();
    exit.attach(&mut bus).unwrap();
    let all: [Arc<dyn Device>; 7] = [
        Arc::clone(&ioapic) as _,
        Arc::clone(&serial) as _,
        Arc::clone(&cmos) as _,
        Arc::clone(&i8042) as _,
        Arc::clone(&acpi) as _,
        Arc::clone(&post) as _,
        Arc::clone(&exit) as _,
    ];
    all.into_iter()
        .try_for_each(|device| devices.add(device))
        .unwrap();
    let handlers: Vec<Arc<dyn IoHandler>> = vec![
        Arc::clone(&ioapic) as _,
        Arc::clone(&serial) as _,
        cmos,
        i8042,
        acpi,
        post,
        exit,
    ];
    Machine {
        buses: bus.build(),
        handlers,
        devices,
        serial,
        ioapic,
    }
}

/// What one vCPU, or one device, does.
#[derive(Debug, Clone)]
enum Act {
    Port {
        port: u16,
        size: u8,
        write: Option<u32>,
    },
    Memory {
        addr: u64,
        size: u8,
        write: Option<u64>,
    },
    /// Past the bus, which a handler may not rely on.
    Handler {
        which: prop::sample::Index,
        offset: u64,
        size: u8,
        write: Option<u64>,
    },
    Pin {
        gsi: u32,
        level: Level,
    },
    Eoi(u8),
    Reset(ResetKind),
    SuspendResume,
}

fn act() -> impl Strategy<Value = Act> {
    let port = prop_oneof![
        4 => 0x3f8..0x400_u16,
        2 => 0x70..0x72_u16,
        1 => prop_oneof![Just(0x60_u16), Just(0x64), Just(0x80), 0xf0..0xf9_u16, 0x5ff..0x604_u16],
        1 => any::<u16>(),
    ];
    let register = prop_oneof![Just(0_u64), Just(0x10), Just(0x40), 0..0x1000_u64];
    let addr = prop_oneof![4 => register.prop_map(|r| IoApic::BASE + r), 1 => any::<u64>()];
    let size = || prop_oneof![4 => Just(1_u8), 2 => Just(4), 1 => 0..10_u8, 1 => any::<u8>()];
    let offset = prop_oneof![0..0x48_u64, any::<u64>()];
    let level = prop_oneof![Just(Level::Low), Just(Level::High)];
    let kind = prop_oneof![Just(ResetKind::Hard), Just(ResetKind::Soft)];
    prop_oneof![
        12 => (port, size(), any::<Option<u32>>())
            .prop_map(|(port, size, write)| Act::Port { port, size, write }),
        8 => (addr, size(), any::<Option<u64>>())
            .prop_map(|(addr, size, write)| Act::Memory { addr, size, write }),
        6 => (any::<prop::sample::Index>(), offset, size(), any::<Option<u64>>()).prop_map(
            |(which, offset, size, write)| Act::Handler { which, offset, size, write }),
        4 => (0..26_u32, level).prop_map(|(gsi, level)| Act::Pin { gsi, level }),
        2 => any::<u8>().prop_map(Act::Eoi),
        1 => kind.prop_map(Act::Reset),
        1 => Just(Act::SuspendResume),
    ]
}

fn play(machine: &Machine, acts: &[Act]) {
    let mut cx = IoCtx::new();
    for act in acts {
        match act {
            Act::Port {
                port,
                size,
                write: None,
            } => {
                machine.buses.pio_read(&mut cx, *port, *size);
            }
            Act::Port {
                port,
                size,
                write: Some(value),
            } => {
                machine.buses.pio_write(&mut cx, *port, *size, *value);
            }
            Act::Memory {
                addr,
                size,
                write: None,
            } => {
                machine.buses.mmio_read(&mut cx, *addr, *size);
            }
            Act::Memory {
                addr,
                size,
                write: Some(value),
            } => {
                machine.buses.mmio_write(&mut cx, *addr, *size, *value);
            }
            Act::Handler {
                which,
                offset,
                size,
                write,
            } => {
                let handler = which.get(&machine.handlers);
                match write {
                    None => drop(handler.read(&mut cx, *offset, *size)),
                    Some(value) => handler.write(&mut cx, *offset, *size, *value),
                }
            }
            Act::Pin { gsi, level } => machine.ioapic.set(*gsi, *level),
            Act::Eoi(vector) => machine.ioapic.eoi(*vector),
            Act::Reset(kind) => machine.devices.reset(*kind).unwrap(),
            Act::SuspendResume => {
                machine.devices.suspend().unwrap();
                machine.devices.resume().unwrap();
            }
        }
        assert!(
            cx.take().len() <= 8,
            "an access asks for at most one thing a byte"
        );
        assert!(machine.serial.queued() <= OUTPUT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_access_panics_or_makes_a_device_grow(
        acts in prop::collection::vec(act(), 2..400),
        clock_ns in any::<u64>(),
    ) {
        let machine = machine(clock_ns);
        machine.devices.power_on().unwrap();
        let (one, other) = acts.split_at(acts.len() / 2);
        std::thread::scope(|scope| {
            let second = std::thread::Builder::new()
                .name("emt-1".to_owned())
                .spawn_scoped(scope, || play(&machine, other))
                .unwrap();
            play(&machine, one);
            second.join().unwrap();
        });
        machine.devices.power_off().unwrap();
    }
}
