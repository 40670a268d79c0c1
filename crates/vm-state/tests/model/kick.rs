// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU is to be got out of the guest: an older protocol with its lost kick, and the doorbell word.
//!
//! The older one is that of Cloud Hypervisor's issue 7427 as told there and in the pull requests 7428
//! and 7459: the vCPU thread looks at a flag and goes into `KVM_RUN`; the other thread sets the flag
//! and sends a signal whose handler does nothing. A signal between the look and `KVM_RUN` is gone.
//! Sending it again every 10 ms hides that.
//!
//! Ours is that of vm-emt with the kick of vm-cpu-kvm: one word says in which place the EMT is, the
//! step into the guest fails if somebody rang, and a kick stores `immediate_exit` before it signals.

use super::explore::{Kind, Label, Model, Step};

/// How a vCPU is got out of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// A flag and a signal with an empty handler.
    FlagAndSignal,
    /// The same, and the signal is sent again until somebody answers.
    FlagAndSignalAgain,
    /// The doorbell word, with a kick that only signals.
    WordAndSignal,
    /// The doorbell word, and an EMT that looks at its sources before it clears its bell.
    WordClearedAfterLook,
    /// The doorbell word, with a kick that stores `immediate_exit` and then signals.
    Word,
}

/// The thread of the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Emt {
    /// Awake: clears its bell, or looks at the flag.
    Looks,
    /// Looks at its sources.
    Attends,
    /// Has nothing to do: enters the guest or sleeps.
    Decides,
    /// Past the last check; the kick does not know the thread yet.
    Enters,
    /// The kick knows the thread; next is `KVM_RUN`.
    Window,
    /// In `KVM_RUN`.
    Guest,
    /// Back from it; takes `immediate_exit`.
    Back,
    /// Not known to the kick any more; the word still says in the guest.
    Leaves,
    /// Asleep on its word.
    Parked,
}

/// A thread that wants something from the vCPU's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ringer {
    Publishes,
    Rings,
    /// Stores `immediate_exit`.
    Stores,
    /// Looks whether the thread is in `KVM_RUN` or close to it.
    Aims,
    Signals,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one is a bit of the word, the other a byte of the run page"
)]
pub(crate) struct Kicked {
    emt: Emt,
    ringers: [Ringer; 2],
    /// Published and not served.
    wanted: u8,
    /// In the word.
    pending: bool,
    /// In the run page.
    immediate_exit: bool,
    /// Signals sent.
    pub(crate) signals: u8,
}

impl Emt {
    /// As the word says.
    fn in_guest(self) -> bool {
        matches!(
            self,
            Self::Enters | Self::Window | Self::Guest | Self::Back | Self::Leaves
        )
    }
}

impl Kicked {
    fn signal(&mut self) {
        self.signals = self.signals.saturating_add(1).min(3);
        // Outside `KVM_RUN` the handler runs and does nothing.
        if self.emt == Emt::Guest {
            self.emt = Emt::Back;
        }
    }
}

impl Protocol {
    fn has_word(self) -> bool {
        !matches!(self, Self::FlagAndSignal | Self::FlagAndSignalAgain)
    }

    fn emt(self, now: Kicked) -> Vec<(Kind, Label, Kicked)> {
        let inner = |what, emt, change: fn(&mut Kicked)| {
            let mut next = Kicked { emt, ..now };
            change(&mut next);
            (Kind::Inner, ("EMT", what), next)
        };
        let serve: fn(&mut Kicked) = |k| k.wanted = 0;
        let clear: fn(&mut Kicked) = |k| k.pending = false;
        let same: fn(&mut Kicked) = |_| {};
        match now.emt {
            Emt::Looks if self == Self::WordClearedAfterLook => {
                vec![inner("looks at its sources", Emt::Attends, serve)]
            }
            Emt::Attends if self == Self::WordClearedAfterLook => {
                vec![inner("clears its bell", Emt::Decides, clear)]
            }
            Emt::Looks if self.has_word() => vec![inner("clears its bell", Emt::Attends, clear)],
            Emt::Looks if now.wanted == 0 => {
                vec![inner("finds the flag clear", Emt::Window, same)]
            }
            Emt::Looks => vec![inner("answers", Emt::Looks, serve)],
            Emt::Attends => vec![inner("looks at its sources", Emt::Decides, serve)],
            Emt::Decides if now.pending => vec![inner("finds its bell rung", Emt::Looks, same)],
            Emt::Decides => vec![
                inner("says that it enters", Emt::Enters, same),
                inner("sleeps", Emt::Parked, same),
            ],
            Emt::Enters => vec![inner("is known to the kick", Emt::Window, same)],
            Emt::Window if now.immediate_exit => {
                vec![inner("is turned back by KVM_RUN", Emt::Back, same)]
            }
            Emt::Window => vec![inner("is in KVM_RUN", Emt::Guest, same)],
            Emt::Guest => {
                let back = Kicked {
                    emt: Emt::Back,
                    ..now
                };
                vec![(Kind::Chance, ("guest", "exits on its own"), back)]
            }
            Emt::Back => vec![inner("is back", Emt::Leaves, |k| k.immediate_exit = false)],
            Emt::Leaves => vec![inner("says that it has left", Emt::Looks, same)],
            Emt::Parked => Vec::new(),
        }
    }

    fn ringer(self, now: Kicked, r: usize) -> Vec<(Kind, Label, Kicked)> {
        let mut next = now;
        let what = match now.ringers[r] {
            Ringer::Publishes => {
                next.wanted += 1;
                next.ringers[r] = if self.has_word() {
                    Ringer::Rings
                } else {
                    Ringer::Signals
                };
                "publishes"
            }
            Ringer::Rings => {
                let first = !std::mem::replace(&mut next.pending, true);
                let inside = now.emt.in_guest();
                next.ringers[r] = match (first && inside, self) {
                    (false, _) => Ringer::Done,
                    (true, Self::WordAndSignal) => Ringer::Signals,
                    (true, _) => Ringer::Stores,
                };
                if first && now.emt == Emt::Parked {
                    next.emt = Emt::Looks;
                }
                "rings"
            }
            Ringer::Stores => {
                next.immediate_exit = true;
                next.ringers[r] = Ringer::Aims;
                "stores immediate_exit"
            }
            Ringer::Aims => {
                let known = matches!(now.emt, Emt::Window | Emt::Guest | Emt::Back);
                next.ringers[r] = if known { Ringer::Signals } else { Ringer::Done };
                "looks for the thread"
            }
            Ringer::Signals => {
                next.signal();
                next.ringers[r] = Ringer::Done;
                "signals"
            }
            Ringer::Done if self == Self::FlagAndSignalAgain && now.wanted > 0 => {
                next.signal();
                "signals again"
            }
            Ringer::Done => return Vec::new(),
        };
        if next == now {
            return Vec::new();
        }
        vec![(Kind::Inner, ("ringer", what), next)]
    }
}

impl Model for Protocol {
    type State = Kicked;

    fn initial(&self) -> Kicked {
        Kicked {
            emt: Emt::Looks,
            ringers: [Ringer::Publishes; 2],
            wanted: 0,
            pending: self.has_word(),
            immediate_exit: false,
            signals: 0,
        }
    }

    fn steps(&self, now: &Kicked) -> Vec<Step<Kicked>> {
        let mut all = self.emt(*now);
        for r in 0..2 {
            all.extend(self.ringer(*now, r));
        }
        let step = |(kind, label, to)| Step {
            label,
            kind,
            to,
            wrong: None,
        };
        all.into_iter().map(step).collect()
    }

    fn wrong(&self, _: &Kicked) -> Option<&'static str> {
        None
    }

    /// In the guest or asleep for ever, but only if nobody wants anything.
    fn rests(&self, now: &Kicked) -> bool {
        now.wanted == 0 && now.ringers == [Ringer::Done; 2]
    }

    fn ended(&self, now: &Kicked) -> bool {
        self.rests(now) && matches!(now.emt, Emt::Guest | Emt::Parked)
    }
}
