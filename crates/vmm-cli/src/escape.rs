// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Ctrl-A: what the user tells the program rather than the guest.

/// What a byte typed by the user means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Nothing yet.
    Held,
    /// For the guest.
    Byte(u8),
    /// End the program.
    Quit,
    /// Say what can be typed.
    Help,
}

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// Watches for Ctrl-A x.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    held: bool,
}

impl Escape {
    /// Takes the next byte. Ctrl-A twice sends one Ctrl-A; Ctrl-A and anything else sends that.
    pub(crate) fn take(&mut self, byte: u8) -> Typed {
        match (std::mem::take(&mut self.held), byte) {
            (false, ESCAPE) => {
                self.held = true;
                Typed::Held
            }
            (true, b'x' | b'X') => Typed::Quit,
            (true, b'h' | b'?') => Typed::Help,
            (_, byte) => Typed::Byte(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &[u8]) -> Vec<Typed> {
        let mut escape = Escape::default();
        text.iter()
            .map(|&b| escape.take(b))
            .filter(|t| *t != Typed::Held)
            .collect()
    }

    #[test]
    fn ctrl_a_x_quits() {
        assert_eq!(typed(b"a\x01x"), [Typed::Byte(b'a'), Typed::Quit]);
    }

    #[test]
    fn ctrl_a_twice_sends_one() {
        assert_eq!(typed(b"\x01\x01x"), [Typed::Byte(1), Typed::Byte(b'x')]);
    }

    #[test]
    fn x_alone_is_for_the_guest() {
        assert_eq!(typed(b"x"), [Typed::Byte(b'x')]);
    }

    #[test]
    fn ctrl_a_h_asks_for_help() {
        assert_eq!(typed(b"\x01h"), [Typed::Help]);
    }
}
