// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Ids of cases, and how a test's name carries them: `t_s05_suspend_records_its_reason`,
//! `t_r17_r18_..` or `t_r17_t_r18_..` for several, `sd_p08_..` for the list of saved states.

use std::fmt;

/// Which list an id belongs to: their letters overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    Lifecycle,
    SavedState,
}

/// Shown as `S05`, or `sd P08`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) list: List,
    pub(crate) family: char,
    pub(crate) number: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match self.list {
            List::Lifecycle => "",
            List::SavedState => "sd ",
        };
        write!(f, "{list}{}{:02}", self.family, self.number)
    }
}

impl Id {
    /// The case of a list that is written `S05` or `s05`.
    pub(crate) fn of(list: List, word: &str) -> Option<Self> {
        let mut letters = word.chars();
        let family = letters.next().filter(char::is_ascii_alphabetic)?;
        let digits = letters.as_str();
        if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            list,
            family: family.to_ascii_uppercase(),
            number: digits.parse().ok()?,
        })
    }
}

/// The ids that a test's name (without its modules) begins with.
///
/// # Errors
/// What is wrong with a name that means to carry ids but does not.
pub(crate) fn carried(name: &str) -> Result<Vec<Id>, String> {
    let (mut list, mut ids) = (None, Vec::new());
    for word in name.split('_') {
        match (word, list) {
            ("t", _) => list = Some(List::Lifecycle),
            ("sd", _) => list = Some(List::SavedState),
            (_, Some(list)) => match Id::of(list, word) {
                Some(id) => ids.push(id),
                None => break,
            },
            (_, None) => break,
        }
    }
    if list.is_some() && ids.is_empty() {
        return Err(format!("{name}: no id behind its `t_` or `sd_`"));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> Vec<String> {
        carried(name).unwrap().iter().map(Id::to_string).collect()
    }

    #[test]
    fn a_name_carries_its_ids_in_front() {
        assert_eq!(shown("t_s05_suspend_records_its_reason"), ["S05"]);
        assert_eq!(shown("t_q08_q09_results"), ["Q08", "Q09"]);
        assert_eq!(shown("t_r17_t_r18_emts"), ["R17", "R18"]);
        assert_eq!(shown("sd_p08_t_s33_late"), ["sd P08", "S33"]);
        assert_eq!(shown("t_s05"), ["S05"]);
    }

    #[test]
    fn other_names_carry_none() {
        for name in [
            "a_reset_keeps_t_s05",
            "x86_state",
            "s05_is_bare",
            "",
            "thirty_two",
        ] {
            assert!(shown(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_prefix_without_an_id_is_reported() {
        for name in ["t_shirts_fit", "sd_card", "t_s5_short", "t_s005_long", "t_"] {
            assert!(carried(name).unwrap_err().contains(name));
        }
    }
}
