// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who drives a live save, step by step.
//!
//! The save or teleport has moved RUNNING to RUNNING_LS. The driver (a) opens the stream, (b) sends
//! memory while the guest runs, (c) suspends the VM or finds it suspended, (d) writes the rest.
//! Whatever fails in (a) to (c) ends in the clean-up, which leaves the live-save state however it
//! is called by then. Steps (c) and (d) wait while another operation is under way, the clean-up while
//! that operation knows of the live save.
//!
//! A suspend that a device refuses ends the live save: by way of SUSPENDING it is undone as any other,
//! and a driver whose own suspend it was not is told. No other save begins before it has cleaned up.

use super::cell::Ask;
use super::explore::Kind;
use super::vm::{Flaw, Life, Move, Moves, Vm};
use super::work::{By, Op};
use vm_state::{State, operations};

/// How far the live save is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Saver {
    Idle,
    /// (a)
    Opens,
    /// (b)
    Sends,
    /// (c)
    Suspends,
    /// (d)
    Finishes,
    CleansUp,
}

impl Life {
    /// The steps of the driver.
    pub(crate) fn saver(&self, vm: &Vm, moves: &mut Moves) {
        let waits = vm.work.is_some();
        match vm.saver {
            Saver::Opens => {
                moves.add(Kind::Inner, ("saver", "the stream is open"), |m| {
                    m.vm.saver = Saver::Sends;
                });
                moves.add(
                    Kind::Chance,
                    ("saver", "the stream cannot be opened"),
                    |m| {
                        m.vm.saver = if self.flaw == Flaw::OpenFailureLeavesLiveSave {
                            Saver::Idle
                        } else {
                            Saver::CleansUp
                        };
                    },
                );
            }
            Saver::Sends => {
                moves.add(Kind::Inner, ("saver", "memory is sent"), |m| {
                    m.vm.saver = Saver::Suspends;
                });
                moves.add(Kind::Chance, ("saver", "fails or is cancelled"), |m| {
                    m.vm.saver = Saver::CleansUp;
                });
            }
            Saver::Suspends if !waits => {
                moves.add(Kind::Inner, ("saver", "suspends"), |m| self.live_suspend(m));
            }
            Saver::Finishes if !waits => {
                moves.add(Kind::Inner, ("saver", "begins the last step"), |m| {
                    if !m.begin(Op::LiveFinish, By::Saver) {
                        m.vm.saver = Saver::CleansUp;
                    }
                });
            }
            // What is under way may be somebody else's, after the live save is over.
            Saver::CleansUp if !(waits && vm.cell.state.is_live_save()) => {
                moves.add(Kind::Inner, ("saver", "cleans up"), |m| self.clean_up(m));
            }
            Saver::Idle | Saver::Suspends | Saver::Finishes | Saver::CleansUp => {}
        }
    }

    /// Step (c): suspends the VM, or takes it as somebody else has suspended it, or learns how it
    /// ended.
    fn live_suspend(&self, m: &mut Move) {
        if m.begin(Op::LiveSuspend, By::Saver) {
            return;
        }
        if m.ask(Ask::Shift(operations::LIVE_SUSPEND.shifts)) {
            m.vm.saver = Saver::Idle;
            self.unmark(&mut m.vm);
            return;
        }
        let suspended = matches!(m.vm.cell.state, State::SuspendedLs | State::SuspendedExtLs);
        m.vm.saver = if self.flaw == Flaw::LiveSuspendDemandsItsOwn {
            Saver::Idle
        } else if suspended {
            Saver::Finishes
        } else {
            Saver::CleansUp
        };
    }

    fn clean_up(&self, m: &mut Move) {
        // Refused only if the state is none of a live save, and then there is nothing to leave.
        m.ask(Ask::Shift(operations::LIVE_END.shifts));
        m.vm.saver = Saver::Idle;
        self.unmark(&mut m.vm);
    }
}
