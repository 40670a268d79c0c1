// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A kernel of a few instructions.

/// An ELF32 file with a PVH note and one segment, loaded and entered at `at`.
pub(crate) fn elf(at: u32, code: &[u8]) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, v: u16| elf.extend(v.to_le_bytes());
    let word = |elf: &mut Vec<u8>, v: u32| elf.extend(v.to_le_bytes());
    half(&mut elf, 2); // ET_EXEC
    half(&mut elf, 3); // EM_386
    word(&mut elf, 1);
    word(&mut elf, at); // entry
    word(&mut elf, 52); // program headers
    word(&mut elf, 0);
    word(&mut elf, 0);
    for v in [52, 32, 2, 0, 0, 0] {
        half(&mut elf, v);
    }
    let len = u32::try_from(code.len()).expect("a few bytes");
    let (load, note) = (0x100_u32, 0xc0_u32);
    for v in [1, load, at, at, len, len, 5, 0x1000] {
        word(&mut elf, v); // PT_LOAD
    }
    for v in [4, note, 0, 0, 20, 20, 4, 4] {
        word(&mut elf, v); // PT_NOTE
    }
    elf.resize(note as usize, 0);
    for v in [4, 4, 18] {
        word(&mut elf, v);
    }
    elf.extend(b"Xen\0");
    word(&mut elf, at);
    elf.resize(load as usize, 0);
    elf.extend(code);
    elf
}
