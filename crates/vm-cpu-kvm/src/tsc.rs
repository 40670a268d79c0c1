// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's TSC, and what a guest's makes of it.
//!
//! A guest's TSC is the host's times a factor, plus an offset. The factor is a fixed-point number of
//! the processor's: 48 bits behind the point on Intel's (SDM vol. 3, section 26.3, TSC multiplier),
//! 32 on AMD's (APM vol. 2, section 15.30.5, TSC ratio). So it can be computed to the last bit here.
// UNSAFETY: an intrinsic of one instruction that touches no memory.
#![expect(unsafe_code, reason = "RDTSC is an unsafe intrinsic")]

use kvm_bindings::kvm_cpuid_entry2;

/// TSC frequencies closer than this are the same (Linux, `tsc_tolerance_ppm`).
const TOLERANCE_PPM: u64 = 250;

/// EBX of CPUID leaf 0: "Auth" of AMD, "Hygo" of Hygon, which has AMD's virtualisation.
const OF_AMD: [u32; 2] = [0x6874_7541, 0x6f67_7948];

/// The host's TSC now.
pub(crate) fn host() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether a TSC of `khz` can be had from one of `host_khz` as it is.
pub(crate) fn same(khz: u32, host_khz: u32) -> bool {
    u64::from(host_khz.abs_diff(khz)) * 1_000_000 <= u64::from(host_khz) * TOLERANCE_PPM
}

/// Bits behind the point of the factor, by the host's processor.
pub(crate) fn point(cpuid: &[kvm_cpuid_entry2]) -> u32 {
    let vendor = cpuid.iter().find(|leaf| leaf.function == 0);
    let amd = vendor.is_some_and(|leaf| OF_AMD.contains(&leaf.ebx));
    if amd { 32 } else { 48 }
}

/// The factor between the host's TSC and a guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale {
    factor: u128,
    point: u32,
}

impl Scale {
    /// The guest's TSC is as fast as the host's.
    pub(crate) const ONE: Self = Self {
        factor: 1,
        point: 0,
    };

    /// What KVM makes of a frequency that is set.
    pub(crate) fn new(khz: u32, host_khz: u32, point: u32) -> Self {
        if khz == 0 || host_khz == 0 || same(khz, host_khz) {
            return Self::ONE;
        }
        Self {
            factor: (u128::from(khz) << point) / u128::from(host_khz),
            point,
        }
    }

    /// The guest's ticks for so many of the host's.
    #[expect(clippy::cast_possible_truncation, reason = "a TSC wraps")]
    pub(crate) fn of(self, ticks: u64) -> u64 {
        (u128::from(ticks).wrapping_mul(self.factor) >> self.point) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_within_the_tolerance_is_not_scaled() {
        assert_eq!(Scale::new(2_000_500, 2_000_000, 48), Scale::ONE);
        assert_ne!(Scale::new(2_000_501, 2_000_000, 48), Scale::ONE);
        assert_eq!(Scale::ONE.of(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_scaled_tsc_counts_as_the_processor_does() {
        let half = Scale::new(1_000_000, 2_000_000, 32);
        assert_eq!(half.of(7), 3);
        // 3 GHz from 2.6 GHz: the factor is cut off at the last bit, so the product is just below.
        let scale = Scale::new(3_000_000, 2_600_000, 32);
        assert_eq!(scale.factor, (3_000_000 << 32) / 2_600_000);
        assert_eq!(scale.of(2_600_000), 2_999_999);
    }

    #[test]
    fn a_scaled_tsc_wraps() {
        assert_eq!(
            Scale::new(4_000_000, 1_000_000, 48).of(1 << 62),
            0,
            "4 << 62"
        );
    }

    #[test]
    fn the_point_is_where_the_vendor_has_it() {
        let leaf = |ebx| {
            [kvm_cpuid_entry2 {
                ebx,
                ..kvm_cpuid_entry2::default()
            }]
        };
        assert_eq!(point(&leaf(u32::from_le_bytes(*b"Auth"))), 32);
        assert_eq!(point(&leaf(u32::from_le_bytes(*b"Hygo"))), 32);
        assert_eq!(point(&leaf(u32::from_le_bytes(*b"Genu"))), 48);
        assert_eq!(point(&[]), 48);
    }
}
