// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Failed ioctls as `CpuError`.

use vm_cpu::CpuError;

/// `op` failed; `error` is what kvm-ioctls or this crate's own ioctls gave.
pub(crate) fn host_error(
    op: &'static str,
    vcpu: Option<u32>,
    error: impl Into<std::io::Error>,
) -> CpuError {
    CpuError::Host {
        op,
        vcpu,
        source: error.into(),
    }
}

/// The field `what` does not fit.
pub(crate) fn invalid<T>(what: &str, why: impl Into<String>) -> Result<T, CpuError> {
    Err(CpuError::Invalid {
        what: what.into(),
        why: why.into(),
    })
}
