// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bench's job in the lab, for what it says.

use anyhow::{Result, bail};

use crate::lab::qemu::{self, End, Job};
use crate::lab::setup::Files;

/// What the job said.
pub(super) fn run(files: &Files, job: &Job) -> Result<String> {
    let mut said = String::new();
    let end = qemu::run(files, job, &mut |bytes| {
        said.push_str(&String::from_utf8_lossy(bytes));
    })?;
    let why = match end {
        End::Status(0) => return Ok(said),
        End::Signal(number) => bail!("ended by signal {number}"),
        End::Broken { reason, .. } => reason,
        End::Late => format!("not done within {} s", job.limit.as_secs()),
        End::Status(status) => format!("status {status}"),
    };
    bail!("the bench in the lab failed: {why}\n{said}")
}
