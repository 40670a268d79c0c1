// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whole lives of a VM on 2 or 3 scripted vCPUs, with 4 to 8 threads of random operations, under
//! schedulers that choose every step of every thread from a seed. No deadlock, no panic, no state
//! that cannot be left, no illegal move, no device hook out of place; and each known mistake, put in
//! on purpose, is found.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle \
//!     cargo test -p vm-core --test shuttle --release
//! ```
//!
//! `VM_SHUTTLE_ITERATIONS` is the number of lives per test (a slice if it is not set),
//! `VM_SHUTTLE_SEED` another seed than the slice's. A failure prints a schedule. To replay it, put
//! what is between the quotes into a file and run the one test that failed with
//! `VM_SHUTTLE_REPLAY=FILE`, an absolute path: the same life, step by step, as often as wanted.
//! Under the random scheduler the printed seed does as well: `SHUTTLE_RANDOM_SEED=N
//! VM_SHUTTLE_ITERATIONS=1`.

#![cfg(shuttle)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::sync::atomic::AtomicBool as ModelBool;
use shuttle::{Config, MaxSteps, Runner};
use vm_core::{
    BoardCx, BoxError, Built, Cancel, Closing, Emt, Fault, Intent, Parts, Saver, Vm, VmError,
    VmSpec, Vote,
};
use vm_cpu::IrqMode;
use vm_cpu::script::{self, Script, ScriptEngine};
use vm_emt::{Flow, Phase};
use vm_pdm::{
    BusBuilder, Device, DeviceError, Devices, Effect, IoCtx, IoHandler, Link, ResetKind, Waker,
};
use vm_rendezvous::How;
use vm_state::{ResumeReason, State, StateCell, SuspendReason, table};

/// Lives per test, for about 30 seconds in all.
const SLICE: usize = 2500;
const SEED: u64 = 0x5eed_11fe;
/// Most steps that a life may take; what takes more goes round in circles.
const STEPS: usize = 400_000;
const OPERATIONS: u32 = 5;

const PORT_POWER_OFF: u16 = 0x600;
const PORT_RESET: u16 = 0x602;

/// What becomes of waits with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limits {
    /// They last as long as it takes.
    Never,
    /// Any may end any time, and whoever waited is told that somebody was late.
    AnyTime,
}

impl Limits {
    /// A limit that the model takes for this (it has no clock).
    fn time(self) -> Duration {
        match self {
            Self::Never => Duration::from_secs(24 * 3600),
            Self::AnyTime => Duration::from_secs(1800),
        }
    }
}

/// What was seen that must not be.
type Wrong = Arc<Mutex<Vec<String>>>;

fn tell(wrong: &Wrong, what: impl Into<String>) {
    wrong.lock().expect("one push").push(what.into());
}

/// A device that knows which of its hooks may come next. Hooks that can be undone fail now and then,
/// and some of those that take down go on behind their return.
struct Disciplined {
    name: &'static str,
    power: Mutex<Power>,
    waker: OnceLock<Waker>,
    pending: Arc<ModelBool>,
    /// The hook before did not end well: the next one may undo it and succeeds.
    trouble: Arc<AtomicBool>,
    wrong: Wrong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Off,
    On,
    Suspended,
}

impl Disciplined {
    fn new(name: &'static str, trouble: &Arc<AtomicBool>, wrong: &Wrong) -> Self {
        Self {
            name,
            power: Mutex::new(Power::Off),
            waker: OnceLock::new(),
            pending: Arc::default(),
            trouble: Arc::clone(trouble),
            wrong: Arc::clone(wrong),
        }
    }

    fn hook(&self, name: &str, from: &[Power], to: Option<Power>) {
        let mut power = self.power.lock().expect("one assignment");
        if !from.contains(&power) {
            let device = self.name;
            tell(
                &self.wrong,
                format!("{name} of {device}, which is {power:?}"),
            );
        }
        *power = to.unwrap_or(*power);
    }

    fn may_fail(&self) -> Result<(), DeviceError> {
        let fails = thread_rng().gen_ratio(1, 24) && !self.trouble.load(SeqCst);
        self.trouble.store(fails, SeqCst);
        match fails {
            true => Err(DeviceError {
                device: self.name.into(),
                what: "out of order".into(),
            }),
            false => Ok(()),
        }
    }

    /// The rest of the hook is done by a thread of the device's.
    fn may_go_on(&self) {
        if let Some(waker) = self.waker.get().cloned()
            && thread_rng().gen_ratio(1, 4)
        {
            let pending = Arc::clone(&self.pending);
            pending.store(true, SeqCst);
            self.trouble.store(true, SeqCst);
            shuttle::thread::spawn(move || {
                pending.store(false, SeqCst);
                waker.wake();
            });
        }
    }
}

impl Device for Disciplined {
    fn name(&self) -> &str {
        self.name
    }
    fn power_on(&self) -> Result<(), DeviceError> {
        self.may_fail()?;
        self.hook("power_on", &[Power::Off], Some(Power::On));
        Ok(())
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.may_fail()?;
        self.hook("suspend", &[Power::On], Some(Power::Suspended));
        self.may_go_on();
        Ok(())
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.may_fail()?;
        self.hook("resume", &[Power::Suspended], Some(Power::On));
        Ok(())
    }
    fn reset(&self, _: ResetKind) -> Result<(), DeviceError> {
        self.hook("reset", &[Power::On, Power::Suspended], None);
        self.may_go_on();
        Ok(())
    }
    fn connect(&self, link: &Link) {
        let _ = self.waker.set(link.waker.clone());
    }
    fn is_pending(&self) -> bool {
        self.pending.load(SeqCst)
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        let any = [Power::Off, Power::On, Power::Suspended];
        self.hook("power_off", &any, Some(Power::Off));
        self.may_go_on();
        Ok(())
    }
}

/// A port that asks for something the first time, and looks at when it is called.
struct Ask {
    what: Effect,
    asked: AtomicBool,
    state: Arc<OnceLock<Arc<StateCell>>>,
    wrong: Wrong,
}

impl IoHandler for Ask {
    fn read(&self, _: &mut IoCtx, _: u64, _: u8) -> u64 {
        0
    }
    fn write(&self, cx: &mut IoCtx, _: u64, _: u8, _: u64) {
        let state = self.state.get().map_or(State::Creating, |s| s.read());
        if !state.is_running() && !state.is_failed() {
            tell(&self.wrong, format!("an access in {state}"));
        }
        if !self.asked.swap(true, SeqCst) {
            cx.raise(self.what.clone());
        }
    }
}

/// Two live passes and a final one, any of which may fail.
struct Quick(Option<Closing>);

impl Quick {
    fn may_fail() -> Result<(), BoxError> {
        match thread_rng().gen_ratio(1, 12) {
            true => Err("the disk is full".into()),
            false => Ok(()),
        }
    }
}

impl Saver for Quick {
    fn open(&mut self) -> Result<(), BoxError> {
        Self::may_fail()
    }
    fn pass(&mut self, pass: u32, _: &Cancel) -> Result<Vote, BoxError> {
        Self::may_fail()?;
        Ok(if pass < 1 { Vote::Again } else { Vote::Done })
    }
    fn finish(&mut self, emt: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        Self::may_fail()?;
        emt.settled()?.state()?;
        Ok(())
    }
    fn close(&mut self, closing: Closing) -> Result<(), BoxError> {
        assert_eq!(self.0.replace(closing), None, "closed twice");
        Ok(())
    }
}

/// What a vCPU does; most of them nothing that draws attention.
fn guest() -> Script {
    match thread_rng().gen_range(0..16) {
        0..=4 => Script::new().work(3).halt_for_good(),
        5..=8 => Script::new().work(2).forever(),
        9 | 10 => Script::new().work(2).pio_write(PORT_RESET, 1, 1).halt(),
        11..=13 => Script::new().pio_write(PORT_RESET, 1, 1).forever(),
        14 => Script::new().work(20).pio_write(PORT_POWER_OFF, 1, 1),
        _ => Script::new().work(9).fault(script::Fault::Host).forever(),
    }
}

fn parts(vcpus: u32, state: &Arc<OnceLock<Arc<StateCell>>>, wrong: &Wrong) -> Parts {
    let engine = (0..vcpus).fold(ScriptEngine::new(Script::new()), |engine, v| {
        engine.vcpu(v, guest())
    });
    let mut parts = Parts::bare(Arc::new(engine));
    let (state, wrong) = (Arc::clone(state), Arc::clone(wrong));
    parts.board = Box::new(move |_: BoardCx<'_>| {
        let mut devices = Devices::new();
        let trouble = Arc::default();
        for name in ["first", "second"] {
            devices.add(Arc::new(Disciplined::new(name, &trouble, &wrong)))?;
        }
        let mut buses = BusBuilder::new();
        for (port, what) in [
            (PORT_POWER_OFF, Effect::PowerOff),
            (PORT_RESET, Effect::Reset(ResetKind::Hard)),
        ] {
            let ask = Ask {
                what,
                asked: AtomicBool::new(false),
                state: Arc::clone(&state),
                wrong: Arc::clone(&wrong),
            };
            buses.pio("ask", port..=port, Arc::new(ask))?;
        }
        Ok(Built {
            devices,
            buses: buses.build(),
            eoi: None,
        })
    });
    parts
}

fn operation(vm: &Vm, vcpus: u32, limit: Duration) -> Result<(), VmError> {
    let number = thread_rng().gen_range(0..64);
    let vcpu = thread_rng().gen_range(0..vcpus);
    let settle = |emt: &mut Emt| {
        let settled = emt.settled().map(drop);
        settled.map_err(|source| VmError::Cpu {
            op: "settle",
            source,
        })
    };
    match number {
        0..=3 => vm.power_on(),
        4..=13 => vm.suspend(SuspendReason::User),
        14..=25 => vm.resume(ResumeReason::User),
        26..=30 => vm.reset(),
        31..=38 => {
            let mut saver = Quick(None);
            vm.save(&mut saver, Intent::Snapshot)
                .map(|_| assert_eq!(saver.0, Some(Closing::Keep)))
        }
        39 | 40 => {
            let _ = vm.cancel_save();
            Ok(())
        }
        41..=43 => vm.meet(How::together().limit(limit), |_| Ok(Flow::Continue)),
        44 | 45 => vm.meet(How::once().limit(limit), |_| Ok(Flow::Look)),
        46..=48 => vm.meet(How::ascending().limit(limit).into(), |_| Ok(Flow::Continue)),
        49..=51 => vm.report(limit).map(drop),
        52..=56 => vm.on_emt(vcpu, Some(limit), settle)?,
        57..=59 => vm.on_emt_priority(vcpu, Some(limit), settle)?,
        60 => vm.on_emt(vcpu, Some(limit), |emt| {
            let me = emt.id();
            emt.want(Flow::Look);
            assert_eq!(me, vcpu);
        }),
        61 => vm.fail(),
        62 => vm.power_off(),
        _ => destroy(vm, limit),
    }
}

/// Destroys, and looks whether that is true.
fn destroy(vm: &Vm, limit: Duration) -> Result<(), VmError> {
    vm.destroy(limit)?;
    assert_eq!(vm.state(), State::Terminated);
    let alive = (0..vm.bells().count()).find(|&v| vm.bells().live(v));
    assert_eq!(alive, None, "an EMT outlives the VM");
    Ok(())
}

/// What an operation may answer when others are under way.
fn check(result: Result<(), VmError>, limits: Limits, state: State) {
    match result {
        Ok(())
        | Err(
            VmError::Refused { .. }
            | VmError::Save { .. }
            | VmError::Device(_)
            | VmError::Fatal { .. }
            | VmError::Gone { .. },
        ) => {}
        Err(VmError::Late { .. }) if limits == Limits::AnyTime => {}
        Err(VmError::Pending { devices, .. }) if limits == Limits::AnyTime => {
            assert!(!devices.is_empty(), "late, but nobody is");
        }
        // A reset that was late; the VM is in guru meditation.
        Err(VmError::Component(_)) if limits == Limits::AnyTime => {}
        // Its vCPU is gone already.
        Err(VmError::Cpu { op: "settle", .. })
            if matches!(state, State::Destroying | State::Terminated) => {}
        Err(other) => panic!("{other:?} in {state}"),
    }
}

/// One life of a VM, from create to destroy.
fn life(limits: Limits, fault: Fault, lives: &AtomicU64) {
    let limit = limits.time();
    let (vcpus, threads) = (thread_rng().gen_range(2..=3), thread_rng().gen_range(4..=8));
    let (cell, wrong, heard) = (Arc::default(), Wrong::default(), Heard::default());
    let spec = VmSpec {
        vcpus,
        memory_bytes: 4096,
        irq: IrqMode::Split,
        gather_limit: limit,
        quiesce_limit: limit,
        fault,
        ..VmSpec::default()
    };
    let vm = match Vm::create(spec, parts(vcpus, &cell, &wrong)) {
        // Nothing of it may be left: a thread that does not end is a deadlock.
        Err(VmError::Late { .. } | VmError::Component(_)) if limits == Limits::AnyTime => return,
        created => created.expect("the test machine comes up"),
    };
    cell.get_or_init(|| Arc::clone(vm.state_cell()));
    let _hears = vm.observe({
        let heard = Arc::clone(&heard);
        move |change| {
            heard
                .lock()
                .expect("one push")
                .push((change.old, change.new));
        }
    });
    shuttle::thread::scope(|scope| {
        for thread in 0..threads {
            let vm = &vm;
            scope.spawn(move || {
                if thread == 0 {
                    check(vm.power_on(), limits, vm.state());
                }
                for _ in 0..OPERATIONS {
                    check(operation(vm, vcpus, limit), limits, vm.state());
                }
            });
        }
    });
    runs(&vm);
    end(&vm, limits);
    follow(&heard.lock().expect("nobody changes it any more"));
    let wrong = wrong.lock().expect("nobody changes it any more");
    assert!(wrong.is_empty(), "{wrong:?}");
    lives.fetch_add(1, SeqCst);
}

type Heard = Arc<Mutex<Vec<(State, State)>>>;

/// In a VM that runs, every vCPU comes to be in the guest.
fn runs(vm: &Vm) {
    const PATIENCE: u32 = 20_000;
    for v in 0..vm.bells().count() {
        let mut turns = 0;
        while vm.state() == State::Running && vm.bells().word(v).phase() != Phase::InGuest {
            turns += 1;
            assert!(turns < PATIENCE, "vCPU {v} of a running VM does not run");
            shuttle::thread::yield_now();
        }
    }
}

/// Powers off what is left, and destroys it.
fn end(vm: &Vm, limits: Limits) {
    while !matches!(
        vm.state(),
        State::Off | State::Destroying | State::Terminated
    ) {
        // Refused: the guest powers off or resets at the same time.
        check(vm.power_off(), limits, vm.state());
        let settled = vm.wait_until(|state| !state.is_transient(), None);
        settled.expect("a wait without a limit, on no EMT");
    }
    while vm.state() != State::Terminated {
        match destroy(vm, limits.time()) {
            Err(VmError::Late { .. }) if limits == Limits::AnyTime => {}
            destroyed => destroyed.expect("a VM that is off can be destroyed"),
        }
    }
}

/// The observer heard of every move, in order, and each was legal.
fn follow(heard: &[(State, State)]) {
    let mut at = State::Created;
    for &(old, new) in heard {
        assert_eq!(old, at, "a move was missed in {heard:?}");
        assert!(table::is_legal(old, new), "{old} -> {new} in {heard:?}");
        at = new;
    }
    assert_eq!(at, State::Terminated, "{heard:?}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    // The models take all orderings for SeqCst; loom is for the others.
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    config
}

fn run(scheduler: impl Scheduler + 'static, limits: Limits, fault: Fault) -> u64 {
    let lives = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lives);
    Runner::new(scheduler, config()).run(move || life(limits, fault, &counted));
    lives.load(SeqCst)
}

/// The schedules of a test: those of `scheduler`, or the one to be replayed.
fn lives<S: Scheduler + 'static>(scheduler: impl FnOnce(u64, usize) -> S, limits: Limits) {
    if let Ok(path) = std::env::var("VM_SHUTTLE_REPLAY") {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let schedule = text.trim().trim_matches('"').trim();
        run(
            ReplayScheduler::new_from_encoded(schedule),
            limits,
            Fault::None,
        );
        return;
    }
    let iterations = number("VM_SHUTTLE_ITERATIONS")
        .map_or(SLICE, |n| usize::try_from(n).expect("a number of lives"));
    let seed = number("VM_SHUTTLE_SEED").unwrap_or(SEED);
    let lived = run(scheduler(seed, iterations), limits, Fault::None);
    assert!(lived > 0, "no VM came to its end");
}

#[test]
fn random_operations_in_random_schedules_neither_hang_nor_break_the_vm() {
    lives(RandomScheduler::new_from_seed, Limits::Never);
}

#[test]
fn random_operations_with_few_preemptions_neither_hang_nor_break_the_vm() {
    lives(
        |seed, n| PctScheduler::new_from_seed(seed, 5, n),
        Limits::Never,
    );
}

#[test]
fn limits_that_pass_at_any_moment_leave_a_vm_that_can_be_destroyed() {
    lives(RandomScheduler::new_from_seed, Limits::AnyTime);
}

#[test]
fn limits_that_pass_with_few_preemptions_leave_a_vm_that_can_be_destroyed() {
    lives(
        |seed, n| PctScheduler::new_from_seed(seed, 5, n),
        Limits::AnyTime,
    );
}

/// Whether a VM with the mistake hangs or breaks in one of the first schedules.
fn found(fault: Fault) -> bool {
    const ENOUGH: usize = 2000;
    let scheduler = RandomScheduler::new_from_seed(SEED, ENOUGH);
    catch_unwind(AssertUnwindSafe(|| run(scheduler, Limits::Never, fault))).is_err()
}

#[test]
fn an_undone_operation_that_rings_nobody_is_found() {
    assert!(found(Fault::UndoWithoutRing));
}

#[test]
fn an_emt_that_clears_its_bell_after_it_looked_is_found() {
    assert!(found(Fault::ClearAfterLook));
}

#[test]
fn a_ring_that_does_not_wake_is_found() {
    assert!(found(Fault::Below(vm_emt::Fault::RingWithoutWake)));
}

#[test]
fn an_emt_that_parks_without_a_second_look_is_found() {
    assert!(found(Fault::Below(vm_emt::Fault::ParkWithoutRecheck)));
}

#[test]
fn a_source_that_rings_before_it_publishes_is_found() {
    assert!(found(Fault::Below(vm_emt::Fault::PublishAfterRing)));
}
