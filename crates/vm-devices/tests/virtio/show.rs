// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device counts, and its page.

use vm_devices::DiskAccess;
use vm_pdm::Device;

use crate::driver::{Driver, WRITE};

const IN: u32 = 0;

#[test]
fn requests_bells_and_interrupts_are_counted() {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    disk.start(0);
    for _ in 0..3 {
        assert_eq!(disk.ask(IN, 0, 512, WRITE), 0);
    }
    assert_eq!((disk.count("bells"), disk.count("completed")), (3, 3));
    assert!(disk.count("interrupts") > 0);
    assert_eq!((disk.count("broken"), disk.count("refused")), (0, 0));
    disk.submit(&[(0, 16, 1, 99)]);
    disk.needs_reset();
    assert_eq!(disk.count("broken"), 1);
}

#[test]
fn the_page_shows_status_queues_and_thread() {
    let mut disk = Driver::disk(8, DiskAccess::ReadWrite);
    let page = disk.page();
    assert!(
        page.starts_with("status 0x00, the driver accepted 0x0\nqueue 0: not in use\n"),
        "{page}"
    );
    disk.start(0);
    disk.device.suspend().unwrap();
    let page = disk.page();
    assert!(page.contains("queue 0: 16 entries"), "{page}");
    assert!(page.ends_with("its thread is held\n"), "{page}");
}
