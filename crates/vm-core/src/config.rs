// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A [`VmSpec`] from the configuration tree.

use serde::Deserialize;
use vm_cfg::{Bounded, ByteSize, CfgError, Section};
use vm_cpu::{CpuError, CpuSpec};

use crate::{OnReset, TripleFault, VmSpec};

/// The section as it is written.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    cpus: Option<Bounded<1, { crate::MAX_VCPUS as u64 }>>,
    #[serde(default)]
    max_cpus: Option<Bounded<1, { crate::MAX_VCPUS as u64 }>>,
    #[serde(default)]
    cap: Option<Bounded<1, 100>>,
    #[serde(default)]
    memory: Option<ByteSize>,
    #[serde(default)]
    cpu: WrittenCpu,
    #[serde(default)]
    on_reset: WrittenReset,
    #[serde(default)]
    on_triple_fault: WrittenTripleFault,
}

/// A model by its name, less features.
#[derive(Deserialize, Default)]
#[serde(try_from = "String")]
struct WrittenCpu(CpuSpec);

impl TryFrom<String> for WrittenCpu {
    type Error = CpuError;

    fn try_from(name: String) -> Result<Self, CpuError> {
        name.parse().map(Self)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum WrittenReset {
    #[default]
    Reset,
    PowerOff,
    Halt,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum WrittenTripleFault {
    #[default]
    Guru,
    Reset,
    PowerOff,
}

impl VmSpec {
    /// Reads a section with the keys `name`, `cpus`, `max_cpus` (how many can be
    /// there later; absent: `cpus`), `cap` (percent of a host CPU for each), `memory`, `cpu` (`host`,
    /// or the name of a [`vm_cpu::Baseline`] such as `x86-64-v2`, either less features: `host,-avx2`), `on_reset`
    /// (`reset`, `power-off` or `halt`) and `on_triple_fault` (`guru`, `reset` or `power-off`); what is not
    /// set is as in [`VmSpec::default`].
    ///
    /// # Errors
    /// [`CfgError`] naming the key, where it is set, and what would be right.
    pub fn read(section: &Section) -> Result<Self, CfgError> {
        let written: Written = section.read()?;
        let default = Self::default();
        let count = |n: Bounded<1, { crate::MAX_VCPUS as u64 }>| {
            u32::try_from(n.get()).expect("bounded by MAX_VCPUS")
        };
        let cpus = written.cpus.map_or(default.vcpus, count);
        let max_cpus = written.max_cpus.map(count);
        Ok(Self {
            name: written.name.unwrap_or(default.name),
            vcpus: max_cpus.unwrap_or(cpus),
            plugged: max_cpus.map(|_| cpus),
            cap_percent: written.cap.map_or(default.cap_percent, |percent| {
                u32::try_from(percent.get()).expect("bounded by 100")
            }),
            memory_bytes: written.memory.map_or(default.memory_bytes, ByteSize::bytes),
            cpu: written.cpu.0,
            on_reset: match written.on_reset {
                WrittenReset::Reset => OnReset::Reset,
                WrittenReset::PowerOff => OnReset::PowerOff,
                WrittenReset::Halt => OnReset::Halt,
            },
            on_triple_fault: match written.on_triple_fault {
                WrittenTripleFault::Guru => TripleFault::Guru,
                WrittenTripleFault::Reset => TripleFault::Reset,
                WrittenTripleFault::PowerOff => TripleFault::PowerOff,
            },
            ..default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_cfg::Tree;
    use vm_cpu::{Baseline, CpuModel};

    fn read(text: &str) -> Result<VmSpec, CfgError> {
        let tree = Tree::builder().text("vm.toml".as_ref(), text)?.build();
        VmSpec::read(&tree.section("vm")?)
    }

    #[test]
    fn what_is_not_set_is_the_default() {
        let spec = read("").unwrap();
        assert_eq!((spec.vcpus, spec.memory_bytes), (1, 256 << 20));
    }

    #[test]
    fn every_key_reaches_its_field() {
        let spec = read(
            "[vm]\nname='a'\ncpus=2\nmax_cpus=3\ncap=40\nmemory='1G'\ncpu='host'\non_reset='power-off'\non_triple_fault='reset'",
        )
        .unwrap();
        assert_eq!(
            (spec.name.as_str(), spec.vcpus, spec.memory_bytes),
            ("a", 3, 1 << 30)
        );
        assert_eq!((spec.plugged, spec.cap_percent), (Some(2), 40));
        assert_eq!(spec.on_reset, OnReset::PowerOff);
        assert_eq!(spec.on_triple_fault, TripleFault::Reset);
    }

    #[test]
    fn every_cpu_model_is_read_by_its_name() {
        let baselines = Baseline::ALL.map(CpuModel::Baseline);
        for model in [CpuModel::Host].into_iter().chain(baselines) {
            let spec = read(&format!("[vm]\ncpu='{model}'")).unwrap();
            assert_eq!(spec.cpu, model.into());
        }
        let spec = read("[vm]\ncpu='host,-avx2'").unwrap();
        assert_eq!(spec.cpu.without.names(), ["avx2"]);
    }

    #[test]
    fn a_wrong_value_is_named_with_what_would_be_right() {
        for (text, words) in [
            ("[vm]\ncpus=65", ["vm.cpus", "64"]),
            ("[vm]\ncpus=0", ["vm.cpus", "64"]),
            ("[vm]\ncap=0", ["vm.cap", "100"]),
            ("[vm]\ncap=101", ["vm.cap", "100"]),
            ("[vm]\ncpu='x86-64-v9'", ["vm.cpu", "host, x86-64-v1"]),
            ("[vm]\ncpu='486'", ["486", "host"]),
            ("[vm]\ncpu='host,avx'", ["vm.cpu", "avx2"]),
            ("[vm]\non_reset='explode'", ["explode", "power-off"]),
            ("[vm]\nmemroy='1G'", ["vm.memroy", "vm.memory"]),
        ] {
            let error = read(text).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
    }
}
