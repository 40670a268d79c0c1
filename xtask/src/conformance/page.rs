// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The page: one table for each family.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::ids::List;
use super::listing::Test;
use super::{Shown, exemption, families};

const HEAD: &str = "\
# Conformance

What a VM must do, case by case, and the tests that show it. A test carries the ids of its cases in
front of its name. The page is written by `cargo xtask conformance` from the names of the tests;
`cargo xtask check` fails when it is out of date, when a case has neither a test nor a reason why it
does not apply, and when it has both. Whatever must be quick is shown by counts and order, never by a
clock.
";

/// The whole page.
pub(crate) fn render(shown: &Shown) -> String {
    let mut page = format!("{HEAD}\n{}.\n", sum(shown));
    for family in families() {
        let (letter, title) = (family.letter, family.title);
        let list = match family.list {
            List::Lifecycle => "",
            List::SavedState => "sd ",
        };
        page.push_str(&format!(
            "\n## {list}{letter}: {title}\n\n| id | case | shown by |\n|--|--|--|\n"
        ));
        for (id, text) in family.cases() {
            let by = match (shown.get(&id), exemption(id)) {
                (Some(tests), _) => named(tests),
                (None, Some(why)) => format!("does not apply: {why}"),
                (None, None) => "**open**".to_owned(),
            };
            line(&mut page, &[&id.to_string(), text, &by]);
        }
    }
    let listed: BTreeSet<_> = families()
        .flat_map(|f| f.cases().map(|(id, _)| id))
        .collect();
    let others: Vec<_> = shown
        .iter()
        .filter(|(id, _)| !listed.contains(id))
        .collect();
    if !others.is_empty() {
        page.push_str(
            "\n## Cases of other families\n\nWhat tests show of saved states, statistics, buses, timers and \
             pages (sd), where not\nevery case is settled yet.\n\n| id | shown by |\n|--|--|\n",
        );
        for (id, tests) in others {
            line(&mut page, &[&id.to_string(), &named(tests)]);
        }
    }
    page
}

/// How many cases there are, of which sort.
pub(crate) fn sum(shown: &Shown) -> String {
    let (mut count, mut exempt, mut open) = (0, 0, 0);
    let mut tests = BTreeSet::new();
    for (id, _) in families().flat_map(|family| family.cases()) {
        count += 1;
        match shown.get(&id) {
            Some(by) => tests.extend(by),
            None if exemption(id).is_some() => exempt += 1,
            None => open += 1,
        }
    }
    let shown = count - exempt - open;
    format!(
        "{count} cases: {shown} shown by {} tests, {exempt} that do not apply, {open} open",
        tests.len()
    )
}

fn named(tests: &[Test]) -> String {
    let each = |test: &Test| format!("{}: `{}`", test.package, test.name);
    tests.iter().map(each).collect::<Vec<_>>().join("<br>")
}

fn line(page: &mut String, cells: &[&str]) {
    page.push('|');
    for cell in cells {
        let cell = cell.replace('|', "\\|");
        write!(page, " {cell} |").expect("a string takes anything");
    }
    page.push('\n');
}
