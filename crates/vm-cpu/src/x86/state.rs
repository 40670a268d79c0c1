// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Everything a guest can see of one vCPU.

use serde::{Deserialize, Serialize};

use super::{Gprs, SystemRegs};

/// Everything a guest can see of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers.
    pub gprs: Gprs,
    /// System registers.
    pub system: SystemRegs,
}
