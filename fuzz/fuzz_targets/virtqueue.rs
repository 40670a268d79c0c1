// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary registers, descriptors and rings at a disk and at an entropy device: after a reset both
//! answer as if nothing had been. The input is a sequence of 12-byte acts. What their threads do is
//! done on this one, where the input says, so that an input does the same whenever it is tried.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use vm_devices::{GuestRam, Virtio};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{Device, IoCtx, IoHandler, IrqChip, IrqLine, Level, ResetKind};
use vmm_fuzz::{Image, Memory};

const RAM: u64 = 1 << 20;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
/// More than the ring has entries, so that all is served.
const ALL: usize = 100_000;

static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(RAM));
static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::new(4096));

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

struct Guest {
    device: Arc<Virtio>,
    ram: GuestRam,
}

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
        for (offset, value) in [
            (0x70, 0), (0x70, 3), (0x24, 0), (0x20, features), (0x24, 1), (0x20, 1), (0x70, 11),
            (0x30, 0), (0x38, 16), (0x80, TABLE), (0x84, 0), (0x90, AVAILABLE), (0x94, 0),
            (0xa0, USED), (0xa4, 0), (0x44, 1), (0x70, 15),
        ] {
            self.set(offset, value);
        }
    }

    /// One act: what, where, and eight bytes; what is done by the thread then.
    fn act(&self, act: &[u8; 12]) {
        let [what, a, b, c, value @ ..] = *act;
        let place = u64::from(u16::from_le_bytes([a, b]));
        let wide = u64::from_le_bytes(value);
        match what % 8 {
            0 => self.device.write(&mut IoCtx::new(), place & 0xfff, [1, 2, 4, 8][usize::from(c % 4)], wide),
            1 => self.set(place & 0xfc, wide & 0xffff_ffff),
            // The address of a descriptor, then its length, flags and next.
            2 => self.put(TABLE + place % 16 * 16, &value),
            3 => self.put(TABLE + place % 16 * 16 + 8, &value),
            4 => self.put([TABLE, AVAILABLE, USED, HEADER][usize::from(c % 4)] + place % 0x1000, &value),
            5 => self.put(AVAILABLE + 2, &[a % 32, 0]),
            6 if c % 2 == 0 => self.start(),
            6 => self.ask(a, value),
            _ => match c % 8 {
                4 => self.device.suspend().expect("never refuses"),
                5 => self.device.resume().expect("never refuses"),
                6 => self.device.reset(ResetKind::Hard).expect("never refuses"),
                7 => drop(self.device.read(&mut IoCtx::new(), place & 0xfff, 4)),
                _ => self.set(0x50, u64::from(c % 2)),
            },
        }
        self.serve([ALL, 1, 0, ALL][usize::from(what / 8 % 4)]);
    }

    /// A request as a driver makes one: of a kind, with a header, data and a place for the answer.
    fn ask(&self, kind: u8, value: [u8; 8]) {
        let [sector, low, high, flags, range @ ..] = value;
        // Read, write, flush, identity, discard, zeroes; others.
        let kind = [0, 1, 4, 8, 11, 13, kind, 1][usize::from(kind % 8)];
        self.put(HEADER, &[kind, 0, 0, 0, 0, 0, 0, 0, sector, 0, 0, 0, 0, 0, 0, 0]);
        let [first, sectors, how, end] = range;
        self.put(HEADER + 0x100, &[first, 0, 0, 0, 0, 0, 0, 0, sectors, 0, 0, 0, how, 0, 0, end]);
        let device_writes = 2;
        for (n, at, bytes, flags) in [
            (0, HEADER, [16, 0], 1),
            (1, HEADER + 0x100, [low, high], 1 | flags & device_writes),
            (2, HEADER + 0xf00, [1, 0], device_writes),
        ] {
            let [low, high] = bytes;
            self.put(TABLE + 16 * n, &at.to_le_bytes());
            self.put(TABLE + 16 * n + 8, &[low, high, 0, 0, flags, 0, n.to_le_bytes()[0] + 1, 0]);
        }
        let index = self.ram.read_obj::<u16>(GuestAddress(AVAILABLE + 2)).unwrap_or(0);
        self.put(AVAILABLE + 4 + u64::from(index % 16) * 2, &[0, 0]);
        self.put(AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
        self.set(0x50, 0);
    }

    /// What the thread would do.
    fn serve(&self, most: usize) {
        let served = (0..most).take_while(|_| self.device.step()).count();
        assert!(served < ALL, "there is no end of requests");
    }

    /// A fresh start and one request, which is given back.
    fn works(&self) {
        self.device.resume().expect("never refuses");
        self.set(0x70, 0);
        for page in [TABLE, AVAILABLE, USED, HEADER] {
            self.put(page, &[0; 0x1000]);
        }
        self.start();
        let is_disk = self.device.name() == "disk0";
        let (head, flags) = if is_disk { (16_u32, 1_u16) } else { (16, 2) };
        for (n, (at, bytes, flags)) in [(HEADER, head, flags), (HEADER + 0x100, 513, 2)].iter().enumerate() {
            let slot = TABLE + 16 * n as u64;
            self.put(slot, &at.to_le_bytes());
            self.put(slot + 8, &bytes.to_le_bytes());
            self.put(slot + 12, &flags.to_le_bytes());
            self.put(slot + 14, &1_u16.to_le_bytes());
        }
        self.put(AVAILABLE + 2, &[1, 0]);
        self.set(0x50, 0);
        self.serve(ALL);
        assert_eq!(self.ram.read_obj::<u8>(GuestAddress(USED + 2)).ok(), Some(1), "the device answers");
    }
}

fuzz_target!(|data: &[u8]| {
    for is_disk in [true, false] {
        let (ram, irq) = (MEMORY.fresh(), IrqLine::new(Arc::new(Nowhere), 5));
        let device = if is_disk {
            Virtio::disk("disk0", 0, irq, ram.clone(), IMAGE.fresh())
        } else {
            Virtio::entropy("rng0", 0, irq, ram.clone())
        };
        let guest = Guest { device, ram };
        guest.start();
        for act in data.as_chunks::<12>().0 {
            guest.act(act);
        }
        guest.works();
    }
});
