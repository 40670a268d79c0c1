// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which CPU a guest sees: what the host offers, or a baseline that is the same on every host,
//! either less some features.

use std::fmt;
use std::str::FromStr;

use crate::CpuError;
use crate::features::{Baseline, Features};

/// Which CPU the guest sees. Its `Display` and `FromStr` are the command line's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CpuModel {
    /// What the host offers.
    #[default]
    Host,
    /// A baseline, whatever more the host offers.
    Baseline(Baseline),
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

/// A model, less some of its features. Its `Display` and `FromStr` are the command line's spelling:
/// `host,-avx2,-kvm_pv_eoi`.
///
/// A feature is taken away by the bit that says that it is there, so that a guest that looks does not
/// use it; what else describes it (the parts of XSAVE) stays, and so does the instruction. Nothing is
/// refused because a guest cannot do without it: on a machine whose only clock is KVM's, Linux waits
/// for ever for another without `kvmclock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CpuSpec {
    /// The model.
    pub model: CpuModel,
    /// What a guest does not see of it.
    pub without: Features,
}

impl From<CpuModel> for CpuSpec {
    fn from(model: CpuModel) -> Self {
        let without = Features::NONE;
        Self { model, without }
    }
}

impl fmt::Display for CpuSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.model.fmt(f)?;
        let mut names = self.without.names().into_iter();
        names.try_for_each(|name| write!(f, ",-{name}"))
    }
}

/// Features that may have been meant.
fn alike(word: &str) -> String {
    let begins: String = word.trim_start_matches('-').chars().take(3).collect();
    let mut names = Features::ALL.names();
    names.retain(|name| begins.len() == 3 && name.starts_with(&begins));
    if names.is_empty() {
        "they are named as in Linux' /proc/cpuinfo".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    }
}

impl FromStr for CpuSpec {
    type Err = CpuError;

    /// # Errors
    /// [`CpuError::Invalid`] with the models there are, or with features that may have been meant.
    fn from_str(text: &str) -> Result<Self, CpuError> {
        let mut words = text.split(',');
        let model = words.next().unwrap_or_default().parse()?;
        let without = words.try_fold(Features::NONE, |without, word| {
            let feature = word.strip_prefix('-').and_then(Features::named);
            let none = || CpuError::Invalid {
                what: "CPU feature".into(),
                why: format!("{word:?} is none with a - before it: {}", alike(word)),
            };
            Ok::<_, CpuError>(without.union(feature.ok_or_else(none)?))
        })?;
        Ok(Self { model, without })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn features_are_taken_away_by_name_and_read_back_so() {
        let cpu: CpuSpec = "x86-64-v3,-kvm_pv_eoi,-avx2".parse().expect("it is one");
        assert_eq!(cpu.model, CpuModel::Baseline(Baseline::V3));
        assert_eq!(cpu.without.names(), ["avx2", "kvm_pv_eoi"]);
        assert_eq!(cpu.to_string(), "x86-64-v3,-avx2,-kvm_pv_eoi");
        assert_eq!(
            cpu.to_string().parse::<CpuSpec>().expect("its own name"),
            cpu
        );
        let host: CpuSpec = "host".parse().expect("it is one");
        assert_eq!(host, CpuModel::Host.into());
    }

    #[test]
    fn what_is_no_feature_is_refused_with_those_that_are_like_it() {
        for (text, words) in [
            (
                "host,avx2",
                "\"avx2\" is none with a - before it: there are avx, avx2, ",
            ),
            ("host,-avx3", "there are avx, avx2, "),
            ("host,-sse4", "there are sse4_1, sse4_2, sse, "),
            ("host,", "named as in"),
            ("host,-avx2,-", "named as in"),
            ("host,-é", "named as in"),
            ("486,-fpu", "CPU model"),
        ] {
            let error = text.parse::<CpuSpec>().expect_err("none").to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
