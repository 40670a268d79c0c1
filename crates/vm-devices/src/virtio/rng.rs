// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entropy device (virtio 1.2, 5.4): fills what it is given from the host's random numbers.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::registers::Kind;
use super::request::{Backend, Request, Stop};

/// Bytes that one request is given, at most; a driver takes fewer than it asked for (5.4.6.1).
const MOST: usize = 4096;

/// The host's random numbers.
#[derive(Debug)]
pub(super) struct Entropy;

impl Entropy {
    pub(super) fn kind() -> Kind {
        Kind {
            id: 4,
            features: 0,
            config: Vec::new(),
            queues: 1,
        }
    }
}

impl Backend for Entropy {
    fn serve(&mut self, request: &Request<'_>) -> Result<u32, Stop> {
        let wanted = usize::try_from(request.writable_bytes()).unwrap_or(MOST);
        let mut bytes = [0; MOST];
        let filled = random(&mut bytes[..wanted.min(MOST)]);
        request.write(0, &bytes[..filled])?;
        u32::try_from(filled).map_err(|_| Stop::Fault)
    }
}

/// Fills `bytes`; how many it could. In `fuzz/` always with the same, so that an input does the same.
fn random(bytes: &mut [u8]) -> usize {
    if cfg!(fuzzing) {
        bytes.fill(0xa5);
        return bytes.len();
    }
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => {
                log::warn!(target: "device.virtio", "no random numbers from the host: {error}");
                break;
            }
        }
    }
    filled
}
