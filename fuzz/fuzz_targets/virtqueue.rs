// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arbitrary registers, descriptors and rings at a disk and at an entropy device: after a reset both
//! answer as if nothing had been. The input is a sequence of 12-byte acts.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use vm_devices::{DiskAccess, DiskImage, GuestRam, Virtio};
use vm_memory::{Bytes, GuestAddress};
use vm_pdm::{Device, IoCtx, IoHandler, IrqChip, IrqLine, Level};

const RAM: u64 = 1 << 20;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;

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

    /// One act: what, where, and eight bytes.
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
            6 => self.start(),
            _ => self.set(0x50, u64::from(c % 2)),
        }
    }

    /// A fresh start and one request, which is given back.
    fn works(&self) {
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
        let until = Instant::now() + Duration::from_secs(20);
        while self.ram.read_obj::<u8>(GuestAddress(USED + 2)).is_ok_and(|index| index == 0) {
            assert!(Instant::now() < until, "the device answers");
            std::thread::yield_now();
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let size = usize::try_from(RAM).expect("1 MiB");
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)]).expect("1 MiB of guest memory");
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    file.as_file().set_len(4096).expect("4 KiB");
    let image = DiskImage::open(file.path(), DiskAccess::ReadWrite).expect("an image");
    let irq = IrqLine::new(Arc::new(Nowhere), 5);
    for device in [
        Virtio::disk("disk0", 0, irq.clone(), ram.clone(), image),
        Virtio::entropy("rng0", 0, irq, ram.clone()),
    ] {
        device.power_on().expect("a thread");
        let guest = Guest { device, ram: ram.clone() };
        guest.start();
        for act in data.as_chunks::<12>().0 {
            guest.act(act);
        }
        guest.works();
    }
});
