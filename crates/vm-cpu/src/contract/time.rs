// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Promises about time that is held.
//!
//! An engine that cannot hold the TSC ([`Held::ClockOnly`]) promises the rest.

use std::time::{Duration, Instant};

use super::guest::{Guest, out};
use super::{Fixture, Op};
use crate::{Held, IrqMode};

const BOTH_MODES: [IrqMode; 2] = [IrqMode::None, IrqMode::Split];
/// How long time is held: much longer than what happens while it goes.
const HOLD: Duration = Duration::from_millis(30);
/// The frequency of a TSC that counts what is executed, and what that may be in a case.
const COUNTS_KHZ: u64 = 1;
const EXECUTED: u64 = 1000;
const OUT: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 1,
};

/// Two vCPUs, the first at the start of a program that writes to a port again and again.
struct Pair {
    first: Guest,
    second: Guest,
}

impl Pair {
    fn new(fixture: &dyn Fixture, irq: IrqMode) -> Self {
        let program = [OUT, OUT, OUT, Op::Spin];
        let machine = fixture.machine(irq, 2, &program).expect("a machine");
        let mut first = Guest::of(machine.clone(), 0);
        let second = Guest::of(machine, 1);
        fixture
            .start(irq, &mut *first.vcpu)
            .expect("the fixture starts the program");
        let mut pair = Self { first, second };
        pair.run();
        pair
    }

    /// Lets the first vCPU run for a bit.
    fn run(&mut self) {
        assert_eq!(self.first.go(), out(0x20, 1, 1));
        self.first.settle();
    }

    fn hold(&self) -> Held {
        self.first.machine.hold_time().expect("time can be held")
    }

    fn let_go(&self) {
        let went = self.first.machine.let_time_go();
        went.expect("time can go on");
    }

    fn clock(&self) -> u64 {
        let clock = self.first.machine.clock_ns();
        clock.expect("the clock can be read")
    }

    fn tscs(&mut self) -> [u64; 2] {
        [&mut self.first, &mut self.second].map(|guest| guest.state().tsc.value)
    }

    fn khz(&mut self) -> u64 {
        self.first.state().tsc.khz.into()
    }

    /// Asks again and again until the hold was long; nothing may move.
    fn wait(&mut self, held: Held) {
        let (clock, tscs) = (self.clock(), self.tscs());
        let begun = Instant::now();
        while begun.elapsed() < HOLD {
            assert_eq!(self.clock(), clock, "the clock moves while time is held");
            if held == Held::Everything {
                assert_eq!(self.tscs(), tscs, "a TSC moves while time is held");
            }
        }
    }
}

/// The most that a clock of `khz` may have counted since `begun`: how fast it is, is known to some
/// parts in a thousand.
fn ticks_since(begun: Instant, khz: u64) -> u64 {
    let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let ticks = u128::from(ns) * u128::from(khz) / 1_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    let inexact = ticks.saturating_add(ticks / 100);
    inexact.saturating_add(executed(khz))
}

fn executed(khz: u64) -> u64 {
    if khz == COUNTS_KHZ { EXECUTED } else { 0 }
}

const NS_KHZ: u64 = 1_000_000;

pub(super) fn held(fixture: &dyn Fixture) {
    for irq in BOTH_MODES {
        let mut pair = Pair::new(fixture, irq);
        let held = pair.hold();
        pair.wait(held);
        let before = (pair.clock(), pair.tscs());
        assert_eq!(pair.hold(), held, "held is held");
        assert_eq!(pair.clock(), before.0, "to hold again changes nothing");
        if held == Held::Everything {
            assert_eq!(pair.tscs(), before.1, "to hold again changes nothing");
        }
    }
}

pub(super) fn goes_on(fixture: &dyn Fixture) {
    for irq in BOTH_MODES {
        let mut pair = Pair::new(fixture, irq);
        let khz = pair.khz();
        // Held more than once, and let go more often than held.
        for _ in 0..2 {
            let held = pair.hold();
            pair.wait(held);
            let (clock, tscs) = (pair.clock(), pair.tscs());
            let begun = Instant::now();
            pair.let_go();
            pair.run();
            pair.let_go();
            let (clock_on, tscs_on) = (pair.clock(), pair.tscs());
            let passed = clock_on.checked_sub(clock).expect("never back");
            assert!(passed <= ticks_since(begun, NS_KHZ), "{passed} ns passed");
            if held == Held::ClockOnly {
                continue;
            }
            for (before, after) in tscs.into_iter().zip(tscs_on) {
                let passed = after.checked_sub(before).expect("never back");
                let most = ticks_since(begun, khz);
                assert!(passed <= most, "{passed} ticks passed, {most} at most");
            }
        }
    }
}

pub(super) fn differences(fixture: &dyn Fixture) {
    for irq in BOTH_MODES {
        let mut pair = Pair::new(fixture, irq);
        // An hour ahead: nobody can take that for the same count.
        let mut ahead = pair.second.state();
        ahead.tsc.value += u64::from(ahead.tsc.khz) * 3_600_000;
        pair.second.set_state(&ahead);
        let difference = |pair: &mut Pair| {
            let [first, second] = pair.tscs();
            second.wrapping_sub(first)
        };
        if pair.hold() == Held::ClockOnly {
            return;
        }
        let before = difference(&mut pair);
        let close = executed(pair.khz());
        for runs in [1, 0, 1] {
            pair.wait(Held::Everything);
            pair.let_go();
            for _ in 0..runs {
                // The other one lags behind in what it knows of the hold.
                pair.run();
            }
            pair.hold();
            let after = difference(&mut pair);
            assert!(before.abs_diff(after) <= close, "{before}, then {after}");
        }
    }
}

pub(super) fn set_while_held(fixture: &dyn Fixture) {
    const HOUR_NS: u64 = 3_600_000_000_000;
    for irq in BOTH_MODES {
        let mut pair = Pair::new(fixture, irq);
        let held = pair.hold();
        let machine = pair.first.machine.clone();
        machine.set_clock_ns(HOUR_NS).expect("the clock can be set");
        assert_eq!(pair.clock(), HOUR_NS);
        let mut state = pair.first.state();
        state.tsc.value = 1 << 40;
        pair.first.set_state(&state);
        pair.wait(held);
        if held == Held::Everything {
            assert_eq!(pair.first.state(), state, "what is set is what is read");
        }
        let begun = Instant::now();
        pair.let_go();
        pair.run();
        let (clock, [tsc, _]) = (pair.clock(), pair.tscs());
        let passed = clock.checked_sub(HOUR_NS).expect("never back");
        assert!(passed <= ticks_since(begun, NS_KHZ), "{passed} ns passed");
        if held == Held::Everything {
            let passed = tsc.checked_sub(1 << 40).expect("never back");
            let most = ticks_since(begun, u64::from(state.tsc.khz));
            assert!(passed <= most, "{passed} ticks passed, {most} at most");
        }
    }
}
