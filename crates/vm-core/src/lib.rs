// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtual machine: states, requests, rendezvous and devices composed around an EMT loop.
