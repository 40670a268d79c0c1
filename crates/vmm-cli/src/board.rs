// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The machine that `vmm run` builds: COM1, IOAPIC, CMOS, i8042, ACPI registers and events,
//! POST port, and if
//! asked for virtio disks, an entropy device, a virtio console and a debug-exit port. Where each lies is `vm_boot::Platform`'s to say to the guest; a test
//! here holds the two together.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vm_boot::Platform;
use vm_core::{Board, BoardCx, BoxError, Built, MachineMsi};
use vm_cpu::{IrqMode, RamLayout};
use vm_devices::{
    AcpiPm, Cmos, CmosMemory, ConsoleSpec, DebugExit, DiskAccess, DiskImage, Ends, Ged, I8042,
    IoApic, PostPort, Serial, SerialSpec, Virtio, VirtioConsole,
};
use vm_pdm::{BusBuilder, Devices, IrqLine, Place, Places};

use crate::config::Entropy;
use crate::ends::Console;
use crate::reach::Reach;

/// What the host lends to the machine.
pub(crate) struct Peripherals {
    pub(crate) serial: Console,
    pub(crate) virtio: VirtioPeripherals,
    /// Where what is reached from outside is to be found once it is built.
    pub(crate) reach: Arc<Reach>,
}

/// And to its virtio devices.
pub(crate) struct VirtioPeripherals {
    pub(crate) disks: Vec<Disk>,
    pub(crate) entropy: Entropy,
    pub(crate) console: Option<Console>,
}

/// A disk, and what it has from the start.
pub(crate) struct Disk {
    pub(crate) access: DiskAccess,
    pub(crate) image: Option<DiskImage>,
}

/// Makes the devices, once.
pub(crate) fn board(peripherals: Peripherals, platform: Platform) -> Board {
    let mut peripherals = Some(peripherals);
    Box::new(move |cx| {
        let peripherals = peripherals.take().ok_or("a board is built once")?;
        build(cx, peripherals, &platform)
    })
}

fn build(cx: BoardCx<'_>, host: Peripherals, platform: &Platform) -> Result<Built, BoxError> {
    let mut bus = BusBuilder::new();
    let mut devices = Devices::new();

    let ioapic = IoApic::new(Arc::new(MachineMsi::new(Arc::clone(cx.machine))));
    if cx.spec.irq == IrqMode::Split {
        ioapic.attach(&mut bus)?;
        devices.add(ioapic.clone())?;
    }
    let layout = RamLayout {
        bytes: cx.spec.memory_bytes,
    };
    let cmos = Cmos::new(memory(layout), Box::new(wall_clock));
    cmos.attach(&mut bus)?;
    devices.add(cmos)?;
    let i8042 = I8042::new();
    i8042.attach(&mut bus)?;
    devices.add(i8042)?;
    let acpi = AcpiPm::new();
    acpi.attach(&mut bus)?;
    devices.add(acpi)?;
    let line = IrqLine::new(ioapic.clone(), platform.event_irq);
    let spec = cx.spec;
    let ged = Ged::new(line, spec.vcpus, spec.plugged.unwrap_or(spec.vcpus));
    ged.attach(&mut bus)?;
    devices.add(Arc::clone(&ged) as _)?;
    // A board is built once.
    let _ = host.reach.ged.set(ged);
    let post = PostPort::new();
    post.attach(&mut bus)?;
    devices.add(post)?;
    if let Some(port) = platform.debug_exit_port {
        let debug_exit = DebugExit::new(port);
        debug_exit.attach(&mut bus)?;
        devices.add(debug_exit)?;
    }
    let irq = IrqLine::new(ioapic.clone(), platform.com1_irq);
    let serial = Serial::new(SerialSpec::default(), irq, Some(host.serial.into()))?;
    serial.attach(&mut bus)?;
    let mut ends = vec![serial.ends()];
    devices.add(serial)?;
    let (drives, console) = virtio(cx, &ioapic, host.virtio, platform, (&mut bus, &mut devices))?;
    let _ = host.reach.drives.set(Places::new(&devices, drives));
    ends.extend(console);
    let _ = host.reach.ends.set(Places::new(&devices, ends));

    Ok(Built {
        devices,
        buses: bus.build(),
        eoi: Some(Arc::new(move |vector| ioapic.eoi(vector))),
    })
}

/// Drives, and the console if there is one.
type ComeAndGo = (Vec<Arc<dyn Place<DiskImage>>>, Option<Arc<dyn Place<Ends>>>);

/// The virtio devices, each in the next window: disks first, so that the first is `/dev/vda`. Gives
/// those at which something comes and goes.
fn virtio(
    cx: BoardCx<'_>,
    ioapic: &Arc<IoApic>,
    host: VirtioPeripherals,
    platform: &Platform,
    (bus, devices): (&mut BusBuilder, &mut Devices),
) -> Result<ComeAndGo, BoxError> {
    let mut drives: Vec<Arc<dyn Place<DiskImage>>> = Vec::new();
    let mut windows = platform.virtio.iter();
    let mut next = || {
        let window = windows.next().ok_or("the platform has no window left")?;
        let irq = IrqLine::new(Arc::clone(ioapic) as _, window.irq);
        Ok::<_, BoxError>((u64::from(window.addr), irq))
    };
    for (n, Disk { access, image }) in host.disks.into_iter().enumerate() {
        let (address, irq) = next()?;
        let name = format!("disk{n}");
        let ram = cx.ram.clone();
        let disk = match image {
            Some(image) => Virtio::disk(&name, address, irq, ram, image),
            None => Virtio::empty_disk(&name, address, irq, ram, access),
        };
        disk.attach(bus)?;
        drives.push(Arc::clone(&disk) as _);
        devices.add(disk)?;
    }
    if host.entropy == Entropy::Device {
        let (address, irq) = next()?;
        let entropy = Virtio::entropy("rng0", address, irq, cx.ram.clone());
        entropy.attach(bus)?;
        devices.add(entropy)?;
    }
    if let Some(ends) = host.console {
        let (address, irq) = next()?;
        let spec = ConsoleSpec::new("console0", address);
        let console = VirtioConsole::new(spec, irq, cx.ram.clone(), Some(ends.into()))?;
        console.attach(bus)?;
        let ends = console.ends();
        devices.add(console)?;
        return Ok((drives, Some(ends)));
    }
    Ok((drives, None))
}

/// The host's time; a host before 1970 shows the guest 1970.
fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn memory(layout: RamLayout) -> CmosMemory {
    let low = layout.bytes.min(RamLayout::HOLE_START);
    CmosMemory {
        below_4g_bytes: low,
        above_4g_bytes: layout.bytes - low,
    }
}
