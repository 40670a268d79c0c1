// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The features of a CPU that have a name, sets of them, and the baselines that are made of them.
//!
//! The baselines are the micro-architecture levels of the x86-64 psABI (System V ABI, AMD64 supplement
//! 1.0, table 3.1); a level holds everything that the levels below it do. Sources of the bits: Intel
//! SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E; for what KVM itself offers Linux,
//! `Documentation/virt/kvm/x86/cpuid.rst`.

/// A register of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the register of that name")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A feature, as the CPUID bit that says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Feature {
    /// Name, as Linux' `/proc/cpuinfo` spells it; what KVM itself offers begins with `kvm`.
    pub name: &'static str,
    /// Leaf.
    pub leaf: u32,
    /// Register of subleaf 0.
    pub register: CpuidRegister,
    /// Number of the bit.
    pub bit: u32,
}

impl Feature {
    /// The bit as a mask.
    pub const fn mask(&self) -> u32 {
        1 << self.bit
    }

    /// All that have a name, by leaf, register and bit.
    pub fn all() -> impl Iterator<Item = Self> {
        rows().map(|(feature, _)| feature)
    }
}

/// A set of features. Two bits of one name are one feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(u128);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that have a name.
    pub const ALL: Self = Self(u128::MAX >> (u128::BITS as usize - count()));

    /// Those of which `is_in` says so.
    pub fn those(is_in: impl Fn(&Feature) -> bool) -> Self {
        let bits = Feature::all().enumerate().filter(|(_, f)| is_in(f));
        Self(bits.fold(0, |set, (n, _)| set | 1 << n))
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        let one = Self::those(|feature| feature.name == name);
        (one != Self::NONE).then_some(one)
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in it, a bit each, by leaf, register and bit.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        let bits = Feature::all().enumerate();
        bits.filter_map(move |(n, feature)| (self.0 & 1 << n != 0).then_some(feature))
    }

    /// The names of what is in it.
    pub fn names(self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.iter().map(|feature| feature.name).collect();
        names.dedup();
        names
    }
}

/// A level of the x86-64 psABI.
///
/// A guest sees the instructions of its level and no others, and of the features that only a kernel
/// uses those in [`Baseline::system`], where the host has them. So it sees neither SMEP, SMAP nor
/// speculation controls: a baseline gives them up for a CPU that is the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Baseline {
    /// `x86-64-v1`: what every 64-bit processor has, up to SSE2.
    V1,
    /// `x86-64-v2`: up to SSE4.2 and POPCNT.
    V2,
    /// `x86-64-v3`: up to AVX2, BMI2 and FMA.
    V3,
}

impl Baseline {
    /// All, the smallest first.
    pub const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    /// As the command line spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
        }
    }

    /// What a host must have for this baseline, and all of the guest's instructions.
    pub fn features(self) -> impl Iterator<Item = Feature> {
        parts(move |part| matches!(part, Part::Of(level) if level <= self))
    }

    /// What a kernel sees beside [`Baseline::features`], where the host has it: how the processor
    /// maps memory, what every machine gives to its vCPUs, and the topology.
    pub fn system() -> impl Iterator<Item = Feature> {
        parts(|part| part == Part::System)
    }
}

/// Which baselines have a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This level and those above it.
    Of(Baseline),
    /// All, where the host has it: see [`Baseline::system`].
    System,
    /// None.
    Host,
}

fn parts(is_wanted: impl Fn(Part) -> bool) -> impl Iterator<Item = Feature> {
    rows().filter_map(move |(feature, part)| is_wanted(part).then_some(feature))
}

fn rows() -> impl Iterator<Item = (Feature, Part)> {
    TABLE.iter().flat_map(|&(leaf, register, bits)| {
        bits.iter().map(move |&(bit, name, part)| {
            let feature = Feature {
                name,
                leaf,
                register,
                bit,
            };
            (feature, part)
        })
    })
}

const fn count() -> usize {
    let (mut count, mut n) = (0, 0);
    while n < TABLE.len() {
        count += TABLE[n].2.len();
        n += 1;
    }
    count
}

const V1: Part = Part::Of(Baseline::V1);
const V2: Part = Part::Of(Baseline::V2);
const V3: Part = Part::Of(Baseline::V3);
const SYSTEM: Part = Part::System;
const HOST: Part = Part::Host;

type Bit = (u32, &'static str, Part);

/// By leaf and register, each bit with its name and its part.
const TABLE: &[(u32, CpuidRegister, &[Bit])] = &[
    (
        0x1,
        CpuidRegister::Ecx,
        &[
            (0, "pni", V2),
            (1, "pclmulqdq", HOST),
            (3, "monitor", HOST),
            (5, "vmx", HOST),
            (9, "ssse3", V2),
            (12, "fma", V3),
            (13, "cx16", V2),
            (17, "pcid", HOST),
            (19, "sse4_1", V2),
            (20, "sse4_2", V2),
            (21, "x2apic", SYSTEM),
            (22, "movbe", V3),
            (23, "popcnt", V2),
            (24, "tsc_deadline_timer", SYSTEM),
            (25, "aes", HOST),
            (26, "xsave", V3),
            (28, "avx", V3),
            (29, "f16c", V3),
            (30, "rdrand", HOST),
            (31, "hypervisor", SYSTEM),
        ],
    ),
    (
        0x1,
        CpuidRegister::Edx,
        &[
            (0, "fpu", V1),
            (1, "vme", SYSTEM),
            (2, "de", SYSTEM),
            (3, "pse", SYSTEM),
            (4, "tsc", SYSTEM),
            (5, "msr", SYSTEM),
            (6, "pae", SYSTEM),
            (7, "mce", SYSTEM),
            (8, "cx8", V1),
            (9, "apic", SYSTEM),
            (11, "sep", SYSTEM),
            (12, "mtrr", SYSTEM),
            (13, "pge", SYSTEM),
            (14, "mca", SYSTEM),
            (15, "cmov", V1),
            (16, "pat", SYSTEM),
            (17, "pse36", SYSTEM),
            (19, "clflush", SYSTEM),
            (23, "mmx", V1),
            (24, "fxsr", V1),
            (25, "sse", V1),
            (26, "sse2", V1),
            (28, "ht", SYSTEM),
        ],
    ),
    (0x6, CpuidRegister::Eax, &[(2, "arat", SYSTEM)]),
    (
        0x7,
        CpuidRegister::Ebx,
        &[
            (0, "fsgsbase", HOST),
            (1, "tsc_adjust", HOST),
            (3, "bmi1", V3),
            (4, "hle", HOST),
            (5, "avx2", V3),
            (7, "smep", HOST),
            (8, "bmi2", V3),
            (9, "erms", HOST),
            (10, "invpcid", HOST),
            (11, "rtm", HOST),
            (14, "mpx", HOST),
            (16, "avx512f", HOST),
            (17, "avx512dq", HOST),
            (18, "rdseed", HOST),
            (19, "adx", HOST),
            (20, "smap", HOST),
            (21, "avx512ifma", HOST),
            (23, "clflushopt", HOST),
            (24, "clwb", HOST),
            (28, "avx512cd", HOST),
            (29, "sha_ni", HOST),
            (30, "avx512bw", HOST),
            (31, "avx512vl", HOST),
        ],
    ),
    (
        0x7,
        CpuidRegister::Ecx,
        &[
            (1, "avx512vbmi", HOST),
            (2, "umip", HOST),
            (3, "pku", HOST),
            (5, "waitpkg", HOST),
            (6, "avx512_vbmi2", HOST),
            (8, "gfni", HOST),
            (9, "vaes", HOST),
            (10, "vpclmulqdq", HOST),
            (11, "avx512_vnni", HOST),
            (12, "avx512_bitalg", HOST),
            (14, "avx512_vpopcntdq", HOST),
            (16, "la57", HOST),
            (22, "rdpid", HOST),
            (27, "movdiri", HOST),
            (28, "movdir64b", HOST),
        ],
    ),
    (
        0x7,
        CpuidRegister::Edx,
        &[
            (4, "fsrm", HOST),
            (14, "serialize", HOST),
            (22, "amx_bf16", HOST),
            (23, "avx512_fp16", HOST),
            (24, "amx_tile", HOST),
            (25, "amx_int8", HOST),
        ],
    ),
    (
        0x4000_0001,
        CpuidRegister::Eax,
        &[
            (0, "kvmclock", HOST),
            (3, "kvmclock", HOST),
            (4, "kvm_asyncpf", HOST),
            (5, "kvm_steal_time", HOST),
            (6, "kvm_pv_eoi", HOST),
            (7, "kvm_pv_unhalt", HOST),
            (9, "kvm_pv_tlb_flush", HOST),
            (11, "kvm_pv_ipi", HOST),
            (12, "kvm_poll_control", HOST),
            (13, "kvm_pv_sched_yield", HOST),
        ],
    ),
    (
        0x8000_0001,
        CpuidRegister::Ecx,
        &[
            (0, "lahf_lm", V2),
            (1, "cmp_legacy", SYSTEM),
            (2, "svm", HOST),
            (5, "abm", V3),
            (6, "sse4a", HOST),
            (7, "misalignsse", HOST),
            (8, "3dnowprefetch", HOST),
            (11, "xop", HOST),
            (16, "fma4", HOST),
            (22, "topoext", SYSTEM),
        ],
    ),
    (
        0x8000_0001,
        CpuidRegister::Edx,
        &[
            (11, "syscall", V1),
            (20, "nx", SYSTEM),
            (26, "pdpe1gb", HOST),
            (27, "rdtscp", HOST),
            (29, "lm", V1),
        ],
    ),
    (
        0x8000_0007,
        CpuidRegister::Edx,
        &[(8, "constant_tsc", SYSTEM)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_higher_level_has_all_of_a_lower_one_and_no_bit_twice() {
        let bits = |baseline: Baseline| -> HashSet<_> {
            let all = baseline.features().chain(Baseline::system());
            let list: Vec<_> = all.map(|f| (f.leaf, f.register, f.bit)).collect();
            let set: HashSet<_> = list.iter().copied().collect();
            assert_eq!(set.len(), list.len(), "{}", baseline.name());
            set
        };
        for pair in Baseline::ALL.windows(2) {
            assert!(bits(pair[0]).is_subset(&bits(pair[1])));
            assert_ne!(bits(pair[0]), bits(pair[1]));
        }
    }

    #[test]
    fn a_bit_has_one_name_and_the_table_is_in_order() {
        let bits: Vec<_> = Feature::all()
            .map(|f| (f.leaf, f.register as u8, f.bit))
            .collect();
        assert!(bits.is_sorted());
        assert_eq!(bits.iter().collect::<HashSet<_>>().len(), bits.len());
        assert!(Feature::all().all(|f| f.bit < 32 && !f.name.is_empty()));
    }

    #[test]
    fn a_name_is_of_one_feature_which_it_finds() {
        let names = Features::ALL.names();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        let mut all = Features::NONE;
        for name in names {
            let one = Features::named(name).expect("it is in the table");
            assert_eq!(one.names(), [name]);
            all = all.union(one);
        }
        assert_eq!(all, Features::ALL);
        assert_eq!(Features::named("avx3"), None);
        assert_eq!(Features::named(""), None);
    }

    #[test]
    fn kvms_clock_is_both_of_its_bits() {
        let clock = Features::named("kvmclock").expect("it has a name");
        assert_eq!(clock.iter().map(|f| f.bit).collect::<Vec<_>>(), [0, 3]);
        assert!(clock.iter().all(|f| f.leaf == 0x4000_0001));
    }
}
