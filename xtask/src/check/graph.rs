// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The dependency graph: `docs/DAG.txt` against what Cargo resolves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

const FILE: &str = "docs/DAG.txt";

/// The crates of the workspace, each with its level and its dependencies in the workspace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Graph {
    crates: BTreeMap<String, Node>,
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    level: u8,
    needs: BTreeSet<String>,
}

type Edges = BTreeMap<String, BTreeSet<String>>;

impl Graph {
    /// Reads the file of the workspace.
    pub(crate) fn read() -> Result<Self> {
        let path = workspace::root().join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text).context(FILE)
    }

    /// Lines `LEVEL CRATE [<- CRATE ...]`; `#` starts a comment line.
    fn parse(text: &str) -> Result<Self> {
        let mut crates = BTreeMap::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || format!("line {}: {line:?} is not `L0 crate <- crate ...`", n + 1);
            let (left, right) = line.split_once("<-").unwrap_or((line, ""));
            let [level, name] = left.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!(wrong());
            };
            let level = level.strip_prefix('L').and_then(|level| level.parse().ok());
            let level = level.with_context(wrong)?;
            let needs = right.split_whitespace().map(str::to_owned).collect();
            if crates
                .insert(name.to_owned(), Node { level, needs })
                .is_some()
            {
                bail!("line {}: {name} is there twice", n + 1);
            }
        }
        let graph = Self { crates };
        graph.check_levels()?;
        Ok(graph)
    }

    fn check_levels(&self) -> Result<()> {
        for (name, node) in &self.crates {
            for need in &node.needs {
                let below = self.crates.get(need);
                let below =
                    below.with_context(|| format!("{name} <- {need}: no line for {need}"))?;
                if below.level >= node.level {
                    bail!(
                        "{name} <- {need}: L{} does not lie below L{}",
                        below.level,
                        node.level
                    );
                }
            }
        }
        Ok(())
    }

    /// Every difference between the file and Cargo's edges, in words.
    fn differences(&self, edges: &Edges) -> Vec<String> {
        let mut found = Vec::new();
        for (name, needs) in edges {
            let Some(node) = self.crates.get(name) else {
                found.push(format!("{name} is in the workspace, but not in {FILE}"));
                continue;
            };
            for need in needs.difference(&node.needs) {
                found.push(format!("{name} <- {need} is not allowed by {FILE}"));
            }
            for need in node.needs.difference(needs) {
                found.push(format!(
                    "{name} <- {need} stands in {FILE}, but is not used"
                ));
            }
        }
        for name in self.crates.keys().filter(|name| !edges.contains_key(*name)) {
            found.push(format!(
                "{name} stands in {FILE}, but is not in the workspace"
            ));
        }
        found
    }

    /// The crates that others adopt one at a time: levels 0 and 1.
    pub(crate) fn adoptable(&self) -> Vec<String> {
        let low = self.crates.iter().filter(|(_, node)| node.level <= 1);
        low.map(|(name, _)| name.clone()).collect()
    }

    /// The crates that must compile for other processors too: all but the backends and programs.
    pub(crate) fn portable(&self) -> Vec<String> {
        let portable = |node: &Node| matches!(node.level, 0 | 1 | 3);
        let found = self.crates.iter().filter(|(_, node)| portable(node));
        found.map(|(name, _)| name.clone()).collect()
    }
}

/// The check: no difference.
pub(crate) fn check() -> Result<String> {
    let graph = Graph::read()?;
    let metadata = workspace::metadata()?;
    let wrong = graph.differences(&edges(&metadata)?);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(format!("{} crates", graph.crates.len()))
}

/// Normal dependencies between workspace members, from `cargo metadata --no-deps`.
fn edges(metadata: &serde_json::Value) -> Result<Edges> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let names: BTreeSet<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut edges = Edges::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let needs = package["dependencies"]
            .as_array()
            .context("a package has dependencies")?;
        // A normal dependency has no kind; the others are "dev" and "build".
        let normal = needs.iter().filter(|need| need["kind"].is_null());
        let inside = normal
            .filter_map(|need| need["name"].as_str())
            .filter(|n| names.contains(n));
        edges.insert(name.to_owned(), inside.map(str::to_owned).collect());
    }
    Ok(edges)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_TEXT: &str = "# comment\n\nL0 a\nL1 b <- a\nL3 c <- a b\n";

    fn edges_of(all: &[(&str, &[&str])]) -> Edges {
        let set = |needs: &[&str]| needs.iter().map(|n| (*n).to_owned()).collect();
        all.iter()
            .map(|(name, needs)| ((*name).to_owned(), set(needs)))
            .collect()
    }

    #[test]
    fn an_equal_graph_has_no_differences() {
        let graph = Graph::parse(FILE_TEXT).unwrap();
        let edges = edges_of(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]);
        assert!(graph.differences(&edges).is_empty());
        assert_eq!(graph.portable(), ["a", "b", "c"]);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let graph = Graph::parse(FILE_TEXT).unwrap();
        let edges = edges_of(&[("a", &["b"]), ("b", &[]), ("d", &[])]);
        let found = graph.differences(&edges).join("\n");
        assert!(found.contains("a <- b is not allowed"));
        assert!(found.contains("b <- a stands in"));
        assert!(found.contains("d is in the workspace, but not"));
        assert!(found.contains("c stands in"));
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for (text, says) in [
            ("a <- b", "line 1"),
            ("L0 a\nL0 a", "twice"),
            ("L1 a <- b", "no line for b"),
            ("L1 a <- b\nL1 b", "does not lie below"),
            ("Lx a", "line 1"),
        ] {
            let error = Graph::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_normal_dependencies_inside_the_workspace_are_edges() {
        let metadata = serde_json::json!({"packages": [
            {"name": "a", "dependencies": []},
            {"name": "b", "dependencies": [
                {"name": "a", "kind": null}, {"name": "serde", "kind": null}]},
            {"name": "c", "dependencies": [{"name": "a", "kind": "dev"}]},
        ]});
        let want = edges_of(&[("a", &[]), ("b", &["a"]), ("c", &[])]);
        assert_eq!(edges(&metadata).unwrap(), want);
    }
}
