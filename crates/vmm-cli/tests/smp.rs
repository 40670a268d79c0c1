// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every vCPU of the largest machine starts by INIT and SIPI, and knows its number. One printed line
//! where KVM does not open.

mod flat_guest;
mod needs_kvm;

use flat_guest::{ADDRESS, FLAT, run};
use needs_kvm::kvm;

const ALL_STARTED: i32 = 9;
const LATE: u8 = 5;

/// What the others run in real mode at 0x8000: each sets the bit of its x2APIC ID, which leaf 0xb has
/// in EDX, in the eight bytes at 0x600, and halts.
const OTHERS: [u8; 26] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, // cli; xor ax, ax; mov ds, ax
    0x66, 0xb8, 0x0b, 0, 0, 0, 0x66, 0x31, 0xc9, 0x0f, 0xa2, // leaf 0xb, subleaf 0
    0xf0, 0x0f, 0xab, 0x16, 0x00, 0x06, // lock bts [0x600], dx
    0xf4, 0xeb, 0xfd, 0x90, // hlt, for ever
];

/// 32-bit code for vCPU 0, with what the others run behind it.
fn guest() -> Vec<u8> {
    let [low, high] = [0xffff_fffe_u32, u32::MAX].map(u32::to_le_bytes);
    let init = 0x000c_4500_u32.to_le_bytes();
    let start = 0x000c_4608_u32.to_le_bytes();
    let head = |others: u32| {
        let others = others.to_le_bytes();
        let parts: [&[u8]; 20] = [
            // Copy what the others run, clear what they set.
            &[0xbe],
            &others,
            &[0xbf, 0x00, 0x80, 0, 0, 0xb9, 26, 0, 0, 0, 0xf3, 0xa4],
            &[0x31, 0xc0, 0xa3, 0, 6, 0, 0, 0xa3, 4, 6, 0, 0],
            // Enable the local APIC, then INIT and SIPI for vector 8 to all but oneself.
            &[0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0],
            &[0xc7, 0x05, 0x00, 3, 0xe0, 0xfe],
            &init,
            &[0xc7, 0x05, 0x00, 3, 0xe0, 0xfe],
            &start,
            // Look until all bits are there, a limited number of times.
            &[0xb9, 0, 0, 0, 4],
            // cmp [0x600], low; jne next; cmp [0x604], high; je "all"
            &[0x81, 0x3d, 0, 6, 0, 0],
            &low,
            &[0x75, 12, 0x81, 0x3d, 4, 6, 0, 0],
            &high,
            &[0x74, 9],
            // next: pause; loop
            &[0xf3, 0x90, 0xe2, 0xe4],
            &[0xb0, LATE, 0xe6, 0xf4, 0xf4],
            &[0xb0, 9, 0xe6, 0xf4],
            &[0xf4],
            &[0x90],
        ];
        parts.concat()
    };
    let length = u32::try_from(head(0).len()).unwrap_or_default();
    let mut bytes = head(ADDRESS + length);
    bytes.extend(OTHERS);
    bytes
}

#[test]
fn all_of_64_vcpus_start_by_sipi_and_each_knows_its_number() {
    if kvm() {
        let args = [&FLAT[..], &["--cpus", "64"]].concat();
        let (said, events) = run(&guest(), &args);
        assert_eq!(said, ALL_STARTED, "{events}");
    }
}
