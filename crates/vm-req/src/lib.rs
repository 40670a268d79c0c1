// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Run a closure on a given emulation thread and carry its reply back.
