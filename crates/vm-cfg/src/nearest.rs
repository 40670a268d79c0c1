// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The known key most like one that is not known.

/// Longer keys are compared by their beginning only.
const LENGTH_LIMIT: usize = 64;

/// Of `known`, the one that the fewest edits make of `key`; none if all are too unlike it.
pub(crate) fn nearest<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let key: Vec<char> = key.chars().take(LENGTH_LIMIT).collect();
    let allowed = (key.len() / 3).max(1);
    known
        .map(|other| {
            let chars: Vec<char> = other.chars().take(LENGTH_LIMIT).collect();
            (distance(&key, &chars), other)
        })
        .filter(|&(edits, _)| edits > 0 && edits <= allowed)
        .min()
        .map(|(_, other)| other)
}

/// How many insertions, deletions, replacements and swaps of neighbours make `b` of `a`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            let mut edits = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(a: &str, b: &str) -> usize {
        distance(
            &a.chars().collect::<Vec<_>>(),
            &b.chars().collect::<Vec<_>>(),
        )
    }

    #[test]
    fn each_kind_of_edit_counts_once() {
        assert_eq!(edits("memory", "memory"), 0);
        assert_eq!(edits("memroy", "memory"), 1);
        assert_eq!(edits("memor", "memory"), 1);
        assert_eq!(edits("memoory", "memory"), 1);
        assert_eq!(edits("nemory", "memory"), 1);
        assert_eq!(edits("", "cpus"), 4);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_key_is_suggested_and_an_unlike_one_is_not() {
        let known = || ["cpus", "memory", "kernel"].into_iter();
        assert_eq!(nearest("cpu", known()), Some("cpus"));
        assert_eq!(nearest("memroy", known()), Some("memory"));
        assert_eq!(nearest("initrd", known()), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), known()), None);
    }
}
