// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which CPU a guest sees: what the host offers, or a baseline that is the same on every host.
//!
//! The baselines are the micro-architecture levels of the x86-64 psABI (System V ABI, AMD64
//! supplement 1.0, table 3.1), written down as CPUID bits (Intel SDM vol. 2A, CPUID; AMD APM vol. 3,
//! appendix E). A level holds everything that the levels below it do.

use std::fmt;
use std::str::FromStr;

use crate::CpuError;

/// Which CPU the guest sees. Its `Display` and `FromStr` are the command line's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CpuModel {
    /// What the host offers.
    #[default]
    Host,
    /// A baseline, whatever more the host offers.
    Baseline(Baseline),
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
    /// Name, as Linux' `/proc/cpuinfo` spells it.
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
        let levels = [V1, V2, V3];
        let count = match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        };
        levels.into_iter().take(count).flatten().copied()
    }

    /// What a kernel sees beside [`Baseline::features`], where the host has it: how the processor
    /// maps memory, what every machine gives to its vCPUs, and the topology.
    pub fn system() -> impl Iterator<Item = Feature> {
        SYSTEM.iter().copied()
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Baseline(baseline) => baseline.name(),
        })
    }
}

impl FromStr for CpuModel {
    type Err = CpuError;

    /// # Errors
    /// [`CpuError::Invalid`] with the names there are.
    fn from_str(name: &str) -> Result<Self, CpuError> {
        let baselines = Baseline::ALL.map(Self::Baseline);
        let mut models = [Self::Host].into_iter().chain(baselines);
        models
            .find(|model| model.to_string() == name)
            .ok_or_else(|| {
                let names = Baseline::ALL.map(Baseline::name).join(", ");
                CpuError::Invalid {
                    what: "CPU model".into(),
                    why: format!("{name:?} is none of host, {names}"),
                }
            })
    }
}

const EXTENDED: u32 = 0x8000_0001;

const fn at(name: &'static str, leaf: u32, register: CpuidRegister, bit: u32) -> Feature {
    Feature {
        name,
        leaf,
        register,
        bit,
    }
}

const V1: &[Feature] = &[
    at("fpu", 1, CpuidRegister::Edx, 0),
    at("cx8", 1, CpuidRegister::Edx, 8),
    at("cmov", 1, CpuidRegister::Edx, 15),
    at("mmx", 1, CpuidRegister::Edx, 23),
    at("fxsr", 1, CpuidRegister::Edx, 24),
    at("sse", 1, CpuidRegister::Edx, 25),
    at("sse2", 1, CpuidRegister::Edx, 26),
    at("syscall", EXTENDED, CpuidRegister::Edx, 11),
    at("lm", EXTENDED, CpuidRegister::Edx, 29),
];

const V2: &[Feature] = &[
    at("pni", 1, CpuidRegister::Ecx, 0),
    at("ssse3", 1, CpuidRegister::Ecx, 9),
    at("cx16", 1, CpuidRegister::Ecx, 13),
    at("sse4_1", 1, CpuidRegister::Ecx, 19),
    at("sse4_2", 1, CpuidRegister::Ecx, 20),
    at("popcnt", 1, CpuidRegister::Ecx, 23),
    at("lahf_lm", EXTENDED, CpuidRegister::Ecx, 0),
];

const V3: &[Feature] = &[
    at("fma", 1, CpuidRegister::Ecx, 12),
    at("movbe", 1, CpuidRegister::Ecx, 22),
    at("xsave", 1, CpuidRegister::Ecx, 26),
    at("avx", 1, CpuidRegister::Ecx, 28),
    at("f16c", 1, CpuidRegister::Ecx, 29),
    at("bmi1", 7, CpuidRegister::Ebx, 3),
    at("avx2", 7, CpuidRegister::Ebx, 5),
    at("bmi2", 7, CpuidRegister::Ebx, 8),
    at("abm", EXTENDED, CpuidRegister::Ecx, 5),
];

const SYSTEM: &[Feature] = &[
    at("vme", 1, CpuidRegister::Edx, 1),
    at("de", 1, CpuidRegister::Edx, 2),
    at("pse", 1, CpuidRegister::Edx, 3),
    at("tsc", 1, CpuidRegister::Edx, 4),
    at("msr", 1, CpuidRegister::Edx, 5),
    at("pae", 1, CpuidRegister::Edx, 6),
    at("mce", 1, CpuidRegister::Edx, 7),
    at("apic", 1, CpuidRegister::Edx, 9),
    at("sep", 1, CpuidRegister::Edx, 11),
    at("mtrr", 1, CpuidRegister::Edx, 12),
    at("pge", 1, CpuidRegister::Edx, 13),
    at("mca", 1, CpuidRegister::Edx, 14),
    at("pat", 1, CpuidRegister::Edx, 16),
    at("pse36", 1, CpuidRegister::Edx, 17),
    at("clflush", 1, CpuidRegister::Edx, 19),
    at("ht", 1, CpuidRegister::Edx, 28),
    at("x2apic", 1, CpuidRegister::Ecx, 21),
    at("tsc_deadline_timer", 1, CpuidRegister::Ecx, 24),
    at("hypervisor", 1, CpuidRegister::Ecx, 31),
    at("arat", 6, CpuidRegister::Eax, 2),
    at("nx", EXTENDED, CpuidRegister::Edx, 20),
    at("cmp_legacy", EXTENDED, CpuidRegister::Ecx, 1),
    at("topoext", EXTENDED, CpuidRegister::Ecx, 22),
    at("constant_tsc", 0x8000_0007, CpuidRegister::Edx, 8),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_reads_back_as_its_model() {
        let baselines = Baseline::ALL.map(CpuModel::Baseline);
        for model in [CpuModel::Host].into_iter().chain(baselines) {
            let read: CpuModel = model.to_string().parse().expect("its own name");
            assert_eq!(read, model);
        }
        let error = "x86-64-v9".parse::<CpuModel>().expect_err("no such level");
        let text = error.to_string();
        assert!(
            text.contains("x86-64-v9") && text.contains("host, x86-64-v1"),
            "{text}"
        );
    }

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
}
