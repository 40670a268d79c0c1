// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device writes to guest memory is marked in the bitmap, and nothing else is.

use vm_devices::DiskAccess;

use crate::driver::{DATA, Driver, STATUS, USED, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;

const PAGE: u64 = 0x1000;

#[test]
fn a_disk_read_marks_its_data_its_answer_and_the_used_ring() {
    let mut disk = Driver::disk(128, DiskAccess::ReadWrite);
    disk.start(0);
    // Sixteen pages of data; the second time only one of them.
    for pages in [16, 1] {
        let bytes = pages * 4096;
        disk.before_ask = Some(Driver::clean);
        assert_eq!(disk.ask(IN, 0, bytes, WRITE), 0);
        let mut expected = vec![USED, STATUS];
        expected.extend((0..u64::from(pages)).map(|page| DATA + page * PAGE));
        assert_eq!(disk.dirty(), expected);
    }
}

#[test]
fn a_disk_write_marks_its_answer_and_the_used_ring() {
    let mut disk = Driver::disk(128, DiskAccess::ReadWrite);
    disk.start(0);
    disk.before_ask = Some(Driver::clean);
    assert_eq!(disk.ask(OUT, 0, 8 * 4096, 0), 0);
    assert_eq!(disk.dirty(), [USED, STATUS]);
}

#[test]
fn entropy_marks_what_it_fills_and_the_used_ring() {
    let mut rng = Driver::entropy();
    rng.start(0);
    rng.before_ask = Some(Driver::clean);
    // Across the end of a page.
    rng.submit(&[(DATA + PAGE - 16, 32, WRITE, 0)]);
    assert_eq!(rng.completed(), 32);
    assert_eq!(rng.dirty(), [USED, DATA, DATA + PAGE]);
}
