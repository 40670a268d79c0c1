// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which statistics are meant: paths with wildcards.

use std::str::FromStr;

use super::StatError;

/// Longest text of a pattern, in bytes: matching takes at most its square's time for each path.
const PATTERN_MAX: usize = 1024;

/// Alternatives separated by `|`, each a path in which `*` stands for any text, `/` included, and `?`
/// for any one character. The default is `*`: everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Vec<char>>);

impl Default for Pattern {
    fn default() -> Self {
        Self(vec![vec!['*']])
    }
}

impl FromStr for Pattern {
    type Err = StatError;

    /// # Errors
    /// [`StatError::Pattern`] for an alternative that is empty, and for more than 1024 bytes.
    fn from_str(text: &str) -> Result<Self, StatError> {
        let wrong = |why| StatError::Pattern { why };
        if text.len() > PATTERN_MAX {
            return Err(wrong("it is longer than 1024 bytes"));
        }
        if text.split('|').any(str::is_empty) {
            return Err(wrong("it is empty, or has an empty alternative"));
        }
        Ok(Self(text.split('|').map(|a| a.chars().collect()).collect()))
    }
}

impl Pattern {
    /// Whether one of the alternatives is `path`.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        self.0.iter().any(|glob| fits(glob, &path))
    }
}

/// Matches left to right; where it fails, the last `*` takes one character more. An earlier `*`
/// never has to, since the last one can take all that it would.
fn fits(glob: &[char], path: &[char]) -> bool {
    let (mut g, mut p) = (0, 0);
    let mut star = None;
    while p < path.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, p));
                g += 1;
            }
            Some(&c) if c == '?' || c == path[p] => {
                g += 1;
                p += 1;
            }
            Some(_) | None => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (g, p) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the pattern means, said without regard to time.
    fn means(glob: &[char], path: &[char]) -> bool {
        match (glob.split_first(), path.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=path.len()).any(|taken| means(rest, &path[taken..])),
            (Some((&g, glob)), Some((&p, path))) => (g == '?' || g == p) && means(glob, path),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_its_definition_says(glob in "[ab*?]{1,8}", path in "[ab]{0,8}") {
            let pattern: Pattern = glob.parse().unwrap();
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(pattern.matches(&path), means(&chars(&glob), &chars(&path)));
        }
    }

    #[test]
    fn an_alternative_that_is_empty_is_refused() {
        for text in ["", "|", "/a|", "|/a", "/a||/b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        assert!("*".repeat(1025).parse::<Pattern>().is_err());
    }
}
