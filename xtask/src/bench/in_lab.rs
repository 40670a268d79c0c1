// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bench's job in the lab, for what it says.

use anyhow::{Result, bail};

use crate::lab::qemu::{self, End, Job};
use crate::lab::setup::Files;

/// What the job said, or why it did not end well.
pub(super) fn attempt(files: &Files, job: &Job) -> Result<Result<String, String>> {
    let mut said = String::new();
    let end = qemu::run(files, job, &mut |bytes| {
        said.push_str(&String::from_utf8_lossy(bytes));
    })?;
    let why = match end {
        End::Status(0) => return Ok(Ok(said)),
        End::Signal(number) => bail!("ended by signal {number}"),
        End::Broken { reason, .. } => reason,
        End::Late => format!("not done within {} s", job.limit.as_secs()),
        End::Status(status) => format!("status {status}"),
    };
    Ok(Err(format!("the bench in the lab failed: {why}\n{said}")))
}

/// What the job said.
pub(super) fn run(files: &Files, job: &Job) -> Result<String> {
    attempt(files, job)?.map_err(anyhow::Error::msg)
}

/// The same, at the second try if need be.
pub(super) fn run_twice(files: &Files, job: &Job) -> Result<String> {
    match attempt(files, job)? {
        Ok(said) => Ok(said),
        Err(why) => {
            // Seen once, cause unknown: it may be the lab or the VMM, so it is always said.
            eprintln!("{why}\ntrying once more");
            run(files, job)
        }
    }
}
