// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Power cycles, changes and destruction leave no thread and no descriptor. One test in a process of its own,
//! because it counts the process's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::pipe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_devices::{Ends, Serial, SerialSpec};
use vm_pdm::{Change, Device, IrqChip, IrqLine, Level};

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn power_cycles_and_other_ends_leave_no_thread_and_no_descriptor() {
    let count = || (entries("/proc/self/task"), entries("/proc/self/fd"));
    let before = count();
    for _ in 0..50 {
        let (reader, writer) = pipe().unwrap();
        let irq = IrqLine::new(Arc::new(Nowhere), 4);
        let output = Box::new(std::io::sink());
        let ends = Ends::new("a pipe", Some(Box::new(reader)), output);
        let serial = Serial::new(SerialSpec::default(), irq, Some(ends)).unwrap();
        serial.power_on().unwrap();
        serial.power_off().unwrap();
        serial.power_on().unwrap();
        let (other, typed) = pipe().unwrap();
        let ends = Ends::new("b", Some(Box::new(other)), Box::new(std::io::sink()));
        for change in [Change::Replace(ends), Change::Detach] {
            let begun = serial.ends().begin(change).unwrap();
            serial
                .ends()
                .settle(begun, Duration::from_secs(60))
                .unwrap();
        }
        drop(serial);
        drop((writer, typed));
    }
    // The kernel lets a joiner go on shortly before the thread leaves the process's list.
    let until = Instant::now() + Duration::from_secs(60);
    while count() != before && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(count(), before);
}
