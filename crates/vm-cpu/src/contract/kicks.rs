// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Promises about kicks.

use std::sync::Barrier;

use super::guest::{Guest, out};
use super::{Fixture, Op};
use crate::{Exit, IrqMode};

const FIRST: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 1,
};
const SECOND: Op = Op::Out {
    port: 0x20,
    size: 1,
    value: 2,
};

pub(super) fn before_entry(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[FIRST, SECOND, Op::Spin]);
    let before = guest.state();
    guest.kick.kick();
    guest.kick.kick();
    assert_eq!(guest.go(), Exit::Kicked);
    guest.assert_state(&before);
    assert_eq!(guest.exits(2, 0), [out(0x20, 1, 1), out(0x20, 1, 2)]);
}

pub(super) fn during_entry(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[FIRST, Op::Spin]);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    for _ in 0..20 {
        kick_while_entering(&mut guest);
    }
}

/// Kicks from another thread about when this one enters.
fn kick_while_entering(guest: &mut Guest) {
    let kick = std::sync::Arc::clone(&guest.kick);
    let start = Barrier::new(2);
    let exit = std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            for _ in 0..10 {
                std::thread::yield_now();
            }
            kick.kick();
        });
        start.wait();
        guest.go()
    });
    assert_eq!(exit, Exit::Kicked);
}

pub(super) fn between(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[FIRST, SECOND, Op::Spin]);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    guest.kick.kick();
    assert_eq!(guest.go(), Exit::Kicked);
    assert_eq!(guest.go(), out(0x20, 1, 2));
}

pub(super) fn survives_settling(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::None, &[FIRST, SECOND, Op::Spin]);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    guest.kick.kick();
    guest.settle();
    assert_eq!(guest.go(), Exit::Kicked);
    assert_eq!(guest.go(), out(0x20, 1, 2));
}

pub(super) fn during_halt(fixture: &dyn Fixture) {
    let mut guest = Guest::new(fixture, IrqMode::Split, &[FIRST, Op::Halt]);
    assert_eq!(guest.go(), out(0x20, 1, 1));
    for _ in 0..20 {
        kick_while_entering(&mut guest);
    }
}
