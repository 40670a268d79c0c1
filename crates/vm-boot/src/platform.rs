// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The addresses, ports and lines of the machine, in one place.

/// What the tables tell the guest about the machine. The devices must be at the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// Guest address of the I/O APIC.
    pub ioapic_addr: u32,
    /// Guest address of each vCPU's local APIC.
    pub lapic_addr: u32,
    /// First of the eight I/O ports of the serial port.
    pub com1_port: u16,
    /// The serial port's interrupt line at the I/O APIC, edge-triggered, active high.
    pub com1_irq: u32,
    /// I/O port of the ACPI sleep control register, 8 bits (ACPI 6.5, 4.8.3.7).
    pub sleep_control_port: u16,
    /// I/O port of the ACPI sleep status register, 8 bits.
    pub sleep_status_port: u16,
    /// Sleep type that powers off: `SLP_TYPx` of `\_S5`, 0..=7.
    pub s5_sleep_type: u8,
    /// I/O port of the ACPI reset register, 8 bits (ACPI 6.5, 4.8.3.6).
    pub reset_port: u16,
    /// What the guest writes there to reset.
    pub reset_value: u8,
    /// I/O port of the test device that ends the VM with a status; not described to the guest.
    pub debug_exit_port: Option<u16>,
    /// First of the two I/O ports of the real-time clock.
    pub rtc_port: u16,
    /// First I/O port of the event device's registers, nine in all.
    pub event_port: u16,
    /// The event device's interrupt line at the I/O APIC, edge-triggered, active high.
    pub event_irq: u32,
    /// Where virtio-mmio devices are.
    pub virtio: VirtioWindows,
}

/// Equal windows of virtio-mmio devices, one behind the other, each with the next interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioWindows {
    /// Guest address of the first.
    pub first_addr: u32,
    /// Interrupt line of the first at the I/O APIC, edge-triggered, active high.
    pub first_irq: u32,
    /// How many there are, at most [`VirtioWindows::MAX`]; more are left out.
    pub count: u32,
}

/// Where one virtio-mmio device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioWindow {
    /// Guest address of its registers.
    pub addr: u32,
    /// Its interrupt line.
    pub irq: u32,
}

impl VirtioWindows {
    /// Bytes of each window.
    pub const BYTES: u32 = 0x1000;
    /// The most windows that are described: as many as the I/O APIC has lines for.
    pub const MAX: u32 = 16;

    /// The windows, ascending.
    pub fn iter(self) -> impl Iterator<Item = VirtioWindow> {
        (0..self.count.min(Self::MAX)).map(move |n| VirtioWindow {
            addr: self.first_addr.saturating_add(n * Self::BYTES),
            irq: self.first_irq.saturating_add(n),
        })
    }
}

impl Default for VirtioWindows {
    /// None; those that are added begin at 0xd0000000 with line 5.
    fn default() -> Self {
        Self {
            first_addr: 0xd000_0000,
            first_irq: 5,
            count: 0,
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            ioapic_addr: 0xfec0_0000,
            lapic_addr: 0xfee0_0000,
            com1_port: 0x3f8,
            com1_irq: 4,
            sleep_control_port: 0x600,
            sleep_status_port: 0x601,
            s5_sleep_type: 5,
            reset_port: 0x602,
            reset_value: 1,
            debug_exit_port: None,
            rtc_port: 0x70,
            event_port: 0x610,
            event_irq: 21,
            virtio: VirtioWindows::default(),
        }
    }
}
