// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs the program with a guest of a few instructions as its kernel, which says a number through the
//! debug-exit port.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

/// Where a guest that is given with [`FLAT`] lies and begins.
pub(crate) const ADDRESS: u32 = 0x20_0000;
pub(crate) const FLAT: [&str; 4] = ["--kernel-form", "flat", "--load-address", "0x200000"];

/// Ends the program if the test does not see its end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless its test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs this image with these arguments; the guest's word and the VM's events.
pub(crate) fn run(image: &[u8], args: &[&str]) -> (i32, String) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(["run", "--memory", "8M", "--json", "--debug-exit", "0xf4"]);
    command.arg("--kernel").arg(file.path()).args(args);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut events = String::new();
    let mut stderr = program.0.stderr.take().unwrap();
    stderr.read_to_string(&mut events).unwrap();
    let status = program.0.wait().unwrap().code().unwrap();
    assert_eq!(status & 1, 1, "no debug exit: {events}");
    (status >> 1, events)
}
