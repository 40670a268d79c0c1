// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernel images and the tables a kernel reads, put into guest memory.
