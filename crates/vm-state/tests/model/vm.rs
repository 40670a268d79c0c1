// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The life of a VM: its calls, its guest and its misfortunes; what operations do stands in `work`,
//! what a live save does in `saver`.
//!
//! Each rule of the protocol that an older protocol lacks can be taken out by a [`Flaw`]. What a VM
//! remembers (`asks`, `waits`) is apart from what really happened to it (`dead`, `owed`,
//! `devices`), which no rule may look at and every invariant is about.

use super::cell::{Act, Ask, Cell};
use super::explore::{Kind, Label, Model, Step};
use super::saver::Saver;
use super::work::{By, Op, Stage, Work};
use vm_state::{State, operations};

/// A rule taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// None: the protocol as it is to be.
    None,
    /// The last step of a live save demands that the suspend was its own, and when it fails so,
    /// nobody cleans up.
    LiveSuspendDemandsItsOwn,
    /// A live save whose stream cannot be opened leaves RUNNING_LS behind.
    OpenFailureLeavesLiveSave,
    /// A fatal cause raised while the VM is not running is forgotten.
    FatalForgottenUnlessRunning,
    /// A fatal runtime error raised while the VM is not running is refused, and that is that.
    RuntimeErrorRefusedUnlessRunning,
    /// A device that cannot be powered on or resumed is passed over.
    DeviceFailureSwallowed,
    /// The clock is read after the devices are quiet, and its failure does not wake them.
    ClockReadAfterDevices,
    /// A failed teleport leaves the VM marked as teleported.
    TeleportMarkStays,
    /// A vCPU that waits for its turn to reset the machine is not told that it was reset meanwhile.
    DeedOutlivesReset,
    /// A guest's request that loses a race is dropped.
    LostRaceDropsDeed,
    /// A suspend during a live save that a device refuses is dropped as it is.
    RefusedSuspendIsFatal,
    /// A hard reset ends where it began, also during a live save.
    ResetReturnsToLiveSave,
}

/// The model: which rule is missing, and how many vCPUs may ask for something.
pub(crate) struct Life {
    pub(crate) flaw: Flaw,
    pub(crate) vcpus: usize,
}

/// What a vCPU asked the machine for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Deed {
    HardReset,
    SoftReset,
    PowerOff,
}

impl Deed {
    pub(crate) fn op(self) -> Op {
        match self {
            Self::HardReset => Op::HardReset,
            Self::SoftReset => Op::SoftReset,
            Self::PowerOff => Op::PowerOff,
        }
    }
}

/// What an EMT knows of what its vCPU asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Asked {
    Nothing,
    /// Kept until the VM runs.
    Kept(Deed),
    /// The EMT is carrying it out: it waits for its turn, or its operation is under way.
    Acting(Deed),
}

/// What the devices really do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Devices {
    Off,
    On,
    Quiet,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may go with any other"
)]
pub(crate) struct Vm {
    pub(crate) cell: Cell,
    pub(crate) work: Option<Work>,
    pub(crate) saver: Saver,
    /// A power off that waits for the saver.
    pub(crate) waits: bool,
    pub(crate) asks: [Asked; 2],
    pub(crate) teleported: bool,
    pub(crate) devices: Devices,
    /// Something happened after which guest code must not run.
    pub(crate) dead: bool,
    /// The vCPU wrote a request that nothing has come of yet.
    pub(crate) owed: [bool; 2],
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cell.state)?;
        if let Some(work) = self.work {
            write!(f, ", {work:?}")?;
        }
        if self.saver != Saver::Idle {
            write!(f, ", saver {:?}", self.saver)?;
        }
        for (vcpu, asked) in self.asks.iter().enumerate() {
            if *asked != Asked::Nothing {
                write!(f, ", vCPU {vcpu} {asked:?}")?;
            }
        }
        write!(f, ", devices {:?}", self.devices)?;
        let marks = [
            (self.waits, "power off waits"),
            (self.teleported, "teleported"),
            (self.cell.fatal, "fatal cause kept"),
            (self.dead, "guest must not run"),
        ];
        for (_, mark) in marks.into_iter().filter(|(is, _)| *is) {
            write!(f, ", {mark}")?;
        }
        Ok(())
    }
}

/// A step being made.
pub(crate) struct Move {
    pub(crate) label: Label,
    pub(crate) kind: Kind,
    pub(crate) vm: Vm,
    pub(crate) acts: Vec<Act>,
    pub(crate) wrong: Option<&'static str>,
}

impl Move {
    /// Asks the cell; false if it is refused.
    pub(crate) fn ask(&mut self, ask: Ask) -> bool {
        let done = self.vm.cell.ask(ask);
        self.acts.push((ask, self.vm.cell.state));
        done
    }

    /// Begins `op` if the state is one that it begins in.
    pub(crate) fn begin(&mut self, op: Op, by: By) -> bool {
        let done = self.ask(Ask::Begin(op.data().moves));
        if done {
            let stage = Stage::Begun;
            self.vm.work = Some(Work { op, by, stage });
        }
        done
    }
}

/// The steps out of one state.
pub(crate) struct Moves {
    vm: Vm,
    pub(crate) made: Vec<Move>,
}

impl Moves {
    /// Adds what `make` makes of the state.
    pub(crate) fn add(&mut self, kind: Kind, label: Label, make: impl FnOnce(&mut Move)) {
        let mut step = Move {
            label,
            kind,
            vm: self.vm,
            acts: Vec::new(),
            wrong: None,
        };
        make(&mut step);
        if step.vm != self.vm || step.wrong.is_some() {
            self.made.push(step);
        }
    }
}

impl Life {
    /// Every step out of `vm`.
    pub(crate) fn moves(&self, vm: &Vm) -> Vec<Move> {
        let mut moves = Moves {
            vm: *vm,
            made: Vec::new(),
        };
        self.calls(vm, &mut moves);
        if let Some(work) = vm.work {
            self.work(vm, work, &mut moves);
        }
        self.saver(vm, &mut moves);
        self.guest(vm, &mut moves);
        self.misfortunes(vm, &mut moves);
        moves.made
    }

    /// What the VM's owner may call. A call in a state that does not accept it changes nothing.
    fn calls(&self, vm: &Vm, moves: &mut Moves) {
        for op in Op::PUBLIC {
            let saves = matches!(op, Op::Save | Op::Teleport);
            if saves && vm.saver != Saver::Idle {
                continue; // refused: another save is under way
            }
            moves.add(Kind::Call, ("owner", op.data().name), |m| {
                let begun = m.begin(op, By::Owner);
                if saves && (begun || m.ask(Ask::Shift(op.data().shifts))) {
                    m.vm.teleported |= op == Op::Teleport;
                    if !begun {
                        m.vm.saver = Saver::Opens;
                    }
                }
            });
        }
        let held = matches!(
            vm.cell.state,
            State::SuspendedLs | State::SuspendedExtLs | State::Saving
        );
        if held {
            let label = ("owner", "power off, which waits for the saver");
            moves.add(Kind::Call, label, |m| m.vm.waits = true);
        }
        if vm.waits {
            moves.add(Kind::Inner, ("owner", "the power off goes on"), |m| {
                let too_late = [State::Off, State::Destroying, State::Terminated];
                m.vm.waits =
                    !(m.begin(Op::PowerOff, By::Owner) || too_late.contains(&vm.cell.state));
            });
        }
        if vm.work.is_some_and(|work| work.stage == Stage::Late) {
            moves.add(Kind::Call, ("owner", "destroy, once more"), |m| {
                m.vm.work = vm.work.map(|work| Work {
                    stage: Stage::Begun,
                    ..work
                });
            });
        }
    }

    /// What the guest asks for, and what its EMTs do about it.
    fn guest(&self, vm: &Vm, moves: &mut Moves) {
        for v in 0..self.vcpus {
            let runs = vm.cell.state.is_running();
            match vm.asks[v] {
                Asked::Nothing if runs => {
                    for deed in [Deed::HardReset, Deed::SoftReset, Deed::PowerOff] {
                        moves.add(
                            Kind::Chance,
                            ("guest asks for", deed.op().data().name),
                            |m| {
                                m.vm.asks[v] = Asked::Kept(deed);
                                m.vm.owed[v] = true;
                            },
                        );
                    }
                }
                Asked::Kept(deed) if runs => {
                    moves.add(Kind::Inner, ("EMT", "waits for its turn"), |m| {
                        m.vm.asks[v] = Asked::Acting(deed);
                    });
                }
                Asked::Acting(deed) if !vm.work.is_some_and(|w| w.by == By::Guest(v)) => {
                    moves.add(Kind::Inner, ("EMT begins", deed.op().data().name), |m| {
                        self.act(m, v, deed);
                    });
                }
                Asked::Nothing | Asked::Kept(_) | Asked::Acting(_) => {}
            }
        }
    }

    fn act(&self, m: &mut Move, v: usize, deed: Deed) {
        if m.begin(deed.op(), By::Guest(v)) {
            if !m.vm.owed[v] {
                m.wrong = Some("the guest's request is carried out on a machine that did not ask");
            }
        } else if self.flaw == Flaw::LostRaceDropsDeed {
            m.vm.asks[v] = Asked::Nothing;
        } else {
            m.vm.asks[v] = Asked::Kept(deed);
        }
    }

    /// What may happen at any time after which guest code must not run.
    fn misfortunes(&self, vm: &Vm, moves: &mut Moves) {
        if vm.dead || vm.cell.state == State::Terminated {
            return;
        }
        let runs = vm.cell.state.is_running();
        moves.add(Kind::Chance, ("a vCPU", "cannot go on"), |m| {
            m.vm.dead = true;
            if runs || self.flaw != Flaw::FatalForgottenUnlessRunning {
                m.ask(Ask::Raise);
            }
        });
        moves.add(
            Kind::Chance,
            ("a device", "has a fatal runtime error"),
            |m| {
                m.vm.dead = true;
                // Where the operation is refused, the cause is kept as any other.
                if !m.ask(Ask::Shift(operations::FATAL_ERROR.shifts))
                    && self.flaw != Flaw::RuntimeErrorRefusedUnlessRunning
                {
                    m.ask(Ask::Raise);
                }
            },
        );
    }

    fn wrong_devices(vm: &Vm) -> bool {
        match vm.cell.state {
            State::Running | State::RunningLs => vm.devices != Devices::On,
            State::Suspended | State::SuspendedLs | State::SuspendedExtLs | State::Saving => {
                vm.devices != Devices::Quiet
            }
            State::Created | State::Off | State::Terminated => vm.devices != Devices::Off,
            State::Creating
            | State::Loading
            | State::PoweringOn
            | State::Resuming
            | State::Resetting
            | State::ResettingLs
            | State::SoftResetting
            | State::SoftResettingLs
            | State::Suspending
            | State::SuspendingLs
            | State::SuspendingExtLs
            | State::PoweringOff
            | State::PoweringOffLs
            | State::OffLs
            | State::FatalError
            | State::FatalErrorLs
            | State::GuruMeditation
            | State::GuruMeditationLs
            | State::LoadFailure
            | State::Destroying => false,
        }
    }
}

impl Model for Life {
    type State = Vm;

    fn initial(&self) -> Vm {
        Vm {
            cell: Cell::creating(),
            work: Some(Work {
                op: Op::Create,
                by: By::Owner,
                stage: Stage::Begun,
            }),
            saver: Saver::Idle,
            waits: false,
            asks: [Asked::Nothing; 2],
            teleported: false,
            devices: Devices::Off,
            dead: false,
            owed: [false; 2],
        }
    }

    fn steps(&self, vm: &Vm) -> Vec<Step<Vm>> {
        let step = |m: Move| Step {
            label: m.label,
            kind: m.kind,
            to: m.vm,
            wrong: m.wrong,
        };
        self.moves(vm).into_iter().map(step).collect()
    }

    fn wrong(&self, vm: &Vm) -> Option<&'static str> {
        let state = vm.cell.state;
        let lost = |v: usize| vm.owed[v] && vm.asks[v] == Asked::Nothing;
        let rules = [
            (
                state.is_transient() != vm.work.is_some(),
                "a transient state and an operation under way do not go together",
            ),
            (
                state.is_live_save() && vm.saver == Saver::Idle,
                "a live-save state without a saver who leaves it",
            ),
            (
                state.is_running() && (vm.dead || vm.cell.fatal),
                "guest code runs in a dead VM",
            ),
            (
                Self::wrong_devices(vm),
                "the devices are not as the state says",
            ),
            (
                state.is_running() && (0..2).any(lost),
                "a request of the guest is lost, and the guest goes on",
            ),
            (
                state == State::Running && vm.teleported && vm.saver == Saver::Idle,
                "a VM that runs here is marked as teleported",
            ),
        ];
        rules.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
    }

    fn rests(&self, vm: &Vm) -> bool {
        let late = vm.work.is_some_and(|work| work.stage == Stage::Late);
        let acting = vm.asks.iter().any(|a| matches!(a, Asked::Acting(_)));
        let quiet = vm.work.is_none() && !vm.cell.state.is_live_save();
        (late || quiet) && vm.saver == Saver::Idle && !vm.waits && !acting
    }

    fn ended(&self, vm: &Vm) -> bool {
        vm.cell.state == State::Terminated
    }
}
