// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Power cycles and destruction leave no thread and no descriptor. One test in a process of its own,
//! because it counts the process's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_devices::{
    ConsoleSpec, DiskAccess, DiskImage, Ends, GuestRam, SerialInput, Virtio, VirtioConsole,
};
use vm_memory::GuestAddress;
use vm_pdm::{Device, IrqChip, IrqLine, Level};

struct Nowhere;

impl IrqChip for Nowhere {
    fn set(&self, _: u32, _: Level) {}
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn power_cycles_of_disks_and_consoles_leave_no_thread_and_no_descriptor() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let count = || (entries("/proc/self/task"), entries("/proc/self/fd"));
    let before = count();
    for _ in 0..50 {
        let image = DiskImage::open(file.path(), DiskAccess::ReadWrite).unwrap();
        let irq = IrqLine::new(Arc::new(Nowhere), 5);
        let disk = Virtio::disk("disk0", 0, irq.clone(), ram.clone(), image);
        let (input, _typed) = std::io::pipe().unwrap();
        let input: Box<dyn SerialInput> = Box::new(input);
        let spec = ConsoleSpec::new("console0", 0);
        let output = Box::new(std::io::sink());
        let ends = Ends::new("a pipe", Some(input), output);
        let console = VirtioConsole::new(spec, irq, ram.clone(), Some(ends)).unwrap();
        let devices: [Arc<dyn Device>; 2] = [disk, console];
        for device in devices {
            device.power_on().unwrap();
            device.power_off().unwrap();
            device.power_on().unwrap();
        }
    }
    // The kernel lets a joiner go on shortly before the thread leaves the process's list.
    let until = Instant::now() + Duration::from_secs(60);
    while count() != before && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(count(), before);
}
