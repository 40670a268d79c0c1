// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! All vCPUs are to be held while one of them is in a device whose lock others want.
//!
//! The older protocol is that of Cloud Hypervisor's pull request 8092 as told there and in pull
//! request 8210: the thread that suspends the VM waits for every vCPU's answer while it holds the lock
//! of the vCPUs' states; a vCPU that is in the CPU hot-plug device needs that lock to come to where it
//! answers. First the lock was held from the signals to the last answer; after 8092 (as 8210 tells)
//! still during each wait.
//!
//! Ours is the rendezvous: an initiator holds its turn and no lock; a device's lock is held inside
//! its handler only; and an EMT that waits for its own turn is held in somebody else's round
//! meanwhile. That last rule is taken out, too.

use super::explore::{Kind, Label, Model, Step};

const VCPUS: usize = 2;

/// What the one who gathers the vCPUs holds while it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gather {
    /// The device's lock, from the signals to the last answer.
    LockThroughout,
    /// The device's lock, during each wait.
    LockWhileWaiting,
    /// The turn; and an EMT that waits for the turn does nothing else.
    TurnWithoutServing,
    /// The turn; and an EMT that waits for the turn takes part in others' rounds.
    Turn,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Who {
    Owner,
    Plugger,
    Vcpu(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Pc {
    Guest,
    /// An access to the device waits for its lock.
    AtDevice,
    /// In the handler, with the lock.
    InDevice,
    /// The exit is finished; the EMT looks whether it is wanted.
    Looks,
    /// Held in a round, or: has answered.
    Held,
    /// Asked for a reset, and waits for its turn to gather the others.
    WantsTurn,
    /// Its own round is on.
    Leads,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Owner {
    Idle,
    Wants,
    /// Waits for the answers from this vCPU on; the lock is taken before each if need be.
    Waits(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Held {
    lock: Option<Who>,
    /// Whose round is on, or who has raised the flag.
    round: Option<Who>,
    owner: Owner,
    /// How often the owner still gathers.
    left: u8,
    vcpus: [Pc; VCPUS],
    /// Its guest asked for a reset that has not been carried out.
    asked: [bool; VCPUS],
}

type Next = (Kind, Label, Held);

impl Gather {
    fn takes_turns(self) -> bool {
        matches!(self, Self::Turn | Self::TurnWithoutServing)
    }

    fn owner(self, now: Held) -> Vec<Next> {
        let inner = |what, next: Held| vec![(Kind::Inner, ("owner", what), next)];
        let mut next = now;
        match now.owner {
            Owner::Idle if now.left > 0 => {
                next.left -= 1;
                next.owner = Owner::Wants;
                vec![(Kind::Call, ("owner", "suspends"), next)]
            }
            Owner::Idle => Vec::new(),
            Owner::Wants => {
                if self.takes_turns() && now.round.is_some()
                    || self == Self::LockThroughout && now.lock.is_some()
                {
                    return Vec::new();
                }
                if self == Self::LockThroughout {
                    next.lock = Some(Who::Owner);
                }
                next.round = Some(Who::Owner);
                next.owner = Owner::Waits(0);
                inner("tells every vCPU", next)
            }
            Owner::Waits(from) if self == Self::LockWhileWaiting && from < VCPUS => {
                match (now.lock, now.vcpus[from]) {
                    (None, _) => {
                        next.lock = Some(Who::Owner);
                        inner("takes the lock to wait for an answer", next)
                    }
                    (Some(Who::Owner), Pc::Held) => {
                        next.lock = None;
                        next.owner = Owner::Waits(from + 1);
                        inner("has the answer", next)
                    }
                    (Some(_), _) => Vec::new(),
                }
            }
            Owner::Waits(_) if now.vcpus == [Pc::Held; VCPUS] => {
                if self == Self::LockThroughout {
                    next.lock = None;
                }
                next.owner = Owner::Idle;
                next.let_go();
                inner("has them all, and lets them go", next)
            }
            Owner::Waits(_) => Vec::new(),
        }
    }

    fn vcpu(self, now: Held, v: usize) -> Vec<Next> {
        let to = |pc| {
            let mut next = now;
            next.vcpus[v] = pc;
            next
        };
        let inner = |what, next: Held| (Kind::Inner, ("vCPU", what), next);
        let wanted = now.round.is_some();
        match now.vcpus[v] {
            Pc::Guest => {
                let access = (
                    Kind::Chance,
                    ("guest", "accesses the device"),
                    to(Pc::AtDevice),
                );
                let kick = inner("is kicked", to(Pc::Looks));
                if wanted {
                    vec![access, kick]
                } else {
                    vec![access]
                }
            }
            Pc::AtDevice if now.lock.is_none() => {
                let mut next = to(Pc::InDevice);
                next.lock = Some(Who::Vcpu(v));
                vec![inner("takes the device's lock", next)]
            }
            Pc::InDevice => {
                let mut next = to(Pc::Looks);
                next.lock = None;
                let mut all = vec![inner("leaves the device", next)];
                if self.takes_turns() {
                    next.vcpus[v] = Pc::WantsTurn;
                    next.asked[v] = true;
                    all.push((
                        Kind::Chance,
                        ("guest", "asked the device for a reset"),
                        next,
                    ));
                }
                all
            }
            Pc::Looks if wanted => vec![inner("answers, and is held", to(Pc::Held))],
            Pc::Looks => vec![inner("enters the guest", to(Pc::Guest))],
            Pc::WantsTurn if !wanted => {
                let mut next = to(Pc::Leads);
                next.round = Some(Who::Vcpu(v));
                vec![inner("has its turn, and tells every vCPU", next)]
            }
            // Held where it waits; it wants its turn still when it is let go.
            Pc::WantsTurn if self == Self::Turn => vec![inner("is held meanwhile", to(Pc::Held))],
            Pc::Leads if now.others_held(v) => {
                let mut next = to(Pc::Held);
                next.asked[v] = false;
                next.let_go();
                vec![inner("has them all, and lets them go", next)]
            }
            Pc::AtDevice | Pc::Held | Pc::WantsTurn | Pc::Leads => Vec::new(),
        }
    }

    /// Somebody who plugs a vCPU takes the device's lock for a moment and waits for nothing there.
    fn plugger(now: Held) -> Option<Next> {
        let mut next = now;
        match now.lock {
            None => {
                next.lock = Some(Who::Plugger);
                Some((Kind::Call, ("plugger", "takes the lock"), next))
            }
            Some(Who::Plugger) => {
                next.lock = None;
                Some((Kind::Inner, ("plugger", "gives it back"), next))
            }
            Some(Who::Owner | Who::Vcpu(_)) => None,
        }
    }
}

impl Held {
    fn others_held(&self, v: usize) -> bool {
        (0..VCPUS).all(|other| other == v || self.vcpus[other] == Pc::Held)
    }

    fn let_go(&mut self) {
        self.round = None;
        self.vcpus = self
            .asked
            .map(|asked| if asked { Pc::WantsTurn } else { Pc::Looks });
    }
}

impl Model for Gather {
    type State = Held;

    fn initial(&self) -> Held {
        Held {
            lock: None,
            round: None,
            owner: Owner::Idle,
            left: 2,
            vcpus: [Pc::Guest; VCPUS],
            asked: [false; VCPUS],
        }
    }

    fn steps(&self, now: &Held) -> Vec<Step<Held>> {
        let mut all = self.owner(*now);
        for v in 0..VCPUS {
            all.extend(self.vcpu(*now, v));
        }
        all.extend(Self::plugger(*now));
        let step = |(kind, label, to)| Step {
            label,
            kind,
            to,
            wrong: None,
        };
        all.into_iter().map(step).collect()
    }

    fn wrong(&self, now: &Held) -> Option<&'static str> {
        let leads = |pc: &&Pc| **pc == Pc::Leads;
        let leaders = now.vcpus.iter().filter(leads).count()
            + usize::from(self.takes_turns() && matches!(now.owner, Owner::Waits(_)));
        let runs = |v: usize| now.asked[v] && now.vcpus[v] == Pc::Guest;
        if (0..VCPUS).any(runs) {
            return Some("a vCPU goes on although its guest asked for a reset");
        }
        (leaders > 1).then_some("two rounds are on at once")
    }

    fn rests(&self, now: &Held) -> bool {
        now.owner == Owner::Idle && now.vcpus == [Pc::Guest; VCPUS]
    }

    fn ended(&self, now: &Held) -> bool {
        now.left == 0 && self.rests(now) && now.lock.is_none()
    }
}
