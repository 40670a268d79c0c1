// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bench's job in the lab, for what it says.

use anyhow::{Result, bail};

use crate::lab::qemu::{self, End, Job};
use crate::lab::setup::Files;

/// How often a job is tried whose lab falls silent: a disk's in one of four runs.
const TRIES: u32 = 5;

/// What the job said. A lab that falls silent, for the reason that stands at
/// [`COUNTED_CPU`](qemu::COUNTED_CPU), is booted again, and that is said: no figure of it counts.
pub(super) fn run(files: &Files, job: &Job) -> Result<String> {
    let (mut end, mut said) = attempt(files, job)?;
    for _ in 1..TRIES {
        let End::Late = end else { break };
        eprintln!("lab: silent, or not done in time; trying once more. It said:\n{said}");
        (end, said) = attempt(files, job)?;
    }
    let why = match end {
        End::Status(0) => return Ok(said),
        End::Signal(number) => bail!("ended by signal {number}"),
        End::Broken { reason, .. } => reason,
        End::Late => format!("silent, or not done within {} s", job.limit.as_secs()),
        End::Status(status) => format!("status {status}"),
    };
    bail!("the bench in the lab failed: {why}\n{said}")
}

fn attempt(files: &Files, job: &Job) -> Result<(End, String)> {
    let mut said = String::new();
    let end = qemu::run(files, job, &mut |bytes| {
        said.push_str(&String::from_utf8_lossy(bytes));
    })?;
    Ok((end, said))
}
