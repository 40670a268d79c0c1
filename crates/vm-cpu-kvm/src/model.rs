// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KVM's CPUID, masked to a baseline, and less features that were taken away.
//!
//! Of the registers that hold feature bits, a guest sees the baseline's bits and nothing else; leaves
//! that describe features no baseline has are left out. Who made the processor, its family and name,
//! its caches and its widths of addresses stay the host's.

use kvm_bindings::kvm_cpuid_entry2;
use vm_cpu::{Baseline, CpuError, CpuModel, CpuSpec, CpuidRegister, Feature, Features};

/// The last basic leaf, that of XSAVE; behind it are leaves of features.
const LAST_BASIC: u32 = 0xd;
/// The last extended leaf, that of AMD's topology.
const LAST_EXTENDED: u32 = 0x8000_001e;
/// XCR0 of AVX: x87, SSE and AVX.
const XCR0: u32 = 7;
/// Where the AVX part begins in an XSAVE image, and its length (Intel SDM vol. 1, 13.4 and 13.5.3).
const AVX_OFFSET: u32 = 576;
const AVX_BYTES: u32 = 256;

/// Names of what a baseline needs and KVM does not offer.
pub(crate) fn lacks(supported: &[kvm_cpuid_entry2], baseline: Baseline) -> Vec<&'static str> {
    let lacking = baseline.features().filter(|f| !has(supported, f));
    lacking.map(|feature| feature.name).collect()
}

/// The features that KVM offers.
pub(crate) fn offered(supported: &[kvm_cpuid_entry2]) -> Features {
    Features::those(|feature| has(supported, feature))
}

fn has(supported: &[kvm_cpuid_entry2], feature: &Feature) -> bool {
    let mut entries = supported.iter();
    let entry = entries.find(|e| (e.function, e.index) == (feature.leaf, 0));
    entry.is_some_and(|e| register(e, feature.register) & feature.mask() != 0)
}

/// What KVM offers, masked to `model`.
///
/// # Errors
/// [`CpuError::Unavailable`] with the names of what the host lacks.
pub(crate) fn mask(
    supported: &[kvm_cpuid_entry2],
    model: CpuModel,
) -> Result<Vec<kvm_cpuid_entry2>, CpuError> {
    let CpuModel::Baseline(baseline) = model else {
        return Ok(supported.to_vec());
    };
    let lacks = lacks(supported, baseline);
    if !lacks.is_empty() {
        return Err(CpuError::Unavailable {
            what: format!("CPU model {model}"),
            hint: format!(
                "this host lacks {}: take a smaller baseline (\"vmm host\" shows which fit), or host",
                lacks.join(", ")
            ),
        });
    }
    let mut entries = supported.to_vec();
    entries.retain(|entry| known(entry, baseline));
    for entry in &mut entries {
        mask_entry(entry, baseline);
    }
    Ok(entries)
}

/// Whether a leaf says something about a CPU that has only a baseline's features.
fn known(entry: &kvm_cpuid_entry2, baseline: Baseline) -> bool {
    match entry.function {
        // Parts of XSAVE: the two that describe it, and AVX.
        0xd => baseline >= Baseline::V3 && entry.index <= 2,
        // MONITOR, performance counters.
        0x5 | 0xa => false,
        0x7 => entry.index == 0,
        // The hypervisor's leaves.
        0x4000_0000..=0x4fff_ffff => true,
        // SVM, and its encryption further on.
        0x8000_000a => false,
        0x8000_0000..=0x8fff_ffff => entry.function <= LAST_EXTENDED,
        function => function <= LAST_BASIC,
    }
}

/// Clears the bits of these features; last of all that is done to a vCPU's CPUID.
pub(crate) fn take_away(entries: &mut [kvm_cpuid_entry2], without: Features) {
    let clear = |entries: &mut [kvm_cpuid_entry2], leaf, register, mask: u32| {
        let leaves = entries
            .iter_mut()
            .filter(|e| (e.function, e.index) == (leaf, 0));
        leaves.for_each(|entry| *register_mut(entry, register) &= !mask);
    };
    for feature in without.iter() {
        clear(entries, feature.leaf, feature.register, feature.mask());
        if (feature.leaf, feature.register) == (1, CpuidRegister::Edx) {
            let repeated = feature.mask() & REPEATED;
            clear(entries, 0x8000_0001, CpuidRegister::Edx, repeated);
        }
    }
}

fn mask_entry(entry: &mut kvm_cpuid_entry2, baseline: Baseline) {
    use CpuidRegister::{Eax, Ebx, Ecx, Edx};
    let allowed = |leaf: u32, register: CpuidRegister| {
        let all = baseline.features().chain(Baseline::system());
        all.filter(|f| f.leaf == leaf && f.register == register)
            .fold(0, |mask, f| mask | f.mask())
    };
    match (entry.function, entry.index) {
        (0, _) => entry.eax = entry.eax.min(LAST_BASIC),
        (1, _) => {
            entry.ecx &= allowed(1, Ecx);
            entry.edx &= allowed(1, Edx);
        }
        (6, _) => {
            entry.eax &= allowed(6, Eax);
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        (7, _) => {
            entry.ebx &= allowed(7, Ebx);
            (entry.eax, entry.ecx, entry.edx) = (0, 0, 0);
        }
        (0xd, 0) => {
            let bytes = AVX_OFFSET + AVX_BYTES;
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (XCR0, bytes, bytes, 0);
        }
        (0xd, 1) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (0xd, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (AVX_BYTES, AVX_OFFSET, 0, 0);
        }
        (0x8000_0000, _) => entry.eax = entry.eax.min(LAST_EXTENDED),
        (0x8000_0001, _) => {
            // AMD repeats bits of leaf 1 here (APM vol. 3, appendix E).
            let repeated = if entry.edx & 1 == 0 { 0 } else { REPEATED };
            entry.ecx &= allowed(0x8000_0001, Ecx);
            entry.edx &= allowed(0x8000_0001, Edx) | (repeated & allowed(1, Edx));
        }
        (0x8000_0007, _) => {
            entry.edx &= allowed(0x8000_0007, Edx);
            (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0);
        }
        (0x8000_0008, _) => entry.ebx = 0,
        _ => {}
    }
}

/// That KVM shows a guest of `cpu` no feature that it was not told to show. A KVM that runs guest code without
/// being able to intercept CPUID answers with the processor's own leaves; a guest that trusted them
/// would not run elsewhere.
///
/// # Errors
/// [`CpuError::Unavailable`], if it shows more.
pub(crate) fn kept(
    told: &[kvm_cpuid_entry2],
    shown: &[kvm_cpuid_entry2],
    cpu: CpuSpec,
) -> Result<(), CpuError> {
    let more = shown.iter().any(|shown| {
        let same = |e: &&kvm_cpuid_entry2| (e.function, e.index) == (shown.function, shown.index);
        let told = told.iter().find(same).copied().unwrap_or_default();
        match shown.function {
            1 => shown.ecx & !told.ecx & !OSXSAVE | shown.edx & !told.edx & !APIC != 0,
            7 => shown.ebx & !told.ebx | shown.ecx & !told.ecx | shown.edx & !told.edx != 0,
            0x4000_0001 => shown.eax & !told.eax != 0,
            0x8000_0001 => shown.ecx & !told.ecx | shown.edx & !told.edx & !APIC != 0,
            _ => false,
        }
    });
    if more {
        return Err(CpuError::Unavailable {
            what: format!("CPU model {cpu}"),
            hint: "this host's KVM shows guests the processor's own features whatever it is told: \
                   take host"
                .into(),
        });
    }
    Ok(())
}

/// Bits that follow the vCPU's state: CR4.OSXSAVE (leaf 1 ECX) and the APIC's enable bit (leaf 1 EDX
/// and its copy).
const OSXSAVE: u32 = 1 << 27;
const APIC: u32 = 1 << 9;

/// Bits of leaf 1 EDX that AMD's leaf 0x80000001 EDX repeats: 0 to 9, 12 to 17, 23 and 24.
const REPEATED: u32 = 0x0183_f3ff;

fn register(entry: &kvm_cpuid_entry2, register: CpuidRegister) -> u32 {
    match register {
        CpuidRegister::Eax => entry.eax,
        CpuidRegister::Ebx => entry.ebx,
        CpuidRegister::Ecx => entry.ecx,
        CpuidRegister::Edx => entry.edx,
    }
}

fn register_mut(entry: &mut kvm_cpuid_entry2, register: CpuidRegister) -> &mut u32 {
    match register {
        CpuidRegister::Eax => &mut entry.eax,
        CpuidRegister::Ebx => &mut entry.ebx,
        CpuidRegister::Ecx => &mut entry.ecx,
        CpuidRegister::Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..kvm_cpuid_entry2::default()
        }
    }

    /// A host that has every bit there can be, in more leaves than a baseline knows.
    fn everything() -> Vec<kvm_cpuid_entry2> {
        let basic = (0..=0x24).map(|function| leaf(function, 0));
        let parts = [leaf(7, 1), leaf(0xd, 1), leaf(0xd, 2), leaf(0xd, 5)];
        let kvm = (0x4000_0000..=0x4000_0001).map(|function| leaf(function, 0));
        let extended = (0x8000_0000..=0x8000_0026).map(|function| leaf(function, 0));
        basic.chain(parts).chain(kvm).chain(extended).collect()
    }

    fn seen(model: Baseline) -> Vec<kvm_cpuid_entry2> {
        mask(&everything(), CpuModel::Baseline(model)).expect("it has everything")
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        let mut entries = entries.iter();
        entries
            .find(|e| e.function == function && e.index == index)
            .copied()
    }

    #[test]
    fn the_host_model_is_all_that_the_host_has() {
        assert_eq!(
            mask(&everything(), CpuModel::Host).expect("always"),
            everything()
        );
    }

    #[test]
    fn a_baseline_is_the_same_whatever_more_the_host_has() {
        for baseline in Baseline::ALL {
            // A host with exactly the baseline, and KVM's own.
            let bare: Vec<_> = seen(baseline);
            assert!(lacks(&bare, baseline).is_empty());
            let again = mask(&bare, CpuModel::Baseline(baseline)).expect("it is one");
            assert_eq!(again, bare);
            let higher = Baseline::ALL.into_iter().filter(|other| *other > baseline);
            for other in higher {
                assert!(!lacks(&bare, other).is_empty(), "{}", other.name());
            }
        }
    }

    #[test]
    fn v2_has_sse4_and_neither_avx_nor_leaf_7_nor_xsave() {
        let entries = seen(Baseline::V2);
        let one = find(&entries, 1, 0).expect("leaf 1");
        assert_eq!(
            one.ecx & (1 << 19 | 1 << 20 | 1 << 23),
            1 << 19 | 1 << 20 | 1 << 23
        );
        assert_eq!(
            one.ecx & (1 << 12 | 1 << 25 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 5),
            0
        );
        let seven = find(&entries, 7, 0).expect("leaf 7");
        assert_eq!((seven.eax, seven.ebx, seven.ecx, seven.edx), (0, 0, 0, 0));
        assert!(find(&entries, 0xd, 0).is_none());
        assert_eq!(find(&entries, 0, 0).expect("leaf 0").eax, 0xd);
    }

    #[test]
    fn v3_has_avx2_with_the_xsave_image_of_avx() {
        let entries = seen(Baseline::V3);
        let seven = find(&entries, 7, 0).expect("leaf 7");
        assert_eq!(seven.ebx, 1 << 3 | 1 << 5 | 1 << 8);
        let xsave = find(&entries, 0xd, 0).expect("leaf 0xd");
        assert_eq!((xsave.eax, xsave.ebx, xsave.ecx), (7, 832, 832));
        let avx = find(&entries, 0xd, 2).expect("its part");
        assert_eq!((avx.eax, avx.ebx), (256, 576));
        assert!(find(&entries, 0xd, 5).is_none(), "no AVX-512");
    }

    #[test]
    fn leaves_of_other_features_are_gone_and_the_hypervisors_stay() {
        let entries = seen(Baseline::V3);
        for gone in [5, 0x12, 0x14, 0x1f, 0x8000_000a, 0x8000_001f, 0x8000_0026] {
            assert!(find(&entries, gone, 0).is_none(), "{gone:#x}");
        }
        assert!(find(&entries, 7, 1).is_none());
        for kept in [0, 1, 4, 0xb, 0x4000_0001, 0x8000_0008, 0x8000_001e] {
            assert!(find(&entries, kept, 0).is_some(), "{kept:#x}");
        }
        let extended = find(&entries, 0x8000_0001, 0).expect("leaf 0x80000001");
        assert_eq!(extended.edx & (1 << 26 | 1 << 27 | 1 << 31), 0);
        assert_ne!(extended.edx & (1 << 29), 0, "64-bit mode");
        assert_ne!(extended.edx & (1 << 24), 0, "AMD's copy of FXSR");
    }

    #[test]
    fn a_kvm_that_shows_more_than_it_was_told_is_found_out() {
        let model = CpuModel::Baseline(Baseline::V2).into();
        let told = seen(Baseline::V2);
        assert!(kept(&told, &told, model).is_ok());
        for (function, more) in [(1, 1 << 28), (7, 1 << 5), (0x8000_0001, 1 << 6)] {
            let mut shown = told.clone();
            for entry in shown.iter_mut().filter(|e| e.function == function) {
                (entry.ebx, entry.ecx) = (entry.ebx | more, entry.ecx | more);
            }
            let error = kept(&told, &shown, model).expect_err("it shows more");
            assert!(error.to_string().contains("whatever it is told"), "{error}");
        }
        // What follows the vCPU's state is no feature that is shown on top.
        let mut running = told.clone();
        for entry in running.iter_mut().filter(|e| e.function == 1) {
            entry.ecx |= OSXSAVE;
        }
        assert!(kept(&told, &running, model).is_ok());
    }

    #[test]
    fn a_feature_that_is_taken_away_is_the_only_one_that_is_missing() {
        for name in Features::ALL.names() {
            let mut entries = everything();
            let without = Features::named(name).expect("it has that name");
            take_away(&mut entries, without);
            let cleared: u32 = entries
                .iter()
                .flat_map(|e| [e.eax, e.ebx, e.ecx, e.edx])
                .map(u32::count_zeros)
                .sum();
            let gone: Vec<_> = without.iter().collect();
            for feature in &gone {
                let entry = find(&entries, feature.leaf, 0).expect("the host has every leaf");
                assert_eq!(
                    register(&entry, feature.register) & feature.mask(),
                    0,
                    "{name}"
                );
            }
            // AMD says some of them twice.
            let twice = gone.iter().filter(|f| {
                (f.leaf, f.register) == (1, CpuidRegister::Edx) && REPEATED & f.mask() != 0
            });
            assert_eq!(cleared as usize, gone.len() + twice.count(), "{name}");
        }
    }

    #[test]
    fn what_is_offered_is_what_has_a_bit() {
        assert_eq!(offered(&everything()), Features::ALL);
        assert_eq!(offered(&[]), Features::NONE);
        let names = offered(&seen(Baseline::V1)).names();
        assert!(
            names.contains(&"sse2") && !names.contains(&"pni"),
            "{names:?}"
        );
    }

    #[test]
    fn a_kvm_that_shows_what_was_taken_away_is_found_out() {
        let cpu: CpuSpec = "host,-kvm_pv_eoi".parse().expect("it is one");
        let mut told = everything();
        take_away(&mut told, cpu.without);
        assert!(kept(&told, &told, cpu).is_ok());
        let error = kept(&told, &everything(), cpu).expect_err("it shows more");
        assert!(error.to_string().contains("host,-kvm_pv_eoi"), "{error}");
    }

    #[test]
    fn what_the_host_lacks_is_named_in_the_refusal() {
        let mut entries = everything();
        for entry in &mut entries {
            if (entry.function, entry.index) == (7, 0) {
                entry.ebx = 1 << 3;
            }
        }
        let model = CpuModel::Baseline(Baseline::V3);
        let error = mask(&entries, model).expect_err("no AVX2");
        assert_eq!(
            error.to_string(),
            "CPU model x86-64-v3: this host lacks avx2, bmi2: take a smaller baseline (\"vmm host\" \
             shows which fit), or host"
        );
        assert!(mask(&entries, CpuModel::Baseline(Baseline::V2)).is_ok());
    }
}
