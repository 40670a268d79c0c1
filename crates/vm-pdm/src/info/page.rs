// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a handler writes: text for a person, of a bounded length.

use std::fmt;

/// Longest text of a page, in bytes.
const PAGE_MAX: usize = 256 << 10;

/// Text, of which what is too much is left out: then every write fails, so that a handler that
/// minds ends early, and one that does not does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    text: String,
    cut: bool,
}

impl Page {
    /// Nothing written.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written; ends with a line that says so if something was left out.
    pub fn into_text(self) -> String {
        let mut text = self.text;
        if self.cut {
            text.push_str("\n(the rest is left out)\n");
        }
        text
    }
}

impl fmt::Write for Page {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.cut {
            return Err(fmt::Error);
        }
        let room = PAGE_MAX - self.text.len();
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        self.cut = more.len() > room;
        if self.cut { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn a_page_is_bounded_and_cut_between_characters() {
        let mut page = Page::new();
        page.write_str(&"x".repeat(PAGE_MAX - 1)).unwrap();
        assert!(page.write_str("\u{e9}yz").is_err());
        assert!(page.write_str("more").is_err());
        let text = page.into_text();
        assert!(text.ends_with("x\n(the rest is left out)\n"));
        assert_eq!(text.find('\n'), Some(PAGE_MAX - 1));
    }

    #[test]
    fn a_page_that_is_just_full_is_whole() {
        let mut page = Page::new();
        page.write_str(&"x".repeat(PAGE_MAX)).unwrap();
        page.write_str("").unwrap();
        assert_eq!(page.into_text().len(), PAGE_MAX);
    }
}
