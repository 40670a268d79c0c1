// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Block device (virtio 1.2, 5.2) on a disk image.
//!
//! # Barriers
//! One thread serves one request after the other, so at a flush every earlier write has been given to
//! the host; the flush is `fdatasync`. A driver that did not accept flushes gets one after each
//! write (5.2.6.2).
//!
//! # Errors
//! What the host refuses (EIO, and so on), and what lies outside the disk or is for no image, is
//! answered with IOERR; a request that is not known, or that the file system cannot do, with UNSUPP.
//!
//! # A full host
//! When the host has no room (ENOSPC, EDQUOT) the guest did nothing wrong and somebody can make room,
//! so the request is not answered: `DiskFull` is raised, and it is served anew, as a whole, after the
//! next resume. What of it was done before is done again, to the same effect. A file system that
//! reserves room when a write is taken says so at the write; one that finds out later says so at the
//! flush, and whether it still has what it could not place is known to it alone.
//!
//! # Discard
//! A discard punches a hole. Zeroes are a hole if the driver allows one, else a zeroed range;
//! where the file system has neither, zeroes are written. Memory per disk: one buffer of [`BUFFER`].

use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::chain::CHAIN_MAX;
use super::image::{DiskAccess, DiskImage, SECTOR};
use super::medium::is_full;
use super::registers::Kind;
use super::request::{Backend, Refusal, Request, Stop};

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Bytes of type, reserved field and sector.
const HEADER: u64 = 16;
/// Bytes of the answer to [`GET_ID`].
const ID: usize = 20;
/// Bytes that are copied at a time.
const BUFFER: usize = 256 << 10;
/// Bytes of one segment of data, at most.
const SEGMENT_MAX: u32 = 512 << 10;
/// Segments of data: a chain less header and status.
const SEGMENTS_MAX: u32 = 254;
const _: () = assert!(
    SEGMENTS_MAX as usize + 2 == CHAIN_MAX,
    "as the ring takes them"
);
/// Bytes of data of one request, at most: bounds how long a suspend waits.
const DATA_MAX: u64 = SEGMENT_MAX as u64 * SEGMENTS_MAX as u64;
/// Ranges in one discard.
const RANGES_MAX: u32 = 16;
/// Bytes that describe a range.
const RANGE: u64 = 16;
/// Sectors of one range.
const RANGE_SECTORS_MAX: u32 = 1 << 16;
const UNMAP: u32 = 1;

/// What a request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Why a request failed.
#[derive(Debug)]
enum Failure {
    /// It is answered so.
    Answer(Answer),
    /// The host refused it.
    Host(io::Error),
    /// It cannot be answered.
    Stop(Stop),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Reset | Stop::Refused(_) => Self::Stop(stop),
            // Data in memory that there is not; the answer itself may still find its place.
            Stop::Fault => Self::Answer(Answer::IoError),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Host(error.into())
    }
}

/// What serves a disk, whichever image its [drive](super::drive) has.
#[derive(Debug)]
pub(super) struct Disk {
    id: [u8; ID],
    buffer: Box<[u8]>,
    /// Whether an error of the host has been logged.
    said: bool,
}

/// A disk of that access, and of that size at first.
pub(super) fn kind(access: DiskAccess, sectors: u64) -> Kind {
    let changes = match access {
        DiskAccess::ReadOnly => F_RO,
        DiskAccess::ReadWrite => F_DISCARD | F_WRITE_ZEROES,
    };
    // struct virtio_blk_config, virtio 1.2, 5.2.4.
    let mut config = vec![0; 60];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(8, &SEGMENT_MAX.to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    put(20, &512_u32.to_le_bytes());
    if access == DiskAccess::ReadWrite {
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &RANGES_MAX.to_le_bytes());
        put(44, &8_u32.to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &RANGES_MAX.to_le_bytes());
        put(56, &[1]);
    }
    Kind {
        id: 2,
        features: F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | changes,
        config,
        queues: 1,
    }
}

impl Disk {
    /// `id`: what the guest reads as its serial number; the first 20 bytes count.
    pub(super) fn new(id: &str) -> Self {
        let mut bytes = [0; ID];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self {
            id: bytes,
            buffer: vec![0; BUFFER].into(),
            said: false,
        }
    }

    /// Does what is asked; bytes written to the data part.
    fn act(&mut self, request: &Request<'_>, image: Option<&DiskImage>) -> Result<u64, Failure> {
        let mut header = [0; 16];
        request.read(0, &mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        // The last writable byte is the answer's.
        let room = request.writable_bytes() - 1;
        let data = request.readable_bytes() - HEADER;
        let kind = u32::from_le_bytes([a, b, c, d]);
        if kind == GET_ID {
            // The drive's, whatever is in it.
            let id = self.id.get(..ID.min(usize::try_from(room).unwrap_or(ID)));
            let id = id.unwrap_or_default();
            request.write(0, id)?;
            return Ok(id.len() as u64);
        }
        let image = image.ok_or(Failure::Answer(Answer::IoError))?;
        let buffer = &mut self.buffer;
        let mut work = Work { image, buffer };
        match kind {
            IN => {
                work.load(request, sector, room)?;
                Ok(room)
            }
            OUT => work.store(request, sector, data).map(|()| 0),
            FLUSH => work.flush().map(|()| 0),
            DISCARD => work.ranges(request, data, Work::discard).map(|()| 0),
            WRITE_ZEROES => work.ranges(request, data, Work::zero).map(|()| 0),
            _ => Err(Failure::Answer(Answer::Unsupported)),
        }
    }

    /// Says that the host failed; once, since a guest can have it fail as often as it likes.
    fn note(&mut self, image: &DiskImage, error: &io::Error) {
        if !std::mem::replace(&mut self.said, true) {
            let path = image.path().display();
            log::warn!(target: "device.virtio", "disk {path}: the guest is told of an I/O error: {error}");
        }
    }
}

/// A request for bytes, on the image that it is for.
struct Work<'a> {
    image: &'a DiskImage,
    buffer: &'a mut [u8],
}

impl Work<'_> {
    /// Where `bytes` bytes from `sector` on begin in the image, if they are in it.
    fn place(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(bytes / SECTOR);
        let is_inside = end.is_some_and(|end| end <= self.image.sectors);
        if is_inside && bytes.is_multiple_of(SECTOR) && bytes <= DATA_MAX {
            Ok(sector * SECTOR)
        } else {
            Err(Failure::Answer(Answer::IoError))
        }
    }

    fn must_be_writable(&self) -> Result<(), Failure> {
        match self.image.access {
            DiskAccess::ReadWrite => Ok(()),
            DiskAccess::ReadOnly => Err(Failure::Answer(Answer::IoError)),
        }
    }

    fn load(&mut self, request: &Request<'_>, sector: u64, bytes: u64) -> Result<(), Failure> {
        let from = self.place(sector, bytes)?;
        for (at, length) in pieces(bytes) {
            let piece = &mut self.buffer[..length];
            self.image.file.read(piece, from + at)?;
            request.write(at, piece)?;
        }
        Ok(())
    }

    fn store(&mut self, request: &Request<'_>, sector: u64, bytes: u64) -> Result<(), Failure> {
        self.must_be_writable()?;
        let to = self.place(sector, bytes)?;
        for (at, length) in pieces(bytes) {
            let piece = &mut self.buffer[..length];
            request.read(HEADER + at, piece)?;
            self.image.file.write(piece, to + at)?;
        }
        self.write_through(request)
    }

    fn flush(&self) -> Result<(), Failure> {
        match self.image.access {
            DiskAccess::ReadWrite => Ok(self.image.file.sync()?),
            DiskAccess::ReadOnly => Ok(()),
        }
    }

    fn write_through(&self, request: &Request<'_>) -> Result<(), Failure> {
        if request.has(F_FLUSH) {
            return Ok(());
        }
        self.flush()
    }

    /// Calls `act` with place, length and flags of each range that the request names.
    fn ranges(
        &mut self,
        request: &Request<'_>,
        data: u64,
        act: fn(&mut Self, u64, u64, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.must_be_writable()?;
        if data == 0 || !data.is_multiple_of(RANGE) || data / RANGE > RANGES_MAX.into() {
            return Err(Failure::Answer(Answer::IoError));
        }
        for n in 0..data / RANGE {
            let mut range = [0; 16];
            request.read(HEADER + n * RANGE, &mut range)?;
            let [sector @ .., a, b, c, d, e, f, g, h] = range;
            let sectors = u32::from_le_bytes([a, b, c, d]);
            if sectors > RANGE_SECTORS_MAX {
                return Err(Failure::Answer(Answer::IoError));
            }
            let bytes = u64::from(sectors) * SECTOR;
            let at = self.place(u64::from_le_bytes(sector), bytes)?;
            if bytes > 0 {
                act(self, at, bytes, u32::from_le_bytes([e, f, g, h]))?;
            }
        }
        self.write_through(request)
    }

    fn discard(&mut self, at: u64, bytes: u64, flags: u32) -> Result<(), Failure> {
        if flags != 0 {
            return Err(Failure::Answer(Answer::Unsupported));
        }
        match self.punch(at, bytes) {
            Err(Errno::OPNOTSUPP) => Err(Failure::Answer(Answer::Unsupported)),
            result => Ok(result?),
        }
    }

    fn zero(&mut self, at: u64, bytes: u64, flags: u32) -> Result<(), Failure> {
        if flags & !UNMAP != 0 {
            return Err(Failure::Answer(Answer::Unsupported));
        }
        let done = if flags & UNMAP != 0 {
            self.punch(at, bytes)
        } else {
            let how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            self.image.file.allocate(how, at, bytes)
        };
        match done {
            Err(Errno::OPNOTSUPP) => {
                self.buffer.fill(0);
                for (offset, length) in pieces(bytes) {
                    let piece = &self.buffer[..length];
                    self.image.file.write(piece, at + offset)?;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn punch(&self, at: u64, bytes: u64) -> Result<(), Errno> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.image.file.allocate(how, at, bytes)
    }
}

/// Why the host has no room.
fn refusal(image: &DiskImage, error: &io::Error) -> Refusal {
    let path = image.path().display();
    let free = match image.file.free_bytes() {
        Some(bytes) => format!("{bytes} bytes are free on its file system"),
        None => "how much is free is not known".to_owned(),
    };
    Refusal {
        id: "DiskFull",
        message: format!("{path}: {error}, {free}: make space, then resume"),
    }
}

impl Backend for Disk {
    fn serve(&mut self, request: &Request<'_>) -> Result<u32, Stop> {
        // Without a place for the answer there is none.
        let last = request.writable_bytes().checked_sub(1).ok_or(Stop::Fault)?;
        let image = request.image();
        let image = image.as_deref();
        let done = if request.readable_bytes() < HEADER {
            Err(Failure::Answer(Answer::IoError))
        } else {
            self.act(request, image)
        };
        let (answer, written) = match done {
            Ok(written) => (Answer::Ok, written),
            Err(Failure::Answer(answer)) => (answer, 0),
            Err(Failure::Host(error)) if is_full(&error) && request.can_wait() => {
                let refusal = image.map(|image| refusal(image, &error));
                return Err(refusal.map_or(Stop::Fault, Stop::Refused));
            }
            Err(Failure::Host(error)) => {
                if let Some(image) = image {
                    self.note(image, &error);
                }
                (Answer::IoError, 0)
            }
            Err(Failure::Stop(stop)) => return Err(stop),
        };
        request.write(last, &[answer as u8])?;
        // The count is of bytes from the first on (2.7.8.2): the answer counts if nothing is missing.
        let bytes = if written == last {
            written + 1
        } else {
            written
        };
        Ok(u32::try_from(bytes).unwrap_or(0))
    }
}

/// `bytes` in pieces that fit the buffer, as (offset, length).
fn pieces(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..bytes).step_by(BUFFER).map(move |at| {
        let length = usize::try_from(bytes - at).unwrap_or(BUFFER).min(BUFFER);
        (at, length)
    })
}
