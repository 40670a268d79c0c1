// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tiny kernels, built in code.

use vm_boot::{Boot, Image};
use vm_cpu::{GuestRam, RamLayout};
use vm_memory::{Bytes, GuestAddress};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TEXT: u64 = MIB;
pub(crate) const DATA: u64 = 2 * MIB;
pub(crate) const DATA_MEMORY: u64 = 0x3000;

/// An ELF kernel to be written out.
#[derive(Clone)]
pub(crate) struct Elf {
    pub(crate) wide: bool,
    pub(crate) entry: u64,
    pub(crate) pvh: Option<u32>,
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    pub(crate) segments: Vec<Segment>,
}

#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) memory: u64,
}

impl Elf {
    /// A 64-bit kernel with both entries and zeroed memory behind its data.
    pub(crate) fn linux() -> Self {
        Self {
            wide: true,
            entry: TEXT + 0x40,
            pvh: Some(0x10_0080),
            machine: 62,
            kind: 2,
            segments: vec![
                Segment {
                    address: TEXT,
                    data: text(),
                    memory: text().len() as u64,
                },
                Segment {
                    address: DATA,
                    data: b"data".repeat(100),
                    memory: DATA_MEMORY,
                },
            ],
        }
    }

    /// A 32-bit guest with a PVH note.
    pub(crate) fn tiny() -> Self {
        Self {
            wide: false,
            machine: 3,
            ..Self::linux()
        }
    }

    /// The same without a PVH note.
    pub(crate) fn without_note(mut self) -> Self {
        self.pvh = None;
        self
    }

    pub(crate) fn image(&self) -> Image {
        Image::from_bytes("kernel", self.bytes()).expect("a valid kernel")
    }

    /// The file: headers, note, then the segments' bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (header, entry_bytes) = if self.wide { (64, 56) } else { (52, 32) };
        let notes = self.pvh.map(note).unwrap_or_default();
        let count = self.segments.len() + usize::from(self.pvh.is_some());
        let note_at = header + entry_bytes * count;
        let mut file = self.file_header(header, entry_bytes, count);
        let mut at = note_at + notes.len();
        for segment in &self.segments {
            let length = segment.data.len();
            let fields = [1, at as u64, segment.address, length as u64, segment.memory];
            self.program_header(&mut file, fields);
            at += length;
        }
        if self.pvh.is_some() {
            let length = notes.len() as u64;
            self.program_header(&mut file, [4, note_at as u64, 0, length, length]);
        }
        file.extend(notes);
        file.extend(self.segments.iter().flat_map(|segment| &segment.data));
        file
    }

    fn file_header(&self, header: usize, entry_bytes: usize, count: usize) -> Vec<u8> {
        let mut out = vec![0x7f, b'E', b'L', b'F', if self.wide { 2 } else { 1 }, 1, 1];
        out.resize(16, 0);
        half(&mut out, self.kind);
        half(&mut out, self.machine);
        word(&mut out, 1);
        self.address(&mut out, self.entry);
        self.address(&mut out, header as u64);
        self.address(&mut out, 0);
        word(&mut out, 0);
        for value in [header, entry_bytes, count, 0, 0, 0] {
            half(&mut out, u16::try_from(value).expect("small"));
        }
        out
    }

    /// Fields: type, offset, physical address, bytes in the file, bytes in memory.
    fn program_header(&self, out: &mut Vec<u8>, fields: [u64; 5]) {
        let [kind, offset, address, file, memory] = fields;
        word(out, u32::try_from(kind).expect("small"));
        if self.wide {
            word(out, 7);
        }
        // The virtual address is not used; it differs from the physical one, as Linux' does.
        for value in [offset, address + 0x4000_0000, address, file, memory] {
            self.address(out, value);
        }
        if !self.wide {
            word(out, 7);
        }
        self.address(out, 0);
    }

    fn address(&self, out: &mut Vec<u8>, value: u64) {
        if self.wide {
            out.extend_from_slice(&value.to_le_bytes());
        } else {
            word(out, u32::try_from(value).expect("a 32-bit value"));
        }
    }
}

/// Calls of one function from many places: what an x86 filter changes, and makes compressible.
pub(crate) fn text() -> Vec<u8> {
    (0..100_u32)
        .flat_map(|number| {
            let relative = 0x2000_u32 - (number * 8 + 5);
            let [a, b, c, d] = relative.to_le_bytes();
            [0xe8, a, b, c, d, 0x90, 0x90, 0xc3]
        })
        .collect()
}

/// A bzImage of protocol 2.15 around a payload, which ends with its size trailer.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 2;
    const OFFSET: u32 = 0x20;
    let mut file = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    let mut put = |at: usize, bytes: &[u8]| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0x1f1, &[SETUP_SECTORS]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x258, &MIB.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x248, &OFFSET.to_le_bytes());
    put(
        0x24c,
        &u32::try_from(payload.len()).expect("small").to_le_bytes(),
    );
    file.resize(file.len() + 0x20, 0xcc);
    file.extend_from_slice(payload);
    file
}

/// Appends the size that the kernel build appends.
pub(crate) fn with_trailer(mut payload: Vec<u8>, decompressed: usize) -> Vec<u8> {
    word(&mut payload, u32::try_from(decompressed).expect("small"));
    payload
}

pub(crate) fn layout(bytes: u64) -> RamLayout {
    RamLayout { bytes }
}

/// Guest memory that is not zero anywhere, as a guest leaves it.
pub(crate) fn used_ram(layout: RamLayout) -> GuestRam {
    let ram = layout.allocate().expect("guest memory");
    for (start, bytes) in layout.ranges() {
        let bytes = usize::try_from(bytes).expect("small");
        ram.write_slice(&vec![0xa5; bytes], GuestAddress(start))
            .expect("inside");
    }
    ram
}

pub(crate) fn read(ram: &GuestRam, address: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    ram.read_slice(&mut out, GuestAddress(address))
        .expect("inside memory");
    out
}

pub(crate) fn boot(image: Image) -> Boot {
    Boot::new(image, None, "console=ttyS0", 2).expect("a valid boot")
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A hexadecimal constant as bytes.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        })
        .collect()
}

/// A foreign note, then Xen's `PHYS32_ENTRY`.
fn note(entry: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [4, 3, 1] {
        word(&mut out, value);
    }
    out.extend_from_slice(b"GNU\0abc\0");
    for value in [4, 4, 18] {
        word(&mut out, value);
    }
    out.extend_from_slice(b"Xen\0");
    word(&mut out, entry);
    out
}

fn half(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn word(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}
