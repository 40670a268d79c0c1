// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A scripted machine with recording devices, for the tests of vm-core.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_core::{BoardCx, Built, Parts, Vm, VmSpec};
use vm_cpu::IrqMode;
use vm_cpu::script::{Script, ScriptEngine};
use vm_pdm::{
    Action, BusBuilder, Device, DeviceError, Devices, Effect, IoCtx, IoHandler, ResetKind,
    RuntimeError,
};

/// Bound of every wait in these tests; reached only by a defect.
pub(crate) const LIMIT: Option<Duration> = Some(Duration::from_secs(60));
pub(crate) const DESTROY: Duration = Duration::from_secs(60);

/// Ports of the test board.
pub(crate) const PORT_POWER_OFF: u16 = 0x600;
pub(crate) const PORT_RESET: u16 = 0x602;
/// Suspends the VM: 0 and no more, anything else saves it and powers it off.
pub(crate) const PORT_SUSPEND: u16 = 0x608;
pub(crate) const PORT_SOFT_RESET: u16 = 0x60a;
/// Raises a runtime error: 0 informs, 1 suspends, anything else is fatal.
pub(crate) const PORT_ERROR: u16 = 0x606;
pub(crate) const PORT_DEBUG_EXIT: u16 = 0xf4;
/// A write gives the processor to another thread.
pub(crate) const PORT_GIVE_WAY: u16 = 0x80;

/// What happened, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

pub(crate) fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

pub(crate) fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

/// A device that records its hooks and fails when told to.
pub(crate) struct Recorder {
    pub(crate) name: &'static str,
    pub(crate) log: Log,
    pub(crate) fails: Arc<Mutex<Option<&'static str>>>,
}

impl Recorder {
    fn hook(&self, hook: &'static str) -> Result<(), DeviceError> {
        let thread = std::thread::current();
        assert!(
            matches!(thread.name(), Some("emt" | "emt-0")),
            "{hook} on {:?}",
            thread.name()
        );
        note(&self.log, format!("{} {hook}", self.name));
        match *self.fails.lock().unwrap() {
            Some(which) if which == hook => Err(DeviceError {
                device: self.name.into(),
                what: format!("{hook} refused"),
            }),
            _ => Ok(()),
        }
    }
}

impl Device for Recorder {
    fn name(&self) -> &str {
        self.name
    }
    fn power_on(&self) -> Result<(), DeviceError> {
        self.hook("power_on")
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.hook("suspend")
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.hook("resume")
    }
    fn reset(&self, _: ResetKind) -> Result<(), DeviceError> {
        self.hook("reset")
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        self.hook("power_off")
    }
}

/// Answers a write with an effect.
struct Raise(fn(u64) -> Effect);

impl IoHandler for Raise {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, value: u64) {
        cx.raise((self.0)(value));
    }
}

struct GiveWay;

impl IoHandler for GiveWay {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, _: &mut IoCtx, _: u64, _: u8, _: u64) {
        std::thread::yield_now();
    }
}

/// A disk that is full.
pub(crate) fn error(action: Action) -> RuntimeError {
    RuntimeError {
        id: "DiskFull",
        source: "first".into(),
        message: "no space left: make some and resume".into(),
        action,
    }
}

/// A test machine.
pub(crate) struct Machine {
    pub(crate) engine: Arc<ScriptEngine>,
    pub(crate) log: Log,
    pub(crate) fails: Arc<Mutex<Option<&'static str>>>,
    pub(crate) firmware_fails: Arc<AtomicBool>,
}

impl Machine {
    pub(crate) fn new(script: Script) -> Self {
        Self::with(ScriptEngine::new(script))
    }

    pub(crate) fn with(engine: ScriptEngine) -> Self {
        Self {
            engine: Arc::new(engine),
            log: Log::default(),
            fails: Arc::default(),
            firmware_fails: Arc::default(),
        }
    }

    pub(crate) fn parts(&self) -> Parts {
        let mut parts = Parts::bare(self.engine.clone());
        let (log, fails) = (self.log.clone(), self.fails.clone());
        parts.board = Box::new(move |_: BoardCx<'_>| {
            let mut devices = Devices::new();
            for name in ["first", "second"] {
                devices.add(Arc::new(Recorder {
                    name,
                    log: log.clone(),
                    fails: fails.clone(),
                }))?;
            }
            let mut buses = BusBuilder::new();
            buses.pio(
                "power",
                PORT_POWER_OFF..=PORT_POWER_OFF,
                Arc::new(Raise(|_| Effect::PowerOff)),
            )?;
            buses.pio(
                "reset",
                PORT_RESET..=PORT_RESET,
                Arc::new(Raise(|_| Effect::Reset(ResetKind::Hard))),
            )?;
            buses.pio(
                "suspend",
                PORT_SUSPEND..=PORT_SUSPEND,
                Arc::new(Raise(|v| match v {
                    0 => Effect::Suspend,
                    _ => Effect::SaveAndPowerOff,
                })),
            )?;
            buses.pio(
                "soft-reset",
                PORT_SOFT_RESET..=PORT_SOFT_RESET,
                Arc::new(Raise(|_| Effect::Reset(ResetKind::Soft))),
            )?;
            buses.pio(
                "error",
                PORT_ERROR..=PORT_ERROR,
                Arc::new(Raise(|v| {
                    Effect::Error(match v {
                        0 => error(Action::Inform),
                        1 => error(Action::Suspend),
                        _ => error(Action::Fatal),
                    })
                })),
            )?;
            buses.pio(
                "debug-exit",
                PORT_DEBUG_EXIT..=PORT_DEBUG_EXIT,
                Arc::new(Raise(|v| {
                    Effect::DebugExit(u32::try_from(v).unwrap_or(u32::MAX))
                })),
            )?;
            buses.pio("give-way", PORT_GIVE_WAY..=PORT_GIVE_WAY, Arc::new(GiveWay))?;
            Ok(Built {
                devices,
                buses: buses.build(),
                eoi: None,
            })
        });
        let (log, fails) = (self.log.clone(), self.firmware_fails.clone());
        parts.firmware = Box::new(move |_| {
            note(&log, "firmware");
            if fails.load(Ordering::SeqCst) {
                return Err("the image is gone".into());
            }
            Ok(None)
        });
        parts
    }

    pub(crate) fn create(&self, vcpus: u32) -> Vm {
        Vm::create(spec(vcpus), self.parts()).expect("the test machine comes up")
    }
}

pub(crate) fn spec(vcpus: u32) -> VmSpec {
    VmSpec {
        vcpus,
        memory_bytes: 1 << 20,
        irq: IrqMode::Split,
        gather_limit: Duration::from_secs(30),
        ..VmSpec::default()
    }
}

/// Works for ever, in small steps.
pub(crate) fn busy() -> Script {
    Script::new().work(50).forever()
}

/// Waits until a counter satisfies `done`, giving way in between; bounded.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}
