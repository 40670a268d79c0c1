// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration tree of a virtual machine: TOML, overrides, typed reading, unknown keys refused.
