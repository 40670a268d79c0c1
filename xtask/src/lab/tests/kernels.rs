// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of kernels that are not Linux' own ELF file: multiboot, a flat binary, a bzImage by its 32-bit
//! entry. What each was given it says itself, on the serial port.

use super::beside::start;
use super::{BOOT_LIMIT_S, Check, REACHED, run};
use crate::lab::setup::Kernel;

/// Where both small kernels lie and begin; a multiboot header is before the second one's entry.
const ADDRESS: u32 = 0x20_0000;
/// What a small kernel writes to the debug-exit port, and the status that makes.
const WORD: u8 = 5;
const STATUS: u8 = WORD << 1 | 1;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![modules(), flat(), xen()];
    checks.extend(Kernel::ALL.map(by_32_bit_entry));
    checks
}

/// 32-bit code without relocations: a line that is terminated by zero at ESI, and a character in AL, to
/// the first serial port. `PUT` is right behind `LINE`.
const LINE: [u8; 14] = [
    // lodsb; test al, al; jz to the newline; call put; jmp back
    0xac, 0x84, 0xc0, 0x74, 7, 0xe8, 4, 0, 0, 0, 0xeb, 0xf4, //
    // mov al, 10
    0xb0, 10,
];
const PUT: [u8; 19] = [
    // mov ah, al; mov dx, 0x3fd; in al, dx; test al, 0x20; jz back
    0x88, 0xc4, 0x66, 0xba, 0xfd, 3, 0xec, 0xa8, 0x20, 0x74, 0xfb, //
    // mov dx, 0x3f8; mov al, ah; out dx, al; ret
    0x66, 0xba, 0xf8, 3, 0x88, 0xe0, 0xee, 0xc3,
];
/// mov al, WORD; out 0xf4, al; hlt; jmp back
const END: [u8; 7] = [0xb0, WORD, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];

/// A kernel behind a multiboot header with addresses, that says its command line, and each module's
/// string and contents.
fn multiboot_kernel() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES);
    let entry = ADDRESS + 32;
    let words = [MAGIC, ADDRESSES, sum, ADDRESS, ADDRESS, 0, 0, entry];
    let mut image: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let parts: [&[u8]; 8] = [
        // cmp eax, 0x2badb002; jne to the halt; mov esp, 0x300000; mov ebp, ebx
        &[
            0x3d, 2, 0xb0, 0xad, 0x2b, 0x75, 0x37, 0xbc, 0, 0, 0x30, 0, 0x89, 0xdd,
        ],
        // The command line: mov esi, [ebp + 16]; call line
        &[0x8b, 0x75, 16, 0xe8, 0x2b, 0, 0, 0],
        // The modules: mov ecx, [ebp + 20]; mov edi, [ebp + 24]; jecxz to the end
        &[0x8b, 0x4d, 20, 0x8b, 0x7d, 24, 0xe3, 0x1c],
        // Its string: mov esi, [edi + 8]; call line
        &[0x8b, 0x77, 8, 0xe8, 0x1b, 0, 0, 0],
        // Its bytes: mov esi, [edi]; cmp esi, [edi + 4]; je on; lodsb; call put; jmp back
        &[
            0x8b, 0x37, 0x3b, 0x77, 4, 0x74, 8, 0xac, 0xe8, 0x1c, 0, 0, 0, 0xeb, 0xf3,
        ],
        // The next: add edi, 16; loop
        &[0x83, 0xc7, 16, 0xe2, 0xe4],
        &END,
        &[LINE.as_slice(), &PUT].concat(),
    ];
    image.extend(parts.concat());
    image
}

/// A flat kernel, given a PVH start info in EBX, that says its command line and its one module's
/// contents.
fn flat_kernel() -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        // cmp dword [ebx], 0x336ec578; jne to the halt; mov esp, 0x300000
        &[
            0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x75, 0x21, 0xbc, 0, 0, 0x30, 0,
        ],
        // The command line: mov esi, [ebx + 24]; call line
        &[0x8b, 0x73, 24, 0xe8, 0x17, 0, 0, 0],
        // The module: mov edi, [ebx + 16]; mov esi, [edi]; mov ecx, [edi + 8]
        &[0x8b, 0x7b, 16, 0x8b, 0x37, 0x8b, 0x4f, 8],
        // lodsb; call put; loop
        &[0xac, 0xe8, 0x17, 0, 0, 0, 0xe2, 0xf8],
        &END,
        &[LINE.as_slice(), &PUT].concat(),
    ];
    parts.concat()
}

/// A line of the shell that writes these bytes to a file.
fn put(image: &[u8], name: &str) -> String {
    let bytes: String = image.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{bytes}' >{name}")
}

/// A check of a small kernel with two initrds, `first` and `second`.
fn small(name: &str, image: &[u8], options: &str, says: String) -> Check {
    let put = put(image, "small");
    Check {
        name: name.into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script: format!(
            "{put}
             echo 'here is one.' >first
             echo 'and two.' >second
             ./vmm run --kernel small {options} --initrd first --initrd second --memory 8M \
                 --debug-exit 0xf4 --append 'small said=this' >output 2>&1
             status=$?
             cat output
             tr -d '\\r' <output | tr '\\n' '/'
             exit $status"
        ),
        status: STATUS,
        says: vec![says],
        lacks: Vec::new(),
        limit_s: BOOT_LIMIT_S,
        quick: true,
    }
}

fn modules() -> Check {
    small(
        "a multiboot kernel is given its command line and each initrd as a module",
        &multiboot_kernel(),
        "",
        "small said=this/first/here is one./second/and two./".into(),
    )
}

/// Each is padded to four bytes, here with three zeros behind the first.
fn flat() -> Check {
    let zeros = "\0".repeat(3);
    small(
        "a flat kernel is given its command line and all initrds as one",
        &flat_kernel(),
        &format!("--kernel-form flat --load-address {ADDRESS:#x}"),
        format!("small said=this/here is one./{zeros}and two./"),
    )
}

/// Xen, as Debian ships it, with a kernel and an initrd as its modules. It takes the first word of its
/// command line for its name, has nothing to ask of a BIOS, and ends for want of a timer that this
/// machine does not have; by then it has shown and used what it was given.
fn xen() -> Check {
    const MIB: u64 = 320;
    let start = start(&format!(
        "./vmm run --kernel xen --initrd vmlinuz-6.1 --initrd guest.cpio --memory {MIB}M --append \
         'xen no-real-mode console=com1 com1=115200,8n1 loglvl=all noreboot'"
    ));
    let script = format!(
        "{start}
         told 'Using scheduler\\|Panic'
         kill -TERM $machine
         wait $machine
         status=$?
         cat output
         exit $status"
    );
    let says = [
        "(XEN) Xen version 4.".into(),
        "(XEN) Bootloader: vm-boot".into(),
        "(XEN) Command line: no-real-mode console=com1 com1=115200,8n1 loglvl=all noreboot".into(),
        "(XEN) Multiboot-e820 RAM map:".into(),
        "(XEN)  [0000000000000000, 000000000009fbff] (usable)".into(),
        "(XEN)  [00000000000e0000, 00000000000e0fff] (ACPI data)".into(),
        format!(
            "(XEN)  [0000000000100000, {:016x}] (usable)",
            (MIB << 20) - 1
        ),
        "(XEN) ACPI: RSDP 000E0000".into(),
        "(XEN) SMP: Allowing 1 CPUs".into(),
        "(XEN) Using scheduler: ".into(),
    ];
    Check {
        name: "Xen is booted by its multiboot header and finds its memory map and tables".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: says.to_vec(),
        lacks: vec!["the guest died"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

/// The decompressor is entered in protected mode without paging.
fn by_32_bit_entry(guest: Kernel) -> Check {
    let kernel = guest.name();
    let image = format!("vmlinuz-{kernel}");
    Check {
        name: format!(
            "{image} entered by its 32-bit entry decompresses itself and reaches userspace"
        ),
        lab: Kernel::V6_12,
        cpus: 1,
        script: run(&image, 1, "512M", "--kernel-form as-is-32", "once"),
        status: 0,
        says: vec![REACHED.into(), " s, 1 CPU(s)".into()],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: 2 * BOOT_LIMIT_S,
        quick: false,
    }
}

#[cfg(test)]
mod the_small_kernels {
    use super::*;

    /// Bytes at these places are a relative call's or jump's opcode and distance.
    fn target(image: &[u8], at: usize) -> usize {
        let distance = u32::from_le_bytes(image[at + 1..at + 5].try_into().unwrap());
        at + 5 + usize::try_from(distance).unwrap()
    }

    #[test]
    fn calls_lead_to_where_lines_and_characters_are_put() {
        let multiboot = multiboot_kernel();
        let put = multiboot.len() - PUT.len();
        let line = put - LINE.len();
        assert_eq!(target(&multiboot, 32 + 17), line);
        assert_eq!(target(&multiboot, 32 + 33), line);
        assert_eq!(target(&multiboot, 32 + 46), put);
        let flat = flat_kernel();
        let put = flat.len() - PUT.len();
        assert_eq!(target(&flat, 16), put - LINE.len());
        assert_eq!(target(&flat, 30), put);
        assert_eq!(target(&flat, put - LINE.len() + 5), put);
    }

    #[test]
    fn a_files_bytes_survive_the_shell() {
        let mut shell = std::process::Command::new("sh");
        let line = put(&multiboot_kernel(), "/dev/stdout");
        let output = shell.arg("-c").arg(line).output().unwrap();
        assert_eq!(output.stdout, multiboot_kernel());
    }
}
