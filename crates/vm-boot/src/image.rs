// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernel images and initrds: opened and checked, not yet loaded.

use std::path::Path;

use crate::bzimage::BzImage;
use crate::elf::{self, Class, Elf};
use crate::le::u16_at;
use crate::source::Source;
use crate::{BootError, Protocol};

/// Bytes by which every kind of image is recognised.
const FRONT: u64 = 0x290;
/// `COMMAND_LINE_SIZE` of x86 Linux without the terminator, for a kernel that does not say.
const COMMAND_LINE_LIMIT: u32 = 2047;
/// Highest address of an initrd for a kernel that does not say.
const INITRD_LIMIT: u32 = 0x7fff_ffff;

/// How a kernel file is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// By what its first bytes say. A bzImage is decompressed here if its payload is in a format
    /// that is known; if not, or if what is in it has no entry of its own, it is entered as is.
    #[default]
    Auto,
    /// A bzImage that is loaded whole, where it prefers to be, and decompresses itself.
    AsIs,
}

/// A kernel image: an ELF `vmlinux` (32 or 64 bits) or a bzImage (`vmlinuz`).
///
/// Headers are read and checked when it is opened. Its bytes are read at every
/// [`Boot::load`](crate::Boot::load), so that none stay in this process; an opened file cannot
/// vanish, and if it changes between loads, loading fails. While it loads, parts of it are mapped:
/// whoever shortens it in place at that moment ends this process (`SIGBUS`); replacing it by
/// another file, as package managers do, is harmless.
#[derive(Debug)]
pub struct Image {
    pub(crate) source: Source,
    pub(crate) form: Form,
    pub(crate) kind: Kind,
}

/// What an image is.
#[derive(Debug)]
pub(crate) enum Kind {
    Elf {
        elf: Elf,
        /// The entry that a PVH note names.
        pvh: Option<u32>,
    },
    BzImage(BzImage),
}

impl Image {
    /// Opens a kernel file and checks its headers.
    ///
    /// # Errors
    /// Every [`BootError`] about a file or its format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BootError> {
        Self::open_as(path, Form::Auto)
    }

    /// Opens a kernel file that is to be taken in this form.
    ///
    /// # Errors
    /// As [`Image::open`]; [`BootError::Unsupported`] if the file does not have this form.
    pub fn open_as(path: impl AsRef<Path>, form: Form) -> Result<Self, BootError> {
        Self::recognise(Source::open(path.as_ref())?, form)
    }

    /// Takes a kernel that is already in memory; it stays there.
    ///
    /// # Errors
    /// Every [`BootError`] about a format.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, BootError> {
        Self::from_bytes_as(name, bytes, Form::Auto)
    }

    /// Takes a kernel that is already in memory, in this form.
    ///
    /// # Errors
    /// As [`Image::from_bytes`]; [`BootError::Unsupported`] if it does not have this form.
    pub fn from_bytes_as(name: &str, bytes: Vec<u8>, form: Form) -> Result<Self, BootError> {
        Self::recognise(Source::from_bytes(name, bytes)?, form)
    }

    /// What was found, in one line.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Elf { elf, pvh } => {
                let class = if elf.class == Class::Elf64 {
                    "ELF64"
                } else {
                    "ELF32"
                };
                let entry = match pvh {
                    Some(entry) => format!("PVH entry {entry:#x}"),
                    None => format!("64-bit entry {:#x}", elf.entry),
                };
                let bytes: u64 = elf.segments.iter().map(|segment| segment.file_bytes).sum();
                format!(
                    "{class} kernel, {entry}, {} segments, {bytes} bytes to load",
                    elf.segments.len()
                )
            }
            Kind::BzImage(image) => {
                let what = match &image.payload {
                    Some(payload) if self.form == Form::Auto => format!(
                        "{} payload of {} bytes, {} decompressed",
                        payload.format.name(),
                        payload.range.end - payload.range.start,
                        payload.decompressed
                    ),
                    _ => "entered as is".into(),
                };
                let (major, minor) = (image.protocol >> 8, image.protocol & 0xff);
                format!("bzImage, boot protocol {major}.{minor:02}, {what}")
            }
        }
    }

    /// Longest command line in bytes, without a terminator.
    pub(crate) fn command_line_limit(&self) -> u32 {
        match &self.kind {
            Kind::Elf { .. } => COMMAND_LINE_LIMIT,
            Kind::BzImage(image) => image.command_line_limit,
        }
    }

    /// Highest address that an initrd may use.
    pub(crate) fn initrd_limit(&self) -> u32 {
        match &self.kind {
            Kind::Elf { .. } => INITRD_LIMIT,
            Kind::BzImage(image) => image.initrd_limit,
        }
    }

    fn recognise(source: Source, form: Form) -> Result<Self, BootError> {
        let front = source.read(0, FRONT)?;
        let kind = if BzImage::matches(&front) && !front.starts_with(elf::MAGIC) {
            let image = BzImage::parse(&source)?;
            if form == Form::AsIs {
                image.as_is(&source)?;
            }
            Kind::BzImage(image)
        } else if form == Form::AsIs {
            return Err(BootError::Unsupported {
                name: source.name().to_owned(),
                what: "no bzImage, which alone can be entered as is".into(),
                instead: "give a bzImage, or let the form be recognised",
            });
        } else if front.starts_with(elf::MAGIC) {
            let (elf, pvh) = plain_elf(&source, &front)?;
            Kind::Elf { elf, pvh }
        } else {
            return Err(not_a_kernel(&source, &front));
        };
        Ok(Self { source, form, kind })
    }
}

/// An initial RAM disk (or any archive that the kernel takes as one). Its file is treated as an
/// [`Image`]'s is.
#[derive(Debug)]
pub struct Initrd {
    pub(crate) source: Source,
}

impl Initrd {
    /// Opens an initrd file.
    ///
    /// # Errors
    /// [`BootError::File`], [`BootError::NotAFile`], [`BootError::Empty`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BootError> {
        Ok(Self {
            source: Source::open(path.as_ref())?,
        })
    }

    /// Takes an initrd that is already in memory; it stays there.
    ///
    /// # Errors
    /// [`BootError::Empty`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, BootError> {
        Ok(Self {
            source: Source::from_bytes(name, bytes)?,
        })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.source.bytes()
    }
}

/// By which protocol to enter, from what the kernel offers and what was asked for.
pub(crate) fn entry(
    name: &str,
    elf: &Elf,
    pvh: Option<u32>,
    wanted: Option<Protocol>,
) -> Result<(Protocol, u64), BootError> {
    let unsupported = |what: &str, instead| {
        Err(BootError::Unsupported {
            name: name.to_owned(),
            what: what.to_owned(),
            instead,
        })
    };
    let (protocol, entry) = match (wanted, pvh) {
        (None | Some(Protocol::Pvh), Some(entry)) => (Protocol::Pvh, entry.into()),
        (Some(Protocol::Pvh), None) => {
            return unsupported("a kernel without a PVH note", "build it with CONFIG_PVH=y");
        }
        (None | Some(Protocol::Linux64), _) => match (elf.class, pvh) {
            (Class::Elf64, _) => (Protocol::Linux64, elf.entry),
            (Class::Elf32, None) => {
                return Err(BootError::No32BitEntry {
                    name: name.to_owned(),
                });
            }
            (Class::Elf32, Some(_)) => {
                return unsupported("a 32-bit kernel", "enter it by its PVH note");
            }
        },
        (Some(Protocol::Linux32), _) => {
            return unsupported(
                "no bzImage, which alone has Linux' 32-bit entry",
                "give the bzImage, to be entered as is",
            );
        }
    };
    if !elf.covers(entry) {
        return Err(BootError::Malformed {
            name: name.to_owned(),
            offset: 24,
            what: format!("its entry {entry:#x} is a physical address in no segment"),
        });
    }
    Ok((protocol, entry))
}

/// The headers and notes of an uncompressed kernel, and that its segments are all in the file.
fn plain_elf(source: &Source, front: &[u8]) -> Result<(Elf, Option<u32>), BootError> {
    let name = source.name();
    let head = source.read(0, Elf::head_bytes(name, front)?)?;
    let elf = Elf::parse(name, &head)?;
    for segment in &elf.segments {
        let needed = segment.offset + segment.file_bytes;
        if needed > source.bytes() {
            let (name, bytes) = (name.to_owned(), source.bytes());
            return Err(BootError::Truncated {
                name,
                what: "a segment",
                needed,
                bytes,
            });
        }
    }
    let mut pvh = None;
    for &(offset, bytes) in &elf.notes {
        pvh = pvh.or(elf::pvh_entry(&source.read(offset, bytes)?));
    }
    entry(name, &elf, pvh, None)?;
    Ok((elf, pvh))
}

fn not_a_kernel(source: &Source, front: &[u8]) -> BootError {
    let known: [(&[u8], &str); 7] = [
        (b"\x1f\x8b", " (gzip)"),
        (b"\x28\xb5\x2f\xfd", " (zstd)"),
        (b"\xfd7zXZ", " (xz)"),
        (b"!<arch>", " (an archive or Debian package)"),
        (b"070701", " (a cpio archive, as an initrd is)"),
        (b"MZ", " (an EFI or DOS program that is no bzImage)"),
        (b"#!", " (a script)"),
    ];
    let boot_sector = u16_at(front, 0x1fe) == Some(0xaa55);
    let like = known
        .iter()
        .find(|(magic, _)| front.starts_with(magic))
        .map_or("", |(_, what)| what);
    let like = if boot_sector && like.is_empty() {
        " (a boot sector, which needs real mode and BIOS services; there is no BIOS here)"
    } else {
        like
    };
    let magic: String = front
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    BootError::NotAKernel {
        name: source.name().to_owned(),
        magic: format!("{magic}{like}"),
    }
}
