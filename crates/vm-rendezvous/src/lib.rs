// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bring all emulation threads of a virtual machine together and run one callback in a stated order.
