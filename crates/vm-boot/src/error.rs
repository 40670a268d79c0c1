// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can be wrong with a kernel, an initrd or what they are to be loaded into.

use std::io;

use thiserror::Error;

/// Why a boot cannot be prepared. Each names the file, the place in it and what would be right.
///
/// `name` is the path an image was opened by, or the name given with its bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The file cannot be opened or read.
    #[error("cannot {op} {name}: give the path of a readable file")]
    File {
        /// The file.
        name: String,
        /// What was tried.
        op: &'static str,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// The path is not a regular file.
    #[error("{name} is a {what}: give a regular file")]
    NotAFile {
        /// The path.
        name: String,
        /// What is there instead.
        what: &'static str,
    },
    /// The file has no bytes.
    #[error("{name} is empty: copy or download it again")]
    Empty {
        /// The file.
        name: String,
    },
    /// The file is not what it was when it was opened.
    #[error("{name} has changed since it was opened: start again with the new file")]
    Changed {
        /// The file.
        name: String,
    },
    /// The file ends before something that its own headers announce.
    #[error(
        "{name} is cut off: {what} reaches to byte {needed}, the file ends at {bytes}; copy it again"
    )]
    Truncated {
        /// The file.
        name: String,
        /// What is missing.
        what: &'static str,
        /// The byte offset just past what is missing.
        needed: u64,
        /// Bytes there are.
        bytes: u64,
    },
    /// Neither an ELF file nor a bzImage, and without a multiboot header.
    #[error(
        "{name} is no kernel: it begins with {magic}; give an ELF vmlinux or a bzImage (vmlinuz)"
    )]
    NotAKernel {
        /// The file.
        name: String,
        /// Its first bytes in hexadecimal, and what they look like if that is known.
        magic: String,
    },
    /// A kernel of a kind that is not booted here.
    #[error("{name} is {what}: {instead}")]
    Unsupported {
        /// The file.
        name: String,
        /// What it is.
        what: String,
        /// What would be right.
        instead: &'static str,
    },
    /// A 32-bit ELF kernel with neither of the marks that say how to enter it.
    #[error(
        "{name} is a 32-bit kernel without a PVH note and without a multiboot header: build it \
         with CONFIG_PVH=y, or give its bzImage or a 64-bit kernel"
    )]
    No32BitEntry {
        /// The file.
        name: String,
    },
    /// A header field contradicts the format or another field.
    #[error("{name} is damaged at byte {offset}: {what}")]
    Malformed {
        /// The file; for a compressed kernel the offset counts in the decompressed payload.
        name: String,
        /// Where the field is.
        offset: u64,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The kernel inside a bzImage does not decompress.
    #[error("the {format} payload of {name} does not decompress: {reason}; copy it again")]
    Payload {
        /// The file.
        name: String,
        /// How it is compressed.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// A segment lies outside guest memory.
    #[error(
        "{name} wants {bytes} bytes at {address:#x}, but guest memory ends at {end:#x}: give it at \
         least {minimum_mib} MiB"
    )]
    Segment {
        /// The file.
        name: String,
        /// First guest address of the segment.
        address: u64,
        /// Bytes of the segment in memory.
        bytes: u64,
        /// First guest address past memory.
        end: u64,
        /// Memory, in MiB, with which the segment would lie inside.
        minimum_mib: u64,
    },
    /// A segment covers addresses that are not for kernels.
    #[error(
        "{name} wants {bytes} bytes at {address:#x}, which covers {what}: link it between 1 MiB \
         and 3 GiB"
    )]
    Reserved {
        /// The file.
        name: String,
        /// First guest address of the segment.
        address: u64,
        /// Bytes of the segment in memory.
        bytes: u64,
        /// What the addresses are for.
        what: &'static str,
    },
    /// The initrd does not fit between the kernel and the end of memory.
    #[error(
        "initrd {name} has {bytes} bytes, but only {room} are free above the kernel: give the VM \
         more memory or a smaller initrd"
    )]
    InitrdDoesNotFit {
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
        /// Bytes free between the end of the kernel and the highest address an initrd may use.
        room: u64,
    },
    /// The names of a multiboot kernel's modules need more room than there is for them.
    #[error(
        "what is said about {modules} modules has {bytes} bytes, there is room for {limit}: give \
         fewer, or shorter paths"
    )]
    Modules {
        /// How many modules there are.
        modules: usize,
        /// Bytes of the information structure with list and strings.
        bytes: usize,
        /// Bytes there is room for.
        limit: usize,
    },
    /// The kernel's buffer for the command line is too small.
    #[error("the command line has {bytes} bytes, this kernel takes at most {limit}: shorten it")]
    CommandLine {
        /// Its length without the terminator.
        bytes: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// The command line holds a NUL, which would end it.
    #[error("the command line has a NUL at byte {offset}: remove it")]
    CommandLineNul {
        /// Where it is.
        offset: usize,
    },
    /// No vCPU, or more than the tables can describe.
    #[error("{cpus} vCPUs: give between 1 and {limit}")]
    Cpus {
        /// How many were asked for.
        cpus: u32,
        /// The largest number.
        limit: u32,
    },
    /// Less memory than the boot tables and any kernel need.
    #[error("{bytes} bytes of guest memory are too few to boot from: give at least {minimum}")]
    MemoryTooSmall {
        /// Bytes of guest memory.
        bytes: u64,
        /// The minimum.
        minimum: u64,
    },
    /// Guest memory is not where its layout says.
    #[error("guest memory at {address:#x} cannot be written: map it as its layout says")]
    Ram {
        /// The guest address.
        address: u64,
        /// What was answered.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}
