// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Behaviour of the crate as its user sees it, on kernels built in code.

mod acpi;
mod as_is;
mod compressed;
mod fixture;
mod flat;
mod hostile;
mod images;
mod loading;
mod multiboot;
mod start;
