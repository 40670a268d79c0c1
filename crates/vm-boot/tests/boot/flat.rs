// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Flat binaries, and initrds that are given several times.

use vm_boot::{Boot, BootError, Form, Image, Initrd, Protocol};

use crate::fixture::{Elf, MIB, boot, layout, read, u32_at, u64_at, used_ram};

fn flat(address: u64) -> Result<Image, BootError> {
    // Looks like an ELF kernel, and is not taken as one.
    Image::from_bytes_as("kernel.bin", Elf::linux().bytes(), Form::Flat { address })
}

fn initrd(bytes: &[u8]) -> Initrd {
    Initrd::from_bytes("initrd", bytes.to_vec()).expect("not empty")
}

#[test]
fn a_flat_binary_lies_at_its_address_and_is_entered_there() {
    let bytes = Elf::linux().bytes();
    for address in [Form::FLAT_ADDRESS, 0x12_3456] {
        let layout = layout(4 * MIB);
        let ram = used_ram(layout);
        let image = flat(address).expect("any bytes");
        let described = image.describe();
        assert!(
            described.starts_with("flat binary, entry 0x1"),
            "{described}"
        );
        let start = boot(image).load(&ram, layout).expect("it loads");
        assert_eq!(start.gprs.rip, address);
        assert_eq!(start.system.cr0 & 0x8000_0001, 1);
        assert_eq!(read(&ram, address, bytes.len()), bytes);
        assert_eq!(read(&ram, address + bytes.len() as u64, 8), [0xa5; 8]);
        let info = read(&ram, start.gprs.rbx, 56);
        assert_eq!(u32_at(&info, 0), 0x336e_c578, "hvm_start_info");
    }
}

#[test]
fn a_flat_binary_outside_memory_for_kernels_is_refused() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let load = |address| boot(flat(address).expect("any bytes")).load(&ram, layout);
    assert!(matches!(load(0x7c00), Err(BootError::Reserved { .. })));
    assert!(matches!(load(4 * MIB - 1), Err(BootError::Segment { .. })));
    for address in [(3 << 30) - 1, u64::MAX] {
        assert!(matches!(flat(address), Err(BootError::Reserved { .. })));
    }
}

#[test]
fn a_flat_binary_has_no_other_entry() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let boot = boot(flat(MIB).expect("any bytes")).with_protocol(Protocol::Pvh);
    let error = boot.load(&ram, layout).expect_err("there is no note");
    assert!(matches!(error, BootError::Unsupported { .. }), "{error}");
}

#[test]
fn several_initrds_are_one_each_padded_with_zeros_to_four_bytes() {
    let layout = layout(8 * MIB);
    let parts = || [initrd(b"first"), initrd(b"second!"), initrd(b"third")];
    for protocol in [Protocol::Pvh, Protocol::Linux64] {
        let ram = used_ram(layout);
        let boot = Boot::new(Elf::linux().image(), parts(), "", 1).expect("a boot");
        let start = boot.with_protocol(protocol).load(&ram, layout);
        let gprs = start.expect("it loads").gprs;
        let (address, bytes) = if protocol == Protocol::Pvh {
            let module = u64_at(&read(&ram, gprs.rbx, 56), 16);
            let module = read(&ram, module, 16);
            (u64_at(&module, 0), u64_at(&module, 8))
        } else {
            let page = read(&ram, gprs.rsi, 4096);
            (u32_at(&page, 0x218).into(), u32_at(&page, 0x21c).into())
        };
        assert_eq!(address, 8 * MIB - 4096);
        assert_eq!(bytes, 21);
        let seen = read(&ram, address, 21);
        assert_eq!(seen, b"first\0\0\0second!\0third");
    }
}

#[test]
fn initrds_that_do_not_fit_together_are_named_together() {
    let layout = layout(4 * MIB);
    let ram = layout.allocate().expect("guest memory");
    let half = vec![1; 1 << 20];
    let boot = |count: usize| {
        let initrds: Vec<Initrd> = (0..count).map(|_| initrd(&half)).collect();
        Boot::new(Elf::linux().image(), initrds, "", 1).expect("a boot")
    };
    assert!(boot(1).load(&ram, layout).is_ok());
    let error = boot(2).load(&ram, layout).expect_err("no room");
    assert!(
        error.to_string().contains("initrd + initrd has 2097152"),
        "{error}"
    );
}
