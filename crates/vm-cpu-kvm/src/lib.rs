// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM as a CPU backend: the only crate with ioctls, signals and /dev/kvm.
