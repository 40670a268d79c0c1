// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Loads a guest of four instructions by its PVH note and shows what it is given.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use vm_boot::{Boot, Image, Initrd};
use vm_cpu::RamLayout;
use vm_memory::{Bytes, GuestAddress};

const ENTRY: u32 = 0x10_0000;
/// `mov al, '!'; mov dx, 0x3f8; out dx, al; hlt`.
const CODE: [u8; 9] = [0xb0, b'!', 0x66, 0xba, 0xf8, 0x03, 0xee, 0xf4, 0x90];

fn main() -> Result<(), Box<dyn Error>> {
    let image = Image::from_bytes("tiny", kernel())?;
    println!("image:   {}", image.describe());
    let initrd = Initrd::from_bytes("initrd", vec![0; 10_000])?;
    let boot = Boot::new(image, Some(initrd), "console=ttyS0", 2)?;

    let layout = RamLayout { bytes: 16 << 20 };
    let ram = layout.allocate()?;
    let start = boot.load(&ram, layout)?;
    println!("memory map:");
    for range in boot.memory_map(layout) {
        println!(
            "  {:#10x} {:#10x} bytes  {:?}",
            range.address, range.bytes, range.kind
        );
    }
    println!("ACPI tables:");
    for table in boot.acpi_tables().tables() {
        let signature = String::from_utf8_lossy(&table.signature).into_owned();
        println!(
            "  {:#10x} {:10} bytes  {signature}",
            table.address, table.bytes
        );
    }
    let (gprs, system) = (start.gprs, start.system);
    println!(
        "vCPU 0:  rip {:#x}, rbx {:#x} (start info), cr0 {:#x}",
        gprs.rip, gprs.rbx, system.cr0
    );
    let mut code = [0; CODE.len()];
    ram.read_slice(&mut code, GuestAddress(gprs.rip))?;
    println!("code:    {code:02x?}");
    // A hard reset loads again, whatever the guest has done to its memory.
    ram.write_slice(&[0xff; CODE.len()], GuestAddress(gprs.rip))?;
    let again = boot.load(&ram, layout)?;
    ram.read_slice(&mut code, GuestAddress(gprs.rip))?;
    println!(
        "reset:   same start {}, same code {}",
        again == start,
        code == CODE
    );
    Ok(())
}

/// A 32-bit ELF file: header, two program headers, the PVH note, the code.
fn kernel() -> Vec<u8> {
    const HEADERS: u32 = 52 + 2 * 32;
    const NOTE: u32 = 20;
    let code = u32::try_from(CODE.len()).unwrap_or_default();
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, 386; 52 bytes of header, 2 program headers of 32 bytes.
    let fields = [2 | 3 << 16, 1, ENTRY, 52, 0, 0, 52 | 32 << 16, 2, 0];
    // Type, offset, virtual and physical address, bytes in file and memory, flags, alignment.
    let load = [1, HEADERS + NOTE, ENTRY, ENTRY, code, code, 5, 4];
    let note = [4, HEADERS, 0, 0, NOTE, NOTE, 4, 4];
    // Name and description of 4 bytes, XEN_ELFNOTE_PHYS32_ENTRY, "Xen\0".
    let pvh = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), ENTRY];
    for word in fields.iter().chain(&load).chain(&note).chain(&pvh) {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&CODE);
    file
}
