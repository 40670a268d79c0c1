// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary registers, descriptors, rings, input and lifecycle at a virtio console: nothing grows,
//! and after a reset it carries a buffer each way as if nothing had been. The input is a sequence of
//! 12-byte acts. What the console's threads do is done on this one, where the input says, so that an
//! input does the same whenever it is tried.

#![no_main]

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use vm_devices::{ConsoleSpec, Ends, GuestRam, VirtioConsole};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{Device, IoCtx, IoHandler, IrqChip, IrqLine, Level, ResetKind};
use vmm_fuzz::Memory;

const RAM: u64 = 1 << 20;
/// Table, available and used ring of a queue, a page each; the next queue's follow.
const QUEUES: [u64; 2] = [0x1000, 0x4000];
const DATA: u64 = 0x8000;
const OUTPUT: usize = 256;
/// Bytes that were typed and not read yet, at most: what does not fit the console's backlog at once.
const TYPED: usize = 2048;

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(RAM));

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

struct Guest {
    device: Arc<VirtioConsole>,
    ram: GuestRam,
    typed: VecDeque<u8>,
}

impl Guest {
    fn new() -> Self {
        let ram = MEMORY.fresh();
        let spec = ConsoleSpec { output_bytes: OUTPUT, ..ConsoleSpec::new("console0", 0) };
        let irq = IrqLine::new(Arc::new(Nowhere), 5);
        let ends = Ends::new("a sink", None, Box::new(std::io::sink()));
        let device = VirtioConsole::new(spec, irq, ram.clone(), Some(ends)).expect("a console");
        Self { device, ram, typed: VecDeque::new() }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        // What does not fit is cut off.
        let _ = self.ram.write(bytes, GuestAddress(at));
    }

    fn set(&self, offset: u64, value: u64) {
        self.device.write(&mut IoCtx::new(), offset, 4, value);
    }

    fn start(&self) {
        let features = 1 << 28 | 1 << 29;
        for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 0), (0x20, features), (0x24, 1), (0x20, 1), (0x70, 11)] {
            self.set(offset, value);
        }
        for (queue, base) in (0..).zip(QUEUES) {
            for (offset, value) in [
                (0x30, queue), (0x38, 16), (0x80, base), (0x84, 0), (0x90, base + 0x1000), (0x94, 0),
                (0xa0, base + 0x2000), (0xa4, 0), (0x44, 1),
            ] {
                self.set(offset, value);
            }
        }
        self.set(0x70, 15);
    }

    /// One act: what, where, and eight bytes; what is done by the threads then.
    fn act(&mut self, act: &[u8; 12]) {
        let [what, a, b, c, value @ ..] = *act;
        let place = u64::from(u16::from_le_bytes([a, b]));
        let queue = QUEUES[usize::from(c % 2)];
        match what % 11 {
            0 => {
                let size = [1, 2, 4, 8][usize::from(c % 4)];
                self.device.write(&mut IoCtx::new(), place & 0xfff, size, u64::from_le_bytes(value));
            }
            1 => self.set(place & 0xfc, u64::from_le_bytes(value) & 0xffff_ffff),
            // The address of a descriptor, then its length, flags and next.
            2 => self.put(queue + place % 16 * 16, &value),
            3 => self.put(queue + place % 16 * 16 + 8, &value),
            4 => self.put(queue + u64::from(c % 3) * 0x1000 + place % 0x1000, &value),
            5 => self.put(queue + 0x1002, &[a % 32, 0]),
            6 => self.start(),
            7 => {
                // Now and then more than the backlog holds.
                let count = if a == 0xff { TYPED } else { usize::from(a % 9) };
                let room = count.min(TYPED - self.typed.len());
                self.typed.extend(value.iter().cycle().take(room));
            }
            8 => self.device.suspend().expect("never refuses"),
            9 => self.device.reset([ResetKind::Hard, ResetKind::Soft][usize::from(c % 2)]).expect("never refuses"),
            _ => self.set(0x50, u64::from(c % 3)),
        }
        if what % 11 != 8 {
            self.device.resume().expect("never refuses");
        }
        let turn = what / 11;
        if turn & 1 == 0 {
            self.read_input();
        }
        if turn & 2 == 0 {
            self.device.step_output([OUTPUT, 1, 100, 0][usize::from(turn / 4 % 4)]);
        }
        assert!(self.device.queued() <= OUTPUT);
    }

    /// What the thread that reads would do.
    fn read_input(&mut self) {
        let taken = self.device.step_input(self.typed.make_contiguous());
        assert!(taken <= self.typed.len());
        self.typed.drain(..taken);
    }

    /// A fresh start and a buffer each way, both of which are given back.
    fn works(&mut self) {
        self.device.resume().expect("never refuses");
        self.set(0x70, 0);
        while !self.device.step_output(OUTPUT).is_empty() {}
        for page in (QUEUES[0]..DATA).step_by(0x1000) {
            self.put(page, &[0; 0x1000]);
        }
        self.start();
        self.typed.push_back(b'x');
        self.read_input();
        for (queue, (base, flags)) in (0..).zip(QUEUES.into_iter().zip([2_u8, 0])) {
            self.put(base, &DATA.to_le_bytes());
            self.put(base + 8, &[0, 8, 0, 0, flags, 0, 0, 0]);
            self.put(base + 0x1002, &[1, 0]);
            self.set(0x50, queue);
        }
        while !self.device.step_output(OUTPUT).is_empty() {}
        for base in QUEUES {
            let used = self.ram.read_obj::<u8>(GuestAddress(base + 0x2002)).ok();
            assert_eq!(used, Some(1), "the console answers");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut guest = Guest::new();
    guest.start();
    for act in data.as_chunks::<12>().0 {
        guest.act(act);
    }
    guest.works();
});
