// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm run`: from a command line to an exit status.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, anyhow};
use vm_boot::{Boot, Image, Initrd};
use vm_core::{BoxError, Ending, Parts, Vm, VmError};
use vm_cpu::{CpuError, Engine, RamLayout};
use vm_devices::{DiskError, DiskImage};
use vm_state::State;

use crate::args::RunArgs;
use crate::board::{Disk, Peripherals, VirtioPeripherals, board};
use crate::bundle::{self, Bundle};
use crate::config::{self, DiskSpec, RunSpec};
use crate::exit::{Failure, Status};
use crate::reach::Reach;
use crate::{check, console, control, events, host, logger, say, signals, terminal};

/// How long the end of the program waits for the VM's threads.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The VM is in a state in which no guest code will run again.
    Ended,
    /// The user ends the program, in this way.
    Quit(&'static str),
}

/// Runs a VM to its end.
pub(crate) fn run(args: &RunArgs) -> Result<Status, Failure> {
    let (spec, tree) = config::read_tree(args).map_err(Failure::usage)?;
    let effective: Arc<str> = check::as_toml(&spec, &tree).into();
    logger::start(spec.log);
    let reach = Arc::new(Reach::default());
    let boot = boot(&spec, &reach).map_err(Failure::usage)?;
    let disks = disks(&spec).map_err(Failure::usage)?;
    let apart = console::open(&spec.console).map_err(Failure::usage)?;
    host::memory_fits(spec.vm.memory_bytes).map_err(Failure::usage)?;
    let engine = host::engine(spec.engine)?;
    let place = spec.bundle.as_deref().map_or(Ok(()), bundle::check_place);
    place.map_err(Failure::usage)?;
    let control = spec.control.as_deref().map(control::Bound::new);
    let control = control.transpose().map_err(Failure::usage)?;

    let (events, ended) = mpsc::channel();
    let _signals = signals::Watch::start(events.clone())
        .context("cannot watch for signals")
        .map_err(Failure::host)?;
    let (consoles, keyboard) = console::connect(&spec.console, apart, &events)
        .context("cannot read the terminal")
        .map_err(Failure::host)?;
    let peripherals = Peripherals {
        serial: consoles.serial,
        virtio: VirtioPeripherals {
            disks,
            entropy: spec.entropy,
            console: consoles.virtio,
        },
        reach: Arc::clone(&reach),
    };
    let vm = create(&spec, boot, engine, peripherals)?;
    let raw = terminal::Raw::enter()
        .context("cannot make the terminal raw")
        .map_err(Failure::host)?;
    let watch_events = events.clone();
    let json = spec.json;
    let _watch = vm.observe(move |change| {
        if json {
            say::terminal(&events::change_line(change));
        }
        if over(change.new) {
            // The receiver is gone only when the run is over.
            let _ = watch_events.send(Event::Ended);
        }
    });
    let _listening =
        json.then(|| vm.observe_errors(|error| say::terminal(&events::error_line(error))));
    let _hearing =
        json.then(|| reach.listen(|changed| say::terminal(&events::backend_line(changed))));
    vm.power_on().map_err(Failure::host)?;
    let control = control
        .map(|bound| {
            let config = Arc::clone(&effective);
            control::Server::start(bound, &vm, &reach, &events, config)
        })
        .transpose()
        .context("cannot serve the control socket")
        .map_err(Failure::host)?;
    let status = supervise(&vm, &ended);
    drop(keyboard);
    drop(raw);
    let status = status?;
    if status == Status::GuestDied {
        died(&vm, spec.bundle.as_deref(), &effective)?;
    }
    vm.destroy(END_LIMIT).map_err(unfinished)?;
    let end = events::end_line(&vm, status);
    if json {
        say::terminal(&end);
    }
    if let Some(control) = control {
        control.finish(end);
    }
    Ok(status)
}

/// States in which no guest code will run again.
fn over(state: State) -> bool {
    matches!(
        state,
        State::Off | State::GuruMeditation | State::FatalError | State::LoadFailure
    )
}

/// Waits for the end of a VM that was powered on.
fn supervise(vm: &Vm, ended: &Receiver<Event>) -> Result<Status, Failure> {
    loop {
        match ended.recv() {
            Ok(Event::Ended) => break,
            Ok(Event::Quit(how)) => {
                log::info!(target: "vmm", "ended by {how}");
                power_off(vm)?;
            }
            Err(_) => {
                return Err(Failure::host(anyhow!(
                    "nobody is left who could end the VM"
                )));
            }
        }
    }
    Ok(match vm.ending() {
        None => Status::GuestDied,
        Some(Ending::DebugExit(value)) => Status::DebugExit(value),
        Some(Ending::TripleFault) => Status::GuestDied,
        Some(Ending::PowerOff | Ending::GuestPowerOff | Ending::GuestReset) => Status::Ok,
    })
}

/// Tells of a guest that died, and ends it.
fn died(vm: &Vm, dir: Option<&Path>, effective: &str) -> Result<(), Failure> {
    let guru = vm.guru();
    if let Some(report) = &guru {
        say::line("the guest died");
        say::terminal(&report.to_string());
    }
    if let Some(dir) = dir {
        match Bundle::of(vm, effective).save(dir) {
            Ok(()) => say::line(&format!("see {}", dir.display())),
            // How the guest ended is what the status is to tell.
            Err(e) => say::error(&anyhow::Error::from(e)),
        }
    }
    if guru.is_some() {
        power_off(vm)?;
    }
    Ok(())
}

/// Powers off on the user's behalf; that the guest was faster is no failure.
fn power_off(vm: &Vm) -> Result<(), Failure> {
    match vm.power_off() {
        Ok(()) | Err(VmError::Refused { .. }) => Ok(()),
        Err(e) => Err(unfinished(e)),
    }
}

fn unfinished(e: VmError) -> Failure {
    Failure {
        status: Status::Control,
        error: anyhow::Error::from(e).context("the VM did not end in order"),
    }
}

fn boot(spec: &RunSpec, reach: &Arc<Reach>) -> anyhow::Result<Boot> {
    let image = Image::open_as(&spec.kernel, spec.form)?;
    log::info!(target: "vmm", "{}: {}", spec.kernel.display(), image.describe());
    let initrds = spec.initrds.iter().map(Initrd::open);
    let initrds = initrds.collect::<Result<Vec<_>, _>>()?;
    let boot = Boot::new(image, initrds, &spec.append, spec.vm.vcpus)?;
    let boot = match spec.entry {
        Some(protocol) => boot.with_protocol(protocol),
        None => boot,
    };
    let reach = Arc::clone(reach);
    let is_plugged = move |vcpu| reach.ged.get().is_none_or(|ged| ged.is_plugged(vcpu));
    Ok(boot.with_platform(spec.platform()).with_present(is_plugged))
}

fn disks(spec: &RunSpec) -> Result<Vec<Disk>, DiskError> {
    let open = |&DiskSpec { ref path, access }| {
        let image = path.as_deref().map(|path| DiskImage::open(path, access));
        let image = image.transpose()?;
        Ok(Disk { access, image })
    };
    spec.disks.iter().map(open).collect()
}

fn create(
    spec: &RunSpec,
    boot: Boot,
    engine: Arc<dyn Engine>,
    peripherals: Peripherals,
) -> Result<Vm, Failure> {
    let layout = RamLayout {
        bytes: spec.vm.memory_bytes,
    };
    let parts = Parts {
        engine,
        board: board(peripherals, spec.platform()),
        firmware: Box::new(move |ram| {
            boot.load(ram, layout)
                .map(Some)
                .map_err(|e| Box::new(e) as BoxError)
        }),
        saver: None,
        extra: Vec::new(),
    };
    Vm::create(spec.vm.clone(), parts).map_err(blame)
}

/// Whose fault a failed create is: the user's files and numbers, or the host.
fn blame(error: VmError) -> Failure {
    let users = match &error {
        VmError::Spec { .. } => true,
        VmError::Component(e) => {
            e.source.is::<vm_boot::BootError>()
                || e.source.is::<vm_pdm::BusError>()
                || matches!(e.source.downcast_ref(), Some(CpuError::Invalid { .. }))
        }
        VmError::Refused { .. }
        | VmError::WouldBlock { .. }
        | VmError::Late { .. }
        | VmError::Device(_)
        | VmError::Place(_)
        | VmError::Cpu { .. }
        | VmError::Thread { .. }
        | VmError::Gone { .. }
        | VmError::Panicked { .. }
        | VmError::Overtaken { .. }
        | VmError::Vcpu { .. }
        | VmError::Pending { .. }
        | VmError::NotUndone { .. }
        | VmError::Save { .. }
        | VmError::Fatal { .. } => false,
    };
    if users {
        Failure::usage(error)
    } else {
        Failure::host(error)
    }
}
