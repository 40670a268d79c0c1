// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Errors of devices, of the host and of operations: what becomes of the VM, and who is told when.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, OnceLock};

use common::{DESTROY, LIMIT, Log, Machine, PORT_ERROR, busy, error, note, spec, taken, until};
use vm_core::{
    BoxError, Built, Cancel, Closing, Emt, ErrorSubscription, Intent, Reported, SaveError, Saver,
    Vm, VmError, Vote,
};
use vm_cpu::script::{Script, ScriptEngine};
use vm_pdm::{Action, BusBuilder, Device, DeviceError, Devices, Link, Raiser};
use vm_state::{ResumeReason, State, SuspendReason};

/// Each error told: its number, and the state in which it was.
type Told = Arc<Mutex<Vec<(u64, State)>>>;

fn listen(vm: &Vm) -> (Told, ErrorSubscription) {
    let told = Told::default();
    let (into, cell) = (Arc::clone(&told), Arc::clone(vm.state_cell()));
    let listening = vm.observe_errors(move |event| {
        into.lock().unwrap().push((event.sequence, cell.read()));
    });
    (told, listening)
}

fn wait_told(told: &Told, count: usize) -> Vec<(u64, State)> {
    until("the errors are told", || {
        told.lock().unwrap().len() >= count
    });
    told.lock().unwrap().clone()
}

fn wait_state(vm: &Vm, wanted: State) {
    vm.wait_until(|state| state == wanted, LIMIT).unwrap();
}

fn running(vcpus: u32) -> (Machine, Vm) {
    let machine = Machine::new(busy());
    let vm = machine.create(vcpus);
    vm.power_on().unwrap();
    (machine, vm)
}

#[test]
fn t_c09_a_failed_operation_answers_its_caller_counts_once_and_is_told() {
    let machine = Machine::new(busy());
    let vm = machine.create(2);
    let texts = Log::default();
    let into = Arc::clone(&texts);
    let _listening = vm.observe_errors(move |event| match &event.what {
        Reported::Operation { op, text } => note(&into, format!("{} {op}: {text}", event.sequence)),
        Reported::Runtime(error) => note(&into, error.to_string()),
    });
    let answer = vm.suspend(SuspendReason::User).unwrap_err();
    assert!(matches!(answer, VmError::Refused { .. }), "{answer:?}");
    assert_eq!(taken(&texts), [format!("1 suspend: {answer}")]);
    let errors = vm.errors();
    assert_eq!((errors.vm_errors, errors.runtime_errors), (1, 0));
    assert_eq!(errors.last.unwrap().to_string(), answer.to_string());
    assert_eq!(vm.status().errors.last, Some(answer.to_string()));
}

/// Lines that were logged at error level.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

#[test]
fn t_c10_an_error_that_nobody_listens_to_is_counted_and_in_the_log() {
    static SET: OnceLock<()> = OnceLock::new();
    SET.get_or_init(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let (machine, vm) = running(1);
    *machine.fails.lock().unwrap() = Some("suspend");
    let failed = vm.suspend(SuspendReason::User).unwrap_err().to_string();
    vm.raise(vm_pdm::RuntimeError {
        message: "nobody hears of this".into(),
        ..error(Action::Inform)
    });
    until("both are counted", || vm.errors().runtime_errors == 1);
    assert_eq!(vm.errors().vm_errors, 1);
    let lines = LINES.0.lock().unwrap();
    assert!(lines.contains(&failed), "{failed}: {lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("nobody hears of this"))
    );
}

#[test]
fn t_c11_an_error_from_inside_a_listener_is_told_after_it_and_both_count() {
    let (_machine, vm) = running(2);
    let (log, inner) = (Log::default(), vm.clone());
    let into = Arc::clone(&log);
    let listening = vm.observe_errors(move |event| {
        note(&into, format!("begin {}", event.sequence));
        if event.sequence == 1 {
            inner.raise(error(Action::Inform));
            assert!(inner.power_on().is_err());
        }
        note(&into, format!("end {}", event.sequence));
    });
    vm.raise(error(Action::Inform));
    until("all three are told", || log.lock().unwrap().len() >= 6);
    let expected = ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"];
    assert_eq!(taken(&log), expected);
    let errors = vm.errors();
    assert_eq!((errors.vm_errors, errors.runtime_errors), (1, 2));
    drop(listening);
}

#[test]
fn t_c13_a_runtime_error_that_suspends_is_told_when_the_vm_is_suspended() {
    let (_machine, vm) = running(3);
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Suspend));
    assert_eq!(wait_told(&told, 1), [(1, State::Suspended)]);
    let last = vm.state_cell().snapshot().last_suspend;
    assert_eq!(last, Some(SuspendReason::RuntimeError));
    vm.resume(ResumeReason::User).unwrap();
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn a_vcpu_whose_access_failed_does_not_go_on_before_the_suspend() {
    for vcpu in 0..3 {
        let script = Script::new().pio_write(PORT_ERROR, 1, 1).work(100_000);
        let machine = Machine::with(ScriptEngine::new(busy()).vcpu(vcpu, script));
        let vm = machine.create(3);
        vm.power_on().unwrap();
        wait_state(&vm, State::Suspended);
        assert_eq!(machine.engine.progress(vcpu).work(), 1, "only the access");
        vm.resume(ResumeReason::User).unwrap();
        let progress = machine.engine.progress(vcpu);
        until("it goes on after the access", || progress.work() > 100);
        let errors = vm.errors();
        assert_eq!((errors.vm_errors, errors.runtime_errors), (0, 1));
    }
}

#[test]
fn t_c14_a_runtime_error_that_suspends_a_suspended_vm_is_told_and_no_more() {
    let (machine, vm) = running(2);
    vm.suspend(SuspendReason::User).unwrap();
    taken(&machine.log);
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Suspend));
    assert_eq!(wait_told(&told, 1), [(1, State::Suspended)]);
    assert_eq!(vm.errors().vm_errors, 0);
    assert!(taken(&machine.log).is_empty(), "no device hears of it");
    let last = vm.state_cell().snapshot().last_suspend;
    assert_eq!(last, Some(SuspendReason::User));
    vm.resume(ResumeReason::User).unwrap();
    vm.on_emt(0, LIMIT, |_| ()).unwrap();
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn t_c15_many_that_suspend_at_once_are_all_told_with_one_suspend_and_no_error() {
    let (machine, vm) = running(3);
    taken(&machine.log);
    let (told, _listening) = listen(&vm);
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                vm.raise(error(Action::Suspend));
            });
        }
    });
    let told = wait_told(&told, 8);
    let numbers: Vec<u64> = told.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(taken(&machine.log), ["second suspend", "first suspend"]);
    let errors = vm.errors();
    assert_eq!((errors.vm_errors, errors.runtime_errors), (0, 8));
}

#[test]
fn all_vcpus_whose_accesses_fail_at_once_make_one_suspend() {
    let script = Script::new().pio_write(PORT_ERROR, 1, 1).work(50).forever();
    for _ in 0..50 {
        let machine = Machine::new(script.clone());
        let vm = machine.create(4);
        vm.power_on().unwrap();
        wait_state(&vm, State::Suspended);
        let mut resumed = 0;
        // Who had not come to its access before the suspend comes to it after the resume.
        while vm.errors().runtime_errors < 4 {
            assert!(resumed < 4);
            vm.resume(ResumeReason::User).unwrap();
            resumed += 1;
            wait_state(&vm, State::Suspended);
        }
        assert_eq!(vm.errors().vm_errors, 0);
    }
}

#[test]
fn t_c16_a_fatal_runtime_error_leaves_power_off_alone() {
    let (machine, vm) = running(3);
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Fatal));
    assert_eq!(wait_told(&told, 1), [(1, State::FatalError)]);
    let work = || (0..3).map(|v| machine.engine.progress(v).work());
    let before: Vec<u64> = work().collect();
    for _ in 0..100 {
        vm.on_emt(1, LIMIT, |_| ()).unwrap();
    }
    assert!(work().eq(before), "no guest code");
    let refused = [
        vm.resume(ResumeReason::User),
        vm.suspend(SuspendReason::User),
        vm.reset(),
    ];
    for result in refused {
        assert!(matches!(result, Err(VmError::Refused { .. })), "{result:?}");
    }
    vm.power_off().unwrap();
    vm.destroy(DESTROY).unwrap();
}

#[test]
fn a_vcpu_whose_access_was_fatal_does_not_go_on() {
    let script = Script::new().pio_write(PORT_ERROR, 1, 2).work(1000);
    let machine = Machine::with(ScriptEngine::new(busy()).vcpu(1, script));
    let vm = machine.create(2);
    vm.power_on().unwrap();
    wait_state(&vm, State::FatalError);
    assert_eq!(machine.engine.progress(1).work(), 1);
}

#[test]
fn a_fatal_error_in_a_suspended_vm_keeps_it_from_running_again() {
    let (_machine, vm) = running(2);
    vm.suspend(SuspendReason::User).unwrap();
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Fatal));
    assert_eq!(wait_told(&told, 1), [(1, State::Suspended)]);
    let result = vm.resume(ResumeReason::User);
    assert!(matches!(result, Err(VmError::Fatal { .. })), "{result:?}");
    assert_eq!(vm.state(), State::GuruMeditation);
    vm.power_off().unwrap();
}

/// One live pass, in which `act` runs.
struct OnePass<'a>(&'a (dyn Fn() + Sync));

impl Saver for OnePass<'_> {
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
    fn pass(&mut self, _: u32, _: &Cancel) -> Result<Vote, BoxError> {
        (self.0)();
        Ok(Vote::Done)
    }
    fn finish(&mut self, _: &mut Emt, _: &Cancel) -> Result<(), BoxError> {
        Ok(())
    }
    fn close(&mut self, _: Closing) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn t_c17_a_fatal_runtime_error_during_a_live_save_ends_the_save() {
    let (_machine, vm) = running(2);
    let (told, _listening) = listen(&vm);
    let act = || {
        vm.raise(error(Action::Fatal));
        assert_eq!(wait_told(&told, 1), [(1, State::FatalErrorLs)]);
    };
    let result = vm.save(&mut OnePass(&act), Intent::Snapshot);
    let died = VmError::Save {
        source: SaveError::Died,
    };
    assert_eq!(result.unwrap_err().to_string(), died.to_string());
    assert_eq!(vm.state(), State::FatalError);
    vm.power_off().unwrap();
}

#[test]
fn a_runtime_error_that_suspends_during_a_live_save_lets_the_save_complete() {
    let (_machine, vm) = running(2);
    let (told, _listening) = listen(&vm);
    let act = || {
        vm.raise(error(Action::Suspend));
        assert_eq!(wait_told(&told, 1), [(1, State::SuspendedExtLs)]);
    };
    let saved = vm.save(&mut OnePass(&act), Intent::Snapshot).unwrap();
    assert_eq!(saved.suspended_by, vm_core::SuspendedBy::Other);
    assert_eq!(vm.state(), State::Suspended);
    let last = vm.state_cell().snapshot().last_suspend;
    assert_eq!(last, Some(SuspendReason::RuntimeError));
}

#[test]
fn t_c18_a_worker_reports_while_it_holds_what_an_emt_waits_for() {
    let (_machine, vm) = running(1);
    let (told, _listening) = listen(&vm);
    let wanted = Mutex::new(());
    let (held, inside) = (wanted.lock().unwrap(), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            vm.on_emt(0, LIMIT, |_| {
                inside.wait();
                drop(wanted.lock().unwrap());
            })
            .unwrap();
        });
        inside.wait();
        vm.raiser().raise(error(Action::Inform));
        assert!(told.lock().unwrap().is_empty(), "its EMT is not there");
        drop(held);
    });
    assert_eq!(wait_told(&told, 1), [(1, State::Running)]);
}

#[test]
fn t_c19_a_runtime_error_that_informs_lets_the_vm_run() {
    let (machine, vm) = running(2);
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Inform));
    assert_eq!(wait_told(&told, 1), [(1, State::Running)]);
    let before = machine.engine.progress(0).work();
    until("the guest goes on", || {
        machine.engine.progress(0).work() > before
    });
    let errors = vm.errors();
    assert_eq!((errors.vm_errors, errors.runtime_errors), (0, 1));
    assert_eq!(errors.last, None);
    let text = errors.last_runtime.unwrap().to_string();
    assert!(
        text.contains("first") && text.contains("DiskFull"),
        "{text}"
    );
}

#[test]
fn t_c20_a_refused_destroy_beside_transitions_never_hangs() {
    let (_machine, vm) = running(1);
    let done = AtomicBool::new(false);
    let refused = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                assert!(vm.destroy(DESTROY).is_err());
                refused.fetch_add(1, SeqCst);
            }
        });
        for _ in 0..1000 {
            vm.suspend(SuspendReason::User).unwrap();
            vm.resume(ResumeReason::User).unwrap();
        }
        until("destroys were refused", || refused.load(SeqCst) > 100);
        done.store(true, SeqCst);
    });
    assert_eq!(vm.errors().vm_errors, u64::from(refused.load(SeqCst)));
}

/// Reports that it failed whenever it is resumed or reset.
#[derive(Default)]
struct Failing(OnceLock<Raiser>);

impl Device for Failing {
    fn name(&self) -> &'static str {
        "failing"
    }
    fn connect(&self, link: &Link) {
        self.0.set(link.raiser.clone()).unwrap();
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.0.get().unwrap().raise(error(Action::Suspend));
        Ok(())
    }
    fn reset(&self, _: vm_pdm::ResetKind) -> Result<(), DeviceError> {
        self.resume()
    }
}

#[test]
fn a_suspend_asked_for_while_the_vm_comes_back_happens_when_it_has() {
    let machine = Machine::new(busy());
    let mut parts = machine.parts();
    parts.board = Box::new(|_| {
        let mut devices = Devices::new();
        devices.add(Arc::new(Failing::default()))?;
        Ok(Built {
            devices,
            buses: BusBuilder::new().build(),
            eoi: None,
        })
    });
    let vm = Vm::create(spec(2), parts).unwrap();
    vm.power_on().unwrap();
    vm.suspend(SuspendReason::User).unwrap();
    let (told, _listening) = listen(&vm);
    vm.resume(ResumeReason::User).unwrap();
    wait_told(&told, 1);
    wait_state(&vm, State::Suspended);
    let last = vm.state_cell().snapshot().last_suspend;
    assert_eq!(last, Some(SuspendReason::RuntimeError));
    vm.reset().unwrap();
    wait_told(&told, 2);
    assert_eq!(vm.state(), State::Suspended);
    assert_eq!(vm.errors().vm_errors, 0);
}

#[test]
fn a_suspend_that_a_device_refuses_is_told_and_the_vm_runs_on() {
    let (machine, vm) = running(2);
    let (told, _listening) = listen(&vm);
    *machine.fails.lock().unwrap() = Some("suspend");
    vm.raise(error(Action::Suspend));
    assert_eq!(
        wait_told(&told, 2),
        [(1, State::Running), (2, State::Running)]
    );
    let errors = vm.errors();
    assert_eq!((errors.vm_errors, errors.runtime_errors), (1, 1));
    *machine.fails.lock().unwrap() = None;
    vm.on_emt(1, LIMIT, |_| ()).unwrap();
    assert_eq!(vm.state(), State::Running, "it is not tried again");
}

#[test]
fn a_blocking_operation_in_a_listener_is_refused_and_a_panic_ends_there() {
    let (_machine, vm) = running(2);
    let results = Arc::new(Mutex::new(Vec::new()));
    let (into, inner) = (Arc::clone(&results), vm.clone());
    let refused = vm.observe_errors(move |_| {
        let result = inner.on_emt(1, LIMIT, |_| ());
        into.lock().unwrap().push(result.unwrap_err().to_string());
        std::panic::resume_unwind(Box::new("a listener that panics"));
    });
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Inform));
    wait_told(&told, 1);
    vm.raise(error(Action::Inform));
    wait_told(&told, 2);
    let results = results.lock().unwrap().clone();
    assert_eq!(results.len(), 1, "a listener that panicked is not called");
    assert!(results[0].contains("refused"), "{results:?}");
    drop(refused);
}

#[test]
fn a_listener_that_ends_itself_hears_no_more() {
    let (_machine, vm) = running(1);
    let slot: Arc<Mutex<Option<ErrorSubscription>>> = Arc::default();
    let (own, calls) = (Arc::clone(&slot), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&calls);
    *slot.lock().unwrap() = Some(vm.observe_errors(move |_| {
        count.fetch_add(1, SeqCst);
        drop(own.lock().unwrap().take());
    }));
    let (told, _listening) = listen(&vm);
    vm.raise(error(Action::Inform));
    vm.raise(error(Action::Inform));
    wait_told(&told, 2);
    assert_eq!(calls.load(SeqCst), 1);
}
