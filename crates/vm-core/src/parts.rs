// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a machine is composed of, and the components that make it from that, in this order:
//! memory, processor, board, whatever the embedder adds, firmware.

use std::sync::Arc;

use vm_cpu::x86::Start;
use vm_cpu::{Engine, GuestRam, Machine, MachineSpec, Msi, RamLayout};
use vm_pdm::{BusBuilder, Buses, Devices, Link, MsiSink, Raiser, ResetKind, Timers, Waker};

use crate::component::{Component, Outcome};
use crate::emt::{Emt, EoiHandler, describe};
use crate::observe::{self, Shown};
use crate::sync::{Mutex, lock};
use crate::{Saver, VmError, VmSpec};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the board is built from.
#[derive(Debug, Clone, Copy)]
pub struct BoardCx<'a> {
    /// The machine: where interrupts go.
    pub machine: &'a Arc<dyn Machine>,
    /// Guest memory.
    pub ram: &'a GuestRam,
    /// What the VM is made from.
    pub spec: &'a VmSpec,
    /// The virtual clock, which stands while the VM does not run, and timers on it.
    pub timers: &'a Arc<Timers>,
}

/// A built board.
pub struct Built {
    /// Its devices, in order.
    pub devices: Devices,
    /// What the guest reaches them by.
    pub buses: Buses,
    /// Called for each level-triggered vector the guest acknowledged.
    pub eoi: Option<EoiHandler>,
}

impl Built {
    /// No device at all: every access reads all ones.
    pub fn empty() -> Self {
        Self {
            devices: Devices::new(),
            buses: BusBuilder::new().build(),
            eoi: None,
        }
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Built")
    }
}

/// Makes the devices. Runs on EMT 0 while the VM is created.
pub type Board = Box<dyn FnMut(BoardCx<'_>) -> Result<Built, BoxError> + Send>;

/// Puts the guest's first code into memory and says where vCPU 0 begins; `None`: at the reset
/// vector. Runs on EMT 0 while the VM is created, and again at every hard reset, from pristine
/// images.
pub type Firmware = Box<dyn FnMut(&GuestRam) -> Result<Option<Start>, BoxError> + Send>;

/// Makes what a save goes through. Runs on an EMT of the suspended VM, as the saver's `open` and
/// `close` then do; there are no live passes.
pub type OpenSaver = Arc<dyn Fn() -> Result<Box<dyn Saver>, BoxError> + Send + Sync>;

/// What a machine is composed of.
pub struct Parts {
    /// The CPU backend.
    pub engine: Arc<dyn Engine>,
    /// Makes the devices.
    pub board: Board,
    /// Loads the guest.
    pub firmware: Firmware,
    /// What the VM is saved through when a device asks for that
    /// ([`Effect::SaveAndPowerOff`](vm_pdm::Effect::SaveAndPowerOff)).
    pub saver: Option<OpenSaver>,
    /// Further components, between board and firmware.
    pub extra: Vec<Box<dyn Component>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// A machine of `engine` with no device and no firmware.
    pub fn bare(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            board: Box::new(|_| Ok(Built::empty())),
            firmware: Box::new(|_| Ok(None)),
            saver: None,
            extra: Vec::new(),
        }
    }

    pub(crate) fn into_components(self) -> Vec<Box<dyn Component>> {
        let mut components: Vec<Box<dyn Component>> = vec![
            Box::new(Memory),
            Box::new(Processor {
                engine: self.engine,
            }),
            Box::new(BoardComponent {
                make: self.board,
                shown: Shown::default(),
            }),
        ];
        components.extend(self.extra);
        components.push(Box::new(FirmwareComponent {
            load: self.firmware,
        }));
        components
    }
}

/// Guest memory.
struct Memory;

impl Component for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn init(&mut self, emt: &mut Emt) -> Outcome {
        let layout = RamLayout {
            bytes: emt.spec().memory_bytes,
        };
        emt.primary.ram = Some(layout.allocate()?);
        Ok(())
    }

    fn term(&mut self, emt: &mut Emt) {
        emt.primary.ram = None;
    }
}

/// The machine inside the engine, and on each EMT its vCPU.
struct Processor {
    engine: Arc<dyn Engine>,
}

impl Component for Processor {
    fn name(&self) -> &'static str {
        "processor"
    }

    fn init(&mut self, emt: &mut Emt) -> Outcome {
        let spec = emt.spec();
        let machine_spec = MachineSpec {
            vcpus: spec.vcpus,
            irq: spec.irq,
            cpu: spec.cpu,
        };
        let ram = emt.ram().ok_or("guest memory comes first")?;
        let machine = self.engine.create(&machine_spec, ram)?;
        emt.primary.machine = Some(Arc::clone(&machine));
        let made = on_each(emt, "create vCPU", |emt| {
            let vcpu = machine.create_vcpu(emt.id())?;
            emt.install_vcpu(vcpu)
        });
        if let Err(e) = made {
            self.term(emt);
            return Err(e);
        }
        Ok(())
    }

    fn term(&mut self, emt: &mut Emt) {
        let dropped = on_each(emt, "destroy vCPU", |emt| {
            drop(emt.take_vcpu());
            Ok::<(), VmError>(())
        });
        if let Err(e) = dropped {
            log::error!(target: "vm.component", "processor: {e}");
        }
        emt.primary.machine = None;
    }
}

/// The devices and what reaches them.
struct BoardComponent {
    make: Board,
    shown: Shown,
}

impl Component for BoardComponent {
    fn name(&self) -> &'static str {
        "board"
    }

    fn init(&mut self, emt: &mut Emt) -> Outcome {
        let machine = emt.machine().cloned().ok_or("the processor comes first")?;
        let ram = emt.ram().ok_or("guest memory comes first")?;
        let built = (self.make)(BoardCx {
            machine: &machine,
            ram,
            spec: emt.spec(),
            timers: &emt.shared().timers,
        })?;
        let bells = Arc::clone(&emt.shared().bells);
        let shared = Arc::clone(emt.shared());
        built.devices.connect(&Link {
            waker: Waker::new(move || bells.ring(0)),
            raiser: Raiser::new(move |error| shared.raise(error)),
        });
        let buses = Arc::new(built.buses);
        self.shown = observe::show(emt, &built.devices, &buses);
        emt.primary.devices = Some(built.devices);
        let eoi = built.eoi;
        let attached = on_each(emt, "attach buses", |emt| {
            emt.install_buses(Some(Arc::clone(&buses)), eoi.clone());
            Ok::<(), VmError>(())
        });
        // Devices may hold the machine, which goes next.
        attached.inspect_err(|_| self.term(emt))
    }

    fn reset(&mut self, emt: &mut Emt, kind: ResetKind) -> Outcome {
        match &mut emt.primary.devices {
            Some(devices) => devices.reset(kind)?,
            None => return Ok(()),
        }
        Ok(crate::ops::wait_devices(emt, "reset")?)
    }

    fn term(&mut self, emt: &mut Emt) {
        self.shown = Shown::default();
        let detached = on_each(emt, "detach buses", |emt| {
            emt.install_buses(None, None);
            Ok::<(), VmError>(())
        });
        if let Err(e) = detached {
            log::error!(target: "vm.component", "board: {e}");
        }
        emt.primary.devices = None;
    }
}

/// The guest's first code.
struct FirmwareComponent {
    load: Firmware,
}

impl FirmwareComponent {
    fn start(&mut self, emt: &mut Emt) -> Outcome {
        let ram = emt.ram().ok_or("guest memory comes first")?;
        if let Some(start) = (self.load)(ram)? {
            emt.settled()?.set_start(&start)?;
        }
        Ok(())
    }
}

impl Component for FirmwareComponent {
    fn name(&self) -> &'static str {
        "firmware"
    }

    fn init(&mut self, emt: &mut Emt) -> Outcome {
        self.start(emt)
    }

    fn reset(&mut self, emt: &mut Emt, kind: ResetKind) -> Outcome {
        match kind {
            ResetKind::Hard => self.start(emt),
            ResetKind::Soft => Ok(()),
        }
    }
}

/// Runs `op` on every EMT, the calling EMT 0 first, each to its end before the next.
fn on_each<E: std::error::Error + Send + Sync + 'static>(
    emt: &mut Emt,
    what: &'static str,
    op: impl Fn(&mut Emt) -> Result<(), E> + Sync,
) -> Outcome {
    let shared = Arc::clone(emt.shared());
    for v in 0..shared.spec.vcpus {
        shared
            .queues
            .call_from(emt, v, Some(shared.spec.gather_limit), |emt| op(emt))
            .map_err(|e| VmError::from_call(what, v, e))??;
    }
    Ok(())
}

/// Sends the IOAPIC's messages into a machine. A message that the host refuses is lost, as it would
/// be on a bus; it is logged once.
#[derive(Debug)]
pub struct MachineMsi {
    machine: Arc<dyn Machine>,
    said: Mutex<bool>,
}

impl MachineMsi {
    /// Into `machine`.
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self {
            machine,
            said: Mutex::new(false),
        }
    }

    fn say(&self, result: Result<(), vm_cpu::CpuError>) {
        if let Err(e) = result
            && !std::mem::replace(&mut *lock(&self.said), true)
        {
            log::warn!(target: "vm.irq", "interrupt not delivered: {}", describe(&e));
        }
    }
}

impl MsiSink for MachineMsi {
    fn deliver(&self, addr: u64, data: u32) {
        self.say(self.machine.deliver_msi(Msi { addr, data }));
    }

    fn route(&self, pins: &[Option<(u64, u32)>]) {
        let pins: Vec<_> = pins
            .iter()
            .map(|pin| pin.map(|(addr, data)| Msi { addr, data }))
            .collect();
        self.say(self.machine.route_pins(&pins));
    }
}
