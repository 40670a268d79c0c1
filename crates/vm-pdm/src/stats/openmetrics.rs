// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A snapshot as OpenMetrics text, for a collector of metrics.
//!
//! Source: OpenMetrics 1.0.0, "Text format". A component of a path that is a number becomes a label
//! named as the component before it, and `path` is the exact path, so that no two samples of a family
//! have the same labels: `/emt/0/kicks` is `vm_emt_kicks_total{emt="0",path="/emt/0/kicks"}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use super::{Sample, Snapshot, Unit, Value};

/// Samples of one name, kind and unit.
struct Family<'a> {
    kind: &'static str,
    unit: &'static str,
    about: &'a str,
    samples: Vec<(String, &'a Sample)>,
}

impl Snapshot {
    /// The samples as OpenMetrics text, with `# EOF` at the end.
    pub fn openmetrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write(&self.samples, &mut text);
        text
    }
}

fn write(samples: &[Sample], out: &mut String) -> fmt::Result {
    let mut families: BTreeMap<(String, &str, &str), Family<'_>> = BTreeMap::new();
    for sample in samples {
        let (kind, unit) = (kind(sample.value), suffix(sample.unit));
        let (name, labels) = name_and_labels(&sample.path);
        families
            .entry((name, kind, unit))
            .or_insert_with(|| Family {
                kind,
                unit,
                about: &sample.about,
                samples: Vec::new(),
            })
            .samples
            .push((labels, sample));
    }
    let mut taken = BTreeSet::new();
    for ((name, ..), family) in &families {
        family.write(&claim(name, family, &mut taken), out)?;
    }
    out.write_str("# EOF\n")
}

/// A name of which no other family has it or one of those that come from it.
fn claim(name: &str, family: &Family<'_>, taken: &mut BTreeSet<String>) -> String {
    let mut base = name.to_owned();
    loop {
        let mut full = base.clone();
        if !family.unit.is_empty() && !full.ends_with(family.unit) {
            full.push_str(family.unit);
        }
        let mut derived = vec![
            bound(&full, family.unit, "min"),
            bound(&full, family.unit, "max"),
        ];
        for more in ["", "_total", "_count", "_sum", "_created"] {
            derived.push(format!("{full}{more}"));
        }
        if derived.iter().all(|name| !taken.contains(name)) {
            taken.extend(derived);
            return full;
        }
        base.push('_');
        base.push_str(family.kind);
    }
}

/// The name of a summary's bound: the unit stays the last word.
fn bound(name: &str, unit: &str, which: &str) -> String {
    let stem = name.strip_suffix(unit).unwrap_or(name);
    format!("{stem}_{which}{unit}")
}

impl Family<'_> {
    fn write(&self, name: &str, out: &mut String) -> fmt::Result {
        self.head(name, self.kind, out)?;
        for (labels, sample) in &self.samples {
            match sample.value {
                Value::Counter(n) => writeln!(out, "{name}_total{{{labels}}} {n}")?,
                Value::Gauge(n) => writeln!(out, "{name}{{{labels}}} {n}")?,
                Value::Profile { count, total, .. } => {
                    writeln!(out, "{name}_count{{{labels}}} {count}")?;
                    writeln!(out, "{name}_sum{{{labels}}} {total}")?;
                }
            }
        }
        if self.kind != "summary" {
            return Ok(());
        }
        for which in ["min", "max"] {
            let name = bound(name, self.unit, which);
            self.head(&name, "gauge", out)?;
            for (labels, sample) in &self.samples {
                if let Value::Profile {
                    min: Some(min),
                    max: Some(max),
                    ..
                } = sample.value
                {
                    let n = if which == "min" { min } else { max };
                    writeln!(out, "{name}{{{labels}}} {n}")?;
                }
            }
        }
        Ok(())
    }

    fn head(&self, name: &str, kind: &str, out: &mut String) -> fmt::Result {
        writeln!(out, "# TYPE {name} {kind}")?;
        if let Some(unit) = self.unit.strip_prefix('_') {
            writeln!(out, "# UNIT {name} {unit}")?;
        }
        if !self.about.is_empty() {
            writeln!(out, "# HELP {name} {}", escaped(self.about))?;
        }
        Ok(())
    }
}

fn kind(value: Value) -> &'static str {
    match value {
        Value::Counter(_) => "counter",
        Value::Gauge(_) => "gauge",
        Value::Profile { .. } => "summary",
    }
}

fn suffix(unit: Unit) -> &'static str {
    match unit {
        Unit::Count | Unit::Occurrences | Unit::Calls => "",
        Unit::Bytes => "_bytes",
        Unit::Pages => "_pages",
        Unit::Ns => "_nanoseconds",
        Unit::Hz => "_hertz",
        Unit::Percent => "_percent",
    }
}

fn name_and_labels(path: &str) -> (String, String) {
    let mut name = String::from("vm");
    let mut labels = String::new();
    let mut before = "";
    let mut used = BTreeSet::from(["path".to_owned()]);
    for component in path.split('/').filter(|c| !c.is_empty()) {
        let number = component.bytes().all(|b| b.is_ascii_digit());
        let label = word(before);
        if number && !before.is_empty() && !label.starts_with('_') && used.insert(label.clone()) {
            labels.push_str(&format!("{label}=\"{component}\","));
        } else {
            name.push('_');
            name.push_str(&word(component));
        }
        before = component;
    }
    labels.push_str(&format!("path=\"{}\"", escaped(path)));
    (name, labels)
}

/// A component with what a name cannot have replaced; a label does not begin with a digit.
fn word(component: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let word: String = component.chars().map(plain).collect();
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        format!("_{word}")
    } else {
        word
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}
