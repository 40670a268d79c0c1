// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary registers, descriptors, rings, input and lifecycle at a virtio console: nothing grows,
//! and after a reset it carries a buffer each way as if nothing had been. The input is a sequence of
//! 12-byte acts; the console, whose threads run, is the same for all inputs.

#![no_main]

use std::io::{PipeWriter, Write};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use vm_devices::{ConsoleSpec, GuestRam, VirtioConsole};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{Device, IoCtx, IoHandler, IrqChip, IrqLine, Level, ResetKind};

const RAM: u64 = 1 << 20;
/// Table, available and used ring of a queue, a page each; the next queue's follow.
const QUEUES: [u64; 2] = [0x1000, 0x4000];
const DATA: u64 = 0x8000;
const OUTPUT: usize = 512;
/// Bytes that are typed for one input, at most: fewer than [`Guest::works`] takes back, so that the
/// pipe, which outlives the input, never is full.
const TYPED: usize = 512;

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

struct Guest {
    device: Arc<VirtioConsole>,
    ram: GuestRam,
    typed: PipeWriter,
}

static GUEST: LazyLock<Guest> = LazyLock::new(|| {
    let size = usize::try_from(RAM).expect("1 MiB");
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)]).expect("1 MiB of guest memory");
    let (input, typed) = std::io::pipe().expect("a pipe");
    let spec = ConsoleSpec { output_bytes: OUTPUT, ..ConsoleSpec::new("console0", 0) };
    let irq = IrqLine::new(Arc::new(Nowhere), 5);
    let output = Box::new(std::io::sink());
    let device = VirtioConsole::new(spec, irq, ram.clone(), Some(Box::new(input)), output).expect("a console");
    device.power_on().expect("two threads");
    Guest { device, ram, typed }
});

impl Guest {
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

    /// One act: what, where, and eight bytes; `left` is how many may be typed.
    fn act(&self, act: &[u8; 12], left: &mut usize) {
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
                let count = usize::from(a % 8).min(*left);
                *left -= count;
                (&self.typed).write_all(&value[..count]).expect("the console reads");
            }
            8 => self.device.suspend().expect("never refuses"),
            9 => self.device.reset([ResetKind::Hard, ResetKind::Soft][usize::from(c % 2)]).expect("never refuses"),
            _ => self.set(0x50, u64::from(c % 3)),
        }
        if what % 11 != 8 {
            self.device.resume().expect("never refuses");
        }
        assert!(self.device.queued() <= OUTPUT);
    }

    /// A fresh start and a buffer each way, both of which are given back.
    fn works(&self) {
        self.device.resume().expect("never refuses");
        self.set(0x70, 0);
        for page in (QUEUES[0]..DATA).step_by(0x1000) {
            self.put(page, &[0; 0x1000]);
        }
        self.start();
        (&self.typed).write_all(b"x").expect("the console reads");
        for (queue, (base, flags)) in (0..).zip(QUEUES.into_iter().zip([2_u8, 0])) {
            self.put(base, &DATA.to_le_bytes());
            self.put(base + 8, &[0, 8, 0, 0, flags, 0, 0, 0]);
            self.put(base + 0x1002, &[1, 0]);
            self.set(0x50, queue);
        }
        let until = Instant::now() + Duration::from_secs(20);
        for base in QUEUES {
            while self.ram.read_obj::<u8>(GuestAddress(base + 0x2002)).is_ok_and(|index| index == 0) {
                assert!(Instant::now() < until, "the console answers");
                std::thread::yield_now();
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    GUEST.start();
    let mut left = TYPED;
    for act in data.as_chunks::<12>().0 {
        GUEST.act(act, &mut left);
    }
    GUEST.works();
});
