// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether a test can run at all.
#![expect(clippy::print_stdout, reason = "a test says why it is skipped")]

use std::fs;

/// Whether there is KVM; says so if not.
pub(crate) fn kvm() -> bool {
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => true,
        Err(e) => {
            println!("skipped: /dev/kvm: {e}");
            false
        }
    }
}
