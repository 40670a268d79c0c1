// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A set of vCPU numbers, made once and reused.

/// A set of the numbers below a limit given at its making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuSet {
    words: Box<[u64]>,
    len: u32,
}

impl CpuSet {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            words: (0..limit.div_ceil(64)).map(|_| 0).collect(),
            len: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.len = 0;
    }

    /// Moves the set out and leaves one that holds nothing and never will. Allocates nothing.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(
            self,
            Self {
                words: Box::default(),
                len: 0,
            },
        )
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn contains(&self, v: u32) -> bool {
        place(v).is_some_and(|(at, bit)| self.words.get(at).is_some_and(|word| word & bit != 0))
    }

    /// Numbers beyond the limit are ignored.
    pub(crate) fn insert(&mut self, v: u32) {
        if let Some(word) = self.word(v) {
            let bit = 1 << (v % 64);
            if *word & bit == 0 {
                *word |= bit;
                self.len += 1;
            }
        }
    }

    pub(crate) fn remove(&mut self, v: u32) {
        if let Some(word) = self.word(v) {
            let bit = 1 << (v % 64);
            if *word & bit != 0 {
                *word &= !bit;
                self.len -= 1;
            }
        }
    }

    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.clear();
        for (own, word) in self.words.iter_mut().zip(&*other.words) {
            *own = *word;
        }
        self.len = other.len;
    }

    /// From the lowest up.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        (0..self.limit()).filter(|&v| self.contains(v))
    }

    fn limit(&self) -> u32 {
        u32::try_from(self.words.len() * 64).unwrap_or(u32::MAX)
    }

    fn word(&mut self, v: u32) -> Option<&mut u64> {
        place(v).and_then(|(at, _)| self.words.get_mut(at))
    }
}

fn place(v: u32) -> Option<(usize, u64)> {
    Some((usize::try_from(v / 64).ok()?, 1 << (v % 64)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_not_taken_out(
            acts in proptest::collection::vec((any::<bool>(), 0..140_u32), 0..200)
        ) {
            let (mut set, mut model) = (CpuSet::new(130), BTreeSet::new());
            for (put, v) in acts {
                if put {
                    set.insert(v);
                    model.insert(v);
                } else {
                    set.remove(v);
                    model.remove(&v);
                }
                prop_assert_eq!(set.contains(v), model.contains(&v));
            }
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert!(set.iter().rev().eq(model.iter().rev().copied()));
            let mut copy = CpuSet::new(130);
            copy.copy_from(&set);
            prop_assert_eq!(&copy, &set);
            set.clear();
            prop_assert_eq!(set.len(), 0);
        }
    }

    #[test]
    fn a_number_beyond_the_last_word_is_ignored() {
        let mut set = CpuSet::new(64);
        set.insert(64);
        assert_eq!((set.len(), set.contains(64)), (0, false));
    }
}
