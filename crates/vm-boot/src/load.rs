// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Segments into guest memory: straight from the file, or while they are being decompressed.
//!
//! Every segment's address is checked before the first byte is written. Memory behind a segment's
//! file bytes is made zero without touching pages that are zero already, so fresh memory stays
//! untouched and used memory (after a reset) is cleared.

use std::io::Read;

use vm_cpu::{GuestRam, RamLayout};
use vm_memory::{Bytes, GuestAddress};

use crate::bzimage::{BzImage, Payload};
use crate::elf::{self, Class, Elf};
use crate::image::{Form, Image, Kind};
use crate::le::index;
use crate::map::FIRST_MIB;
use crate::protocol::choose;
use crate::segment::{Raw, Segment};
use crate::source::Source;
use crate::{BootError, Protocol};

/// Bytes decompressed, or looked at for zeros, at a time.
const CHUNK: usize = 64 << 10;
static ZEROS: [u8; CHUNK] = [0; CHUNK];
const MIB: u64 = 1 << 20;

/// A kernel that is in guest memory.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) protocol: Protocol,
    pub(crate) entry: u64,
    /// First guest address past the kernel.
    pub(crate) end: u64,
}

/// Loads a kernel.
pub(crate) fn place(
    kernel: &Image,
    wanted: Option<Protocol>,
    ram: &GuestRam,
    layout: RamLayout,
) -> Result<Placed, BootError> {
    let source = &kernel.source;
    let name = source.name();
    let (elf, ways) = match &kernel.kind {
        Kind::Raw(raw) => return raw_bytes(source, raw, wanted, ram, layout),
        Kind::Elf { elf, ways } => {
            inside(name, &elf.segments, layout)?;
            for segment in &elf.segments {
                source.copy(segment.offset, segment.file_bytes, ram, segment.address)?;
                zero_tail(ram, segment)?;
            }
            (elf.clone(), ways.clone())
        }
        Kind::BzImage(container) => {
            let form = if wanted == Some(Protocol::Linux32) {
                Form::AsIs
            } else {
                kernel.form
            };
            let (Some(payload), Form::Auto) = (&container.payload, form) else {
                return as_is(source, container, wanted, ram, layout);
            };
            let (elf, pvh) = decompress(source, payload, ram, layout)?;
            // What the container holds has no way in, but the container has one.
            if elf.class == Class::Elf32 && pvh.is_none() {
                return as_is(source, container, wanted, ram, layout);
            }
            let ways = elf.ways(pvh, None);
            (elf, ways)
        }
    };
    let (protocol, entry) = elf.enter(name, &ways, wanted)?;
    Ok(Placed {
        protocol,
        entry,
        end: elf.end(),
    })
}

/// Loads a bzImage whole, to be entered by an entry of its own. The memory behind it that it will
/// decompress itself into is its own to clear.
fn as_is(
    source: &Source,
    container: &BzImage,
    wanted: Option<Protocol>,
    ram: &GuestRam,
    layout: RamLayout,
) -> Result<Placed, BootError> {
    let as_is = container.as_is(source)?;
    let (protocol, entry) = choose(source.name(), &as_is.ways(), wanted)?;
    let segment = as_is.segment;
    inside(source.name(), &[segment], layout)?;
    source.copy(segment.offset, segment.file_bytes, ram, segment.address)?;
    Ok(Placed {
        protocol,
        entry,
        end: segment.address + segment.bytes,
    })
}

/// Loads bytes that have one way in.
fn raw_bytes(
    source: &Source,
    raw: &Raw,
    wanted: Option<Protocol>,
    ram: &GuestRam,
    layout: RamLayout,
) -> Result<Placed, BootError> {
    let ways = [(raw.protocol, raw.entry)];
    let (protocol, entry) = choose(source.name(), &ways, wanted)?;
    let segment = raw.segment;
    inside(source.name(), &[segment], layout)?;
    source.copy(segment.offset, segment.file_bytes, ram, segment.address)?;
    zero_tail(ram, &segment)?;
    Ok(Placed {
        protocol,
        entry,
        end: segment.address + segment.bytes,
    })
}

/// That every segment lies in memory that is for kernels.
fn inside(name: &str, segments: &[Segment], layout: RamLayout) -> Result<(), BootError> {
    for segment in segments {
        let Segment { address, bytes, .. } = *segment;
        let end = address + bytes;
        let name = name.to_owned();
        if address < FIRST_MIB {
            let what = "the first MiB, where the boot tables are";
            return Err(BootError::Reserved {
                name,
                address,
                bytes,
                what,
            });
        }
        if address < RamLayout::HOLE_END && end > RamLayout::HOLE_START {
            let what = "the hole below 4 GiB, where devices are";
            return Err(BootError::Reserved {
                name,
                address,
                bytes,
                what,
            });
        }
        let ranges = layout.ranges();
        if !ranges
            .iter()
            .any(|(start, length)| address >= *start && end <= start + length)
        {
            let hole = if end > RamLayout::HOLE_END {
                RamLayout::HOLE_END - RamLayout::HOLE_START
            } else {
                0
            };
            let minimum_mib = (end - hole).div_ceil(MIB);
            let end = ranges.last().map_or(0, |(start, length)| start + length);
            return Err(BootError::Segment {
                name,
                address,
                bytes,
                end,
                minimum_mib,
            });
        }
    }
    Ok(())
}

/// Makes a segment's memory behind its file bytes zero.
fn zero_tail(ram: &GuestRam, segment: &Segment) -> Result<(), BootError> {
    let end = segment.address + segment.bytes;
    let mut address = segment.address + segment.file_bytes;
    let mut chunk = vec![0; CHUNK.min(index(end - address))];
    while address < end {
        let failed = |source| BootError::Ram { address, source };
        chunk.truncate(index(end - address));
        ram.read_slice(&mut chunk, GuestAddress(address))
            .map_err(failed)?;
        // As a whole: a byte at a time takes 40 times as long.
        let zeros = &ZEROS[..chunk.len()];
        if chunk != zeros {
            ram.write_slice(zeros, GuestAddress(address))
                .map_err(failed)?;
        }
        address += chunk.len() as u64;
    }
    Ok(())
}

/// Decompresses a payload into guest memory.
fn decompress(
    source: &Source,
    payload: &Payload,
    ram: &GuestRam,
    layout: RamLayout,
) -> Result<(Elf, Option<u32>), BootError> {
    let trailer = if payload.format.has_own_trailer() {
        4
    } else {
        0
    };
    let bytes = payload.range.end - payload.range.start - trailer;
    let packed = source.range(payload.range.start, bytes);
    let mut stream = Stream {
        name: source.name(),
        payload,
        read: 0,
        inner: None,
    };
    let reader = payload
        .format
        .reader(packed)
        .map_err(|error| stream.failed(&error))?;
    stream.inner = Some(reader);

    let mut head = stream.take(elf::FILE_HEADER)?;
    let head_bytes = Elf::head_bytes(stream.name, &head)?;
    head.extend(stream.take(head_bytes - elf::FILE_HEADER)?);
    let elf = Elf::parse(stream.name, &head)?;
    inside(stream.name, &elf.segments, layout)?;

    let mut sink = Sink::new(&elf, ram);
    sink.accept(0, &head)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let at = stream.read;
        let part = stream.fill(&mut chunk)?;
        if part.is_empty() {
            break;
        }
        sink.accept(at, part)?;
    }
    stream.complete(sink.needed)?;
    for segment in &elf.segments {
        zero_tail(ram, segment)?;
    }
    let pvh = sink
        .notes
        .iter()
        .find_map(|note| elf::pvh_entry(&note.bytes));
    Ok((elf, pvh))
}

/// The decompressed kernel, counted and bounded by its size trailer.
struct Stream<'a> {
    name: &'a str,
    payload: &'a Payload,
    read: u64,
    inner: Option<Box<dyn Read + 'a>>,
}

impl Stream<'_> {
    /// Reads into `chunk` until it is full or the stream ends.
    fn fill<'c>(&mut self, chunk: &'c mut [u8]) -> Result<&'c [u8], BootError> {
        let mut filled = 0;
        while let (Some(rest), Some(inner)) = (chunk.get_mut(filled..), self.inner.as_mut()) {
            // The xz decoder takes an empty buffer for the end of its block.
            if rest.is_empty() {
                break;
            }
            match inner.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        self.read += filled as u64;
        if self.read > self.payload.decompressed {
            let says = self.payload.decompressed;
            return Err(self.broken(format!(
                "it goes on after the {says} bytes its trailer says"
            )));
        }
        Ok(chunk.get(..filled).unwrap_or_default())
    }

    /// The next `bytes` bytes, which must be there.
    fn take(&mut self, bytes: u64) -> Result<Vec<u8>, BootError> {
        let mut out = vec![0; index(bytes)];
        let filled = self.fill(&mut out)?.len();
        if filled < out.len() {
            return Err(self.broken(format!("it ends inside the ELF headers, at {}", self.read)));
        }
        Ok(out)
    }

    /// That the stream held what its trailer and the ELF headers said.
    fn complete(&self, needed: u64) -> Result<(), BootError> {
        let (read, says) = (self.read, self.payload.decompressed);
        if read != says {
            return Err(self.broken(format!("it ends at byte {read}, its trailer says {says}")));
        }
        if read < needed {
            return Err(self.broken(format!("it ends at byte {read}, a segment at {needed}")));
        }
        Ok(())
    }

    fn failed(&self, error: &std::io::Error) -> BootError {
        self.broken(format!("after {} bytes: {error}", self.read))
    }

    fn broken(&self, reason: String) -> BootError {
        let format = self.payload.format.name();
        BootError::Payload {
            name: self.name.to_owned(),
            format,
            reason,
        }
    }
}

/// Where the parts of a kernel go as it streams by.
struct Sink<'a> {
    ram: &'a GuestRam,
    segments: &'a [Segment],
    notes: Vec<Note>,
    /// The byte just past the last one that is wanted.
    needed: u64,
}

struct Note {
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

impl<'a> Sink<'a> {
    fn new(elf: &'a Elf, ram: &'a GuestRam) -> Self {
        let notes = elf.notes.iter();
        let notes = notes.filter_map(|&(start, bytes)| {
            Some(Note {
                start,
                end: start.checked_add(bytes)?,
                bytes: Vec::new(),
            })
        });
        let needed = elf.segments.iter().map(|s| s.offset + s.file_bytes).max();
        Self {
            ram,
            segments: &elf.segments,
            notes: notes.collect(),
            needed: needed.unwrap_or_default(),
        }
    }

    /// Takes the bytes of `part`, which begins at offset `at`.
    fn accept(&mut self, at: u64, part: &[u8]) -> Result<(), BootError> {
        for segment in self.segments {
            let end = segment.offset + segment.file_bytes;
            if let Some((skipped, wanted)) = overlap(at, part, segment.offset, end) {
                let address = segment.address + skipped;
                self.ram
                    .write_slice(wanted, GuestAddress(address))
                    .map_err(|source| BootError::Ram { address, source })?;
            }
        }
        for note in &mut self.notes {
            if let Some((_, wanted)) = overlap(at, part, note.start, note.end) {
                note.bytes.extend_from_slice(wanted);
            }
        }
        Ok(())
    }
}

/// What of `part` (at offset `at`) lies in `start..end`, and how far behind `start` that begins.
fn overlap(at: u64, part: &[u8], start: u64, end: u64) -> Option<(u64, &[u8])> {
    let from = start.max(at);
    let to = end.min(at + part.len() as u64);
    if from >= to {
        return None;
    }
    Some((from - start, part.get(index(from - at)..index(to - at))?))
}
