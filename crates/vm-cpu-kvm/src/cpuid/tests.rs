// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest makes of the leaves, by the algorithms of the processors' manuals.

use std::collections::BTreeSet;

use super::*;

const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];

fn leaf(function: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        ..kvm_cpuid_entry2::default()
    }
}

/// A host of this vendor with many cores, threads and caches of its own.
fn host(vendor: [u32; 3]) -> Vec<kvm_cpuid_entry2> {
    let [ebx, ecx, edx] = vendor;
    let mut entries = vec![kvm_cpuid_entry2 {
        eax: 0x1f,
        ebx,
        ecx,
        edx,
        ..leaf(0)
    }];
    let noise = |function| kvm_cpuid_entry2 {
        eax: 0x1234_5678,
        ebx: 0x0fab_cdef,
        ecx: 0x00ab_ffff,
        edx: 0x1234_5678,
        ..leaf(function)
    };
    entries.extend([1, 0xb, 0x1f, 0x8000_0001, 0x8000_0008].map(noise));
    let caches = [(0, 0x21), (1, 0x22), (2, 0x43), (3, 0x63), (4, 0)];
    for function in [4, 0x8000_001d] {
        entries.extend(caches.map(|(index, kind)| kvm_cpuid_entry2 {
            eax: if kind == 0 { 0 } else { 0xffff_c000 | kind },
            index,
            ..leaf(function)
        }));
    }
    entries.extend([0x8000_001e, 0x8000_0026].map(noise));
    entries
}

fn how(id: u32, vcpus: u32, irq: IrqMode) -> Fit {
    Fit {
        id,
        vcpus,
        irq,
        tsc_deadline: Offer::Yes,
    }
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found = entries
        .iter()
        .find(|e| e.function == function && e.index == index);
    *found.expect("the leaf is there")
}

/// Where a vCPU says that it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Place {
    package: u32,
    core: u32,
    thread: u32,
}

impl Place {
    /// The fields of an APIC ID of which `threads` and then `package` low bits are below the core and
    /// the package.
    fn split(id: u32, threads: u32, package: u32) -> Self {
        Self {
            package: id >> package,
            core: (id >> threads) & ((1 << (package - threads)) - 1),
            thread: id & ((1 << threads) - 1),
        }
    }
}

/// Intel SDM vol. 3, 10.9.4 "Algorithm for Three-Domain Mappings of APIC_ID": level by level until
/// one is invalid.
fn by_extended_topology(entries: &[kvm_cpuid_entry2], function: u32) -> Place {
    let (mut threads, mut package) = (0, 0);
    for index in 0.. {
        let level = find(entries, function, index);
        assert_eq!(level.ecx & 0xff, index);
        match level.ecx >> 8 & 0xff {
            0 => break,
            1 => threads = level.eax & 0x1f,
            _ => package = level.eax & 0x1f,
        }
    }
    let id = find(entries, function, 0).edx;
    Place::split(id, threads, package.max(threads))
}

fn bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// The same section, for processors without leaf 0xb: leaf 1 counts IDs, leaf 4 those of cores.
fn by_legacy_intel(entries: &[kvm_cpuid_entry2]) -> Place {
    let one = find(entries, 1, 0);
    let logical = if one.edx & EDX_HTT == 0 {
        1
    } else {
        one.ebx >> 16 & 0xff
    };
    let cores = (find(entries, 4, 0).eax >> 26) + 1;
    let package = bits(logical);
    Place::split(one.ebx >> 24, package - bits(cores), package)
}

/// APM vol. 3, E.5 "Multiple Processor Calculation", extended method: the width of core IDs is in
/// leaf 0x80000008, threads of a core are in 0x8000001e.
fn by_amd(entries: &[kvm_cpuid_entry2]) -> Place {
    let (size, unit) = (
        find(entries, 0x8000_0008, 0).ecx,
        find(entries, 0x8000_001e, 0),
    );
    let threads = (unit.ebx >> 8 & 0xff) + 1;
    assert_eq!(unit.ecx, 0, "one node");
    let width = size >> 12 & 0xf;
    let package = if width == 0 {
        bits((size & 0xff) + 1)
    } else {
        width
    };
    let place = Place::split(unit.eax, bits(threads), package);
    assert_eq!(unit.ebx & 0xff, place.core);
    place
}

/// That a reader finds one package of `vcpus` cores of one thread, whichever vCPU it asks.
fn one_package_of_cores(
    vendor: [u32; 3],
    vcpus: u32,
    reader: impl Fn(&[kvm_cpuid_entry2]) -> Place,
) {
    let host = host(vendor);
    let places: BTreeSet<Place> = (0..vcpus)
        .map(|id| reader(&fit(&host, how(id, vcpus, IrqMode::Split))))
        .collect();
    let expected: BTreeSet<Place> = (0..vcpus)
        .map(|core| Place {
            package: 0,
            core,
            thread: 0,
        })
        .collect();
    assert_eq!(places, expected, "{vcpus} vCPUs");
}

#[test]
fn every_reader_finds_one_package_with_a_core_for_each_vcpu() {
    for vcpus in 1..=64 {
        for vendor in [INTEL, AMD] {
            one_package_of_cores(vendor, vcpus, |leaves| by_extended_topology(leaves, 0xb));
            one_package_of_cores(vendor, vcpus, |leaves| by_extended_topology(leaves, 0x1f));
        }
        one_package_of_cores(INTEL, vcpus, by_legacy_intel);
        one_package_of_cores(AMD, vcpus, by_amd);
    }
}

#[test]
fn the_first_two_caches_are_a_cores_own_and_the_third_is_the_packages() {
    for vcpus in [1, 2, 3, 8, 64] {
        for (vendor, function) in [(INTEL, 4), (AMD, 0x8000_001d)] {
            let entries = fit(&host(vendor), how(0, vcpus, IrqMode::Split));
            let sharing = |index| (find(&entries, function, index).eax >> 14 & 0xfff) + 1;
            assert_eq!((sharing(0), sharing(1), sharing(2)), (1, 1, 1));
            assert_eq!(sharing(3), vcpus);
            assert_eq!(find(&entries, function, 4).eax, 0, "no more caches");
        }
    }
}

#[test]
fn what_amd_calls_legacy_is_said_to_amd_guests_of_several_cores_only() {
    let legacy = |vendor, vcpus| {
        let entries = fit(&host(vendor), how(0, vcpus, IrqMode::Split));
        let flag = find(&entries, 0x8000_0001, 0).ecx & ECX_CMP_LEGACY != 0;
        let threaded = find(&entries, 1, 0).edx & EDX_HTT != 0;
        (flag, threaded)
    };
    assert_eq!(legacy(AMD, 1), (false, false));
    assert_eq!(legacy(AMD, 2), (true, true));
    let untouched = find(&host(INTEL), 0x8000_0008, 0);
    let entries = fit(&host(INTEL), how(0, 2, IrqMode::Split));
    assert_eq!(find(&entries, 0x8000_0008, 0).ecx, untouched.ecx);
}

#[test]
fn topology_that_would_be_believed_before_ours_is_left_out() {
    let entries = fit(&host(AMD), how(0, 2, IrqMode::Split));
    assert!(entries.iter().all(|e| e.function != 0x8000_0026));
}

#[test]
fn a_host_without_leaf_0x1f_gets_none() {
    let mut host = host(INTEL);
    host[0].eax = 0xb;
    let entries = fit(&host, how(0, 6, IrqMode::Split));
    let cores = find(&entries, 0xb, 1);
    assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, 0x201));
    assert!(entries.iter().all(|e| e.function != 0x1f));
}

#[test]
fn a_machine_without_interrupt_controller_has_no_apic() {
    let mut one = leaf(1);
    one.ecx = ECX_X2APIC;
    one.edx = EDX_APIC;
    let fitted = find(&fit(&[one], how(0, 1, IrqMode::None)), 1, 0);
    assert_eq!(fitted.ecx & (ECX_X2APIC | ECX_TSC_DEADLINE), 0);
    assert_eq!(fitted.edx & EDX_APIC, 0);
    assert_ne!(fitted.ecx & ECX_HYPERVISOR, 0);
}
