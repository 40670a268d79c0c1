// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an operation under way may come to: its devices answer, later, not, or with an error.

use super::cell::Ask;
use super::explore::Kind;
use super::saver::Saver;
use super::vm::{Asked, Devices, Flaw, Life, Move, Moves, Vm};
use vm_state::operations::{self, Operation};
use vm_state::{State, table};

/// An operation with a transition of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Op {
    Create,
    PowerOn,
    Suspend,
    Resume,
    Save,
    Teleport,
    Load,
    PowerOff,
    HardReset,
    SoftReset,
    Destroy,
    LiveSuspend,
    LiveFinish,
}

/// Who began it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum By {
    Owner,
    /// For this vCPU's guest code.
    Guest(usize),
    Saver,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    Begun,
    /// A device answers later.
    Pending,
    /// An EMT did not come to be ended; the owner calls again.
    Late,
}

/// An operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Work {
    pub(crate) op: Op,
    pub(crate) by: By,
    pub(crate) stage: Stage,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, by, stage) = (self.op.data().name, self.by, self.stage);
        write!(f, "{name} by {by:?} {stage:?}")
    }
}

impl Op {
    /// In the order of `operations::PUBLIC`.
    pub(crate) const PUBLIC: [Self; 10] = [
        Self::PowerOn,
        Self::Suspend,
        Self::Resume,
        Self::Save,
        Self::Teleport,
        Self::Load,
        Self::PowerOff,
        Self::HardReset,
        Self::SoftReset,
        Self::Destroy,
    ];

    pub(crate) fn data(self) -> &'static Operation {
        match self {
            Self::Create => &operations::CREATE,
            Self::PowerOn => &operations::POWER_ON,
            Self::Suspend => &operations::SUSPEND,
            Self::Resume => &operations::RESUME,
            Self::Save => &operations::SAVE,
            Self::Teleport => &operations::TELEPORT,
            Self::Load => &operations::LOAD,
            Self::PowerOff => &operations::POWER_OFF,
            Self::HardReset => &operations::HARD_RESET,
            Self::SoftReset => &operations::SOFT_RESET,
            Self::Destroy => &operations::DESTROY,
            Self::LiveSuspend => &operations::LIVE_SUSPEND,
            Self::LiveFinish => &operations::LIVE_FINISH,
        }
    }
}

impl Life {
    /// The steps of the operation under way.
    pub(crate) fn work(&self, vm: &Vm, work: Work, moves: &mut Moves) {
        if work.stage == Stage::Late {
            return;
        }
        let name = work.op.data().name;
        moves.add(Kind::Inner, (name, "goes well"), |m| self.succeed(m, work));
        let asks_devices = !matches!(work.op, Op::Create | Op::Destroy);
        if asks_devices && work.stage == Stage::Begun {
            moves.add(Kind::Chance, (name, "waits for a device"), |m| {
                let stage = Stage::Pending;
                m.vm.work = Some(Work { stage, ..work });
            });
        }
        self.failures(vm, work, moves);
    }

    /// How it may fail. A power off does not: it goes on whatever its devices say.
    fn failures(&self, vm: &Vm, work: Work, moves: &mut Moves) {
        let name = work.op.data().name;
        match work.op {
            Op::PowerOff => {}
            Op::Create => moves.add(Kind::Chance, (name, "fails"), |m| {
                m.ask(Ask::Then(State::Destroying));
                m.vm.work = Some(Work {
                    op: Op::Destroy,
                    ..work
                });
            }),
            Op::Destroy => moves.add(Kind::Chance, (name, "an EMT does not come"), |m| {
                let stage = Stage::Late;
                m.vm.work = Some(Work { stage, ..work });
            }),
            Op::Load => {
                let origin = vm.cell.origin.unwrap_or(State::Created);
                moves.add(
                    Kind::Chance,
                    (name, "fails before it touched memory"),
                    |m| {
                        m.vm.work = None;
                        m.vm.teleported = false;
                        m.ask(Ask::Commit(origin));
                    },
                );
                moves.add(Kind::Chance, (name, "fails in guest memory"), |m| {
                    m.vm.work = None;
                    m.vm.teleported = false;
                    void(&mut m.vm);
                    m.ask(Ask::Commit(State::LoadFailure));
                });
            }
            Op::PowerOn
            | Op::Suspend
            | Op::Resume
            | Op::Save
            | Op::Teleport
            | Op::HardReset
            | Op::SoftReset
            | Op::LiveSuspend
            | Op::LiveFinish => {
                moves.add(Kind::Chance, (name, "a device fails"), |m| {
                    self.fail(m, work);
                });
            }
        }
        if work.op == Op::Suspend && self.flaw == Flaw::ClockReadAfterDevices {
            moves.add(Kind::Chance, (name, "the clock cannot be read"), |m| {
                m.vm.devices = Devices::Quiet;
                self.fail(m, work);
            });
        }
    }

    /// It is given up; devices that were told already have been told the contrary.
    fn fail(&self, m: &mut Move, work: Work) {
        let from = m.vm.cell.origin;
        m.vm.work = None;
        if self.flaw == Flaw::DeviceFailureSwallowed && matches!(work.op, Op::PowerOn | Op::Resume)
        {
            m.vm.teleported = false;
            m.ask(Ask::Commit(State::Running));
            return;
        }
        let suspends = matches!(work.op, Op::Suspend | Op::LiveSuspend);
        if suspends && m.vm.cell.state.is_live_save() && self.flaw != Flaw::RefusedSuspendIsFatal {
            // The live save is over, and what remains is a suspend, which can be undone. The saver
            // is told, if the suspend is not its own.
            m.ask(Ask::Then(State::Suspending));
            m.vm.saver = Saver::CleansUp;
        }
        m.ask(Ask::Drop);
        if suspends && m.vm.cell.state.is_failed() && !m.vm.cell.fatal {
            m.wrong = Some("a guest dies because a device refused a suspend");
        }
        match work.op {
            Op::Teleport => self.unmark(&mut m.vm),
            Op::LiveSuspend => m.vm.saver = Saver::CleansUp,
            Op::LiveFinish => {
                m.vm.saver = Saver::Idle;
                self.unmark(&mut m.vm);
            }
            Op::HardReset | Op::SoftReset => void(&mut m.vm),
            Op::PowerOn
            | Op::Suspend
            | Op::Resume
            | Op::Save
            | Op::Create
            | Op::Load
            | Op::PowerOff
            | Op::Destroy => {}
        }
        let undone = Some(m.vm.cell.state) == from;
        let saved =
            matches!(work.op, Op::LiveFinish | Op::LiveSuspend) || m.vm.saver != Saver::Idle;
        let over = saved && matches!(m.vm.cell.state, State::Suspended | State::Running);
        if !undone && !over && !m.vm.cell.state.is_failed() {
            m.wrong = Some("an operation that failed took effect");
        }
    }

    /// A VM that stays here is not marked as teleported.
    pub(crate) fn unmark(&self, vm: &mut Vm) {
        if self.flaw != Flaw::TeleportMarkStays {
            vm.teleported = false;
        }
    }

    fn succeed(&self, m: &mut Move, work: Work) {
        let (Some(origin), via) = (m.vm.cell.origin, m.vm.cell.state) else {
            m.wrong = Some("an operation without a beginning");
            return;
        };
        m.vm.devices = match work.op {
            Op::PowerOn | Op::Resume => Devices::On,
            Op::Suspend | Op::LiveSuspend | Op::Load => Devices::Quiet,
            Op::HardReset if via == State::SuspendingLs => Devices::Quiet,
            Op::PowerOff => Devices::Off,
            Op::HardReset
            | Op::SoftReset
            | Op::Create
            | Op::Save
            | Op::Teleport
            | Op::LiveFinish
            | Op::Destroy => m.vm.devices,
        };
        let end = if self.flaw == Flaw::ResetReturnsToLiveSave && work.op == Op::HardReset {
            origin
        } else {
            end_of(work.op, origin, via)
        };
        if end.is_transient() {
            m.ask(Ask::Then(end));
            let stage = Stage::Begun;
            m.vm.work = Some(Work { stage, ..work });
            return;
        }
        m.vm.work = None;
        let committed = m.ask(Ask::Commit(end));
        let promised = work.op.data().leads_to(origin);
        if !committed || promised.is_some_and(|promised| promised != end) {
            m.wrong = Some("an operation ends where it does not say");
        }
        self.done(m, work, end);
    }

    /// What is different once it is done, by whatever name the state goes now.
    fn done(&self, m: &mut Move, work: Work, end: State) {
        let as_meant = m.vm.cell.state == end;
        match work.op {
            Op::HardReset | Op::SoftReset => self.reset_voids(&mut m.vm, work.by),
            Op::PowerOff => void(&mut m.vm),
            Op::Load => {
                void(&mut m.vm);
                m.vm.teleported = false;
            }
            Op::Resume => m.vm.teleported = false,
            Op::LiveSuspend => {
                m.vm.saver = if as_meant {
                    Saver::Finishes
                } else {
                    Saver::CleansUp
                };
            }
            Op::LiveFinish => m.vm.saver = Saver::Idle,
            Op::Create | Op::PowerOn | Op::Suspend | Op::Save | Op::Teleport | Op::Destroy => {}
        }
    }

    /// The machine that asked is gone; a vCPU that waits for its turn with a request is told.
    fn reset_voids(&self, vm: &mut Vm, by: By) {
        let before = vm.asks;
        void(vm);
        if self.flaw == Flaw::DeedOutlivesReset {
            for (v, asked) in before.into_iter().enumerate() {
                if matches!(asked, Asked::Acting(_)) && by != By::Guest(v) {
                    vm.asks[v] = asked;
                }
            }
        }
    }
}

/// Nothing is owed to any guest code any more: the machine that asked is gone.
fn void(vm: &mut Vm) {
    vm.asks = [Asked::Nothing; 2];
    vm.owed = [false; 2];
}

/// Where an operation that goes well goes next, as its data say.
fn end_of(op: Op, origin: State, via: State) -> State {
    let mut ends = op.data().finals.iter().filter(|(from, _)| *from == via);
    let end = ends.find(|&&(_, to)| table::may_end(origin, via, to));
    end.map_or(via, |&(_, to)| to)
}
