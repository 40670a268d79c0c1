// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The scripted engine and its machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::line::Line;
use super::vcpu::ScriptVcpu;
use super::{Progress, Script};
use crate::{CpuError, Engine, GuestRam, Held, IrqMode, Machine, MachineSpec, Msi, Vcpu};

/// When vCPUs other than 0 begin to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApStart {
    /// With the others, as lifecycle tests like it.
    #[default]
    AtOnce,
    /// After INIT and a start-up IPI, as on a real machine.
    AfterSipi,
}

/// A CPU backend that executes [`Script`]s.
///
/// ```
/// use vm_cpu::script::{Script, ScriptEngine};
/// use vm_cpu::{Engine, Entry, Exit, MachineSpec, RamLayout};
///
/// let engine = ScriptEngine::new(Script::new().work(3).pio_write(0x80, 1, 7));
/// let ram = RamLayout { bytes: 4096 }.allocate()?;
/// let spec = MachineSpec { vcpus: 1, ..MachineSpec::default() };
/// let mut vcpu = engine.create(&spec, &ram)?.create_vcpu(0)?;
/// assert_eq!(vcpu.run(Entry::Go)?, Exit::PioWrite { port: 0x80, size: 1, value: 7 });
/// assert_eq!(engine.progress(0).work(), 3);
/// # Ok::<(), vm_cpu::CpuError>(())
/// ```
#[derive(Debug)]
pub struct ScriptEngine {
    all: Arc<Script>,
    own: BTreeMap<u32, Arc<Script>>,
    aps: ApStart,
    progress: Arc<ProgressBook>,
}

type ProgressBook = Mutex<BTreeMap<u32, Arc<Progress>>>;

impl ScriptEngine {
    /// An engine whose vCPUs all execute `script`.
    pub fn new(script: Script) -> Self {
        Self {
            all: Arc::new(script),
            own: BTreeMap::new(),
            aps: ApStart::AtOnce,
            progress: Arc::default(),
        }
    }

    /// Gives vCPU `id` a script of its own.
    #[must_use]
    pub fn vcpu(mut self, id: u32, script: Script) -> Self {
        self.own.insert(id, Arc::new(script));
        self
    }

    /// Says when vCPUs other than 0 begin.
    #[must_use]
    pub fn aps(mut self, start: ApStart) -> Self {
        self.aps = start;
        self
    }

    /// The counters of vCPU `id`, summed over all machines of this engine.
    pub fn progress(&self, id: u32) -> Arc<Progress> {
        progress_of(&self.progress, id)
    }
}

fn progress_of(book: &ProgressBook, id: u32) -> Arc<Progress> {
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(book.entry(id).or_default())
}

impl Engine for ScriptEngine {
    fn name(&self) -> &'static str {
        "script"
    }

    fn create(&self, spec: &MachineSpec, ram: &GuestRam) -> Result<Arc<dyn Machine>, CpuError> {
        if spec.vcpus == 0 || spec.vcpus > ScriptMachine::MAX_VCPUS {
            return Err(CpuError::Invalid {
                what: "vcpus".into(),
                why: format!("{} is not 1 to {}", spec.vcpus, ScriptMachine::MAX_VCPUS),
            });
        }
        let script_of = |id| Arc::clone(self.own.get(&id).unwrap_or(&self.all));
        Ok(Arc::new(ScriptMachine {
            scripts: (0..spec.vcpus).map(script_of).collect(),
            shared: Arc::new(Shared {
                irq: spec.irq,
                ram: ram.clone(),
                lines: (0..spec.vcpus).map(|_| Arc::default()).collect(),
                level: Mutex::default(),
            }),
            aps: self.aps,
            progress: Arc::clone(&self.progress),
            created: Mutex::default(),
            clock: Mutex::new(Clock::Runs(Instant::now(), 0)),
        }))
    }
}

/// What the vCPUs of a machine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) irq: IrqMode,
    pub(super) ram: GuestRam,
    lines: Vec<Arc<Line>>,
    level: Mutex<BTreeSet<u8>>,
}

impl Shared {
    /// Whether an IOAPIC pin is routed to `vector`, level-triggered.
    pub(super) fn is_level(&self, vector: u8) -> bool {
        lock(&self.level).contains(&vector)
    }
}

#[derive(Debug)]
struct ScriptMachine {
    scripts: Vec<Arc<Script>>,
    shared: Arc<Shared>,
    aps: ApStart,
    progress: Arc<ProgressBook>,
    created: Mutex<BTreeSet<u32>>,
    clock: Mutex<Clock>,
}

/// The guest's clock. The TSCs need no holding: they count what is executed.
#[derive(Debug, Clone, Copy)]
enum Clock {
    /// Since when, and what it was then, in ns.
    Runs(Instant, u64),
    /// Where it stands, in ns.
    Held(u64),
}

impl Clock {
    fn ns(self) -> u64 {
        match self {
            Self::Held(ns) => ns,
            Self::Runs(since, base) => {
                let passed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                base.saturating_add(passed)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptMachine {
    const MAX_VCPUS: u32 = 1024;

    fn refuse_without_controller(&self) -> Result<(), CpuError> {
        match self.shared.irq {
            IrqMode::Split => Ok(()),
            IrqMode::None => Err(CpuError::Invalid {
                what: "msi".into(),
                why: "this machine has no interrupt controller".into(),
            }),
        }
    }

    /// The vCPUs an MSI is for: physical by APIC ID, logical in the flat model, 0xff for all.
    fn targets(&self, msi: Msi) -> Vec<&Line> {
        let dest = (msi.addr >> 12) & 0xff;
        let logical = msi.addr & 4 != 0;
        let hit = |id: u64| match (dest, logical) {
            (0xff, _) => true,
            (mask, true) => id < 8 && mask & (1 << id) != 0,
            (dest, false) => dest == id,
        };
        (0..)
            .zip(&self.shared.lines)
            .filter(|(id, _)| hit(*id))
            .map(|(_, l)| l.as_ref())
            .collect()
    }
}

impl Machine for ScriptMachine {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, CpuError> {
        let at = usize::try_from(id).unwrap_or(usize::MAX);
        let (Some(script), Some(line)) = (self.scripts.get(at), self.shared.lines.get(at)) else {
            return Err(CpuError::Invalid {
                what: "vcpu".into(),
                why: format!("{id} is not below the machine's {}", self.scripts.len()),
            });
        };
        if !lock(&self.created).insert(id) {
            return Err(CpuError::Invalid {
                what: "vcpu".into(),
                why: format!("{id} exists already"),
            });
        }
        let waits = id != 0 && self.aps == ApStart::AfterSipi;
        Ok(Box::new(ScriptVcpu::new(
            id,
            if waits {
                ApStart::AfterSipi
            } else {
                ApStart::AtOnce
            },
            Arc::clone(script),
            Arc::clone(&self.shared),
            Arc::clone(line),
            progress_of(&self.progress, id),
        )))
    }

    fn deliver_msi(&self, msi: Msi) -> Result<(), CpuError> {
        self.refuse_without_controller()?;
        if msi.addr >> 20 != 0xfee {
            return Err(CpuError::Invalid {
                what: "msi.addr".into(),
                why: format!("{:#x} is not in 0xfee00000 to 0xfeefffff", msi.addr),
            });
        }
        let vector = msi.data.to_le_bytes()[0];
        for line in self.targets(msi) {
            line.change(|waiting| match (msi.data >> 8) & 7 {
                4 => waiting.request_nmi(),
                5 => waiting.init = true,
                6 => waiting.sipi = Some(vector),
                _ => waiting.request(vector),
            });
        }
        Ok(())
    }

    fn route_pins(&self, pins: &[Option<Msi>]) -> Result<(), CpuError> {
        self.refuse_without_controller()?;
        let level = pins.iter().flatten().filter(|msi| msi.data & 1 << 15 != 0);
        *lock(&self.shared.level) = level.map(|msi| msi.data.to_le_bytes()[0]).collect();
        Ok(())
    }

    fn clock_ns(&self) -> Result<u64, CpuError> {
        Ok(lock(&self.clock).ns())
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), CpuError> {
        let mut clock = lock(&self.clock);
        *clock = match *clock {
            Clock::Runs(..) => Clock::Runs(Instant::now(), ns),
            Clock::Held(_) => Clock::Held(ns),
        };
        Ok(())
    }

    fn hold_time(&self) -> Result<Held, CpuError> {
        let mut clock = lock(&self.clock);
        *clock = Clock::Held(clock.ns());
        Ok(Held::Everything)
    }

    fn let_time_go(&self) -> Result<(), CpuError> {
        let mut clock = lock(&self.clock);
        if let Clock::Held(ns) = *clock {
            *clock = Clock::Runs(Instant::now(), ns);
        }
        Ok(())
    }
}
