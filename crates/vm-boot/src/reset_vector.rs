// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What little BIOS there is: the code at f000:fff0, by which a guest restarts the machine.
//!
//! Linux on a hardware-reduced ACPI machine asks EFI to restart it; where there is no EFI it does
//! not fall back to the ACPI reset register but goes to real mode and jumps to f000:fff0, as it would
//! to a BIOS (`machine_real_restart` in its x86 code). So that code writes the reset register.

use crate::Platform;

/// Guest address of f000:fff0.
pub(crate) const ADDRESS: u64 = 0xf_fff0;

/// 16-bit code: `mov dx, port; mov al, value; out dx, al; 1: cli; hlt; jmp 1b`.
pub(crate) fn code(platform: &Platform) -> [u8; 10] {
    let [low, high] = platform.reset_port.to_le_bytes();
    [
        0xba,
        low,
        high,
        0xb0,
        platform.reset_value,
        0xee,
        0xfa,
        0xf4,
        0xeb,
        0xfc,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{ACPI, FIRST_MIB};

    #[test]
    fn the_code_lies_in_the_bios_area_and_writes_the_reset_register() {
        let code = code(&Platform::default());
        assert!(ADDRESS > ACPI && ADDRESS + code.len() as u64 <= FIRST_MIB);
        assert_eq!(code[..6], [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee]);
    }
}
