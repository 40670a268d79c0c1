// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The devices: 16550, IOAPIC, CMOS, i8042, ACPI registers, debug exit, POST port.
