// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The life of a virtual machine as data: states, one table of legal moves, transitions, observers.
