// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a client has sent, cut into requests however it arrived. No socket, no VM.

use super::protocol::{self, LINE_LIMIT, Rejected, Request};

/// Input that has not been read as requests yet. Bounded if nothing is pushed while it
/// [is full](Self::is_full).
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// What is before it has been read.
    start: usize,
    /// Between `start` and it no line ends: who sends byte by byte has each looked at once.
    seen: usize,
}

impl Lines {
    /// Whether there is more than the longest request: whole lines, or one that is too long.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.start > LINE_LIMIT
    }

    /// Adds what arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a whole line is there.
    pub(super) fn has_line(&self) -> bool {
        self.next_end().is_some()
    }

    /// Takes the oldest line; `None` if there is no whole one.
    ///
    /// # Errors
    /// As [`protocol::parse`]; and a line that is too long is malformed before its end is there.
    pub(super) fn request(&mut self) -> Result<Option<Request>, Rejected> {
        let Some(end) = self.next_end() else {
            self.seen = self.bytes.len();
            return if self.is_full() {
                Err(Rejected::too_long())
            } else {
                Ok(None)
            };
        };
        let line = self.bytes.get(self.start..end).unwrap_or_default();
        let request = protocol::parse(line);
        self.start = end + 1;
        self.seen = self.start;
        request.map(Some)
    }

    /// Where the oldest line ends, if it does.
    fn next_end(&self) -> Option<usize> {
        let unseen = self.bytes.get(self.seen..)?;
        let end = unseen.iter().position(|byte| *byte == b'\n')?;
        Some(self.seen + end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Op;
    use super::*;

    #[test]
    fn requests_come_out_whole_and_in_order_however_they_were_cut() {
        let text = b"{\"op\":\"status\"}\n{\"op\":\"reset\"}\n{\"op\":\"sus";
        for size in 1..=text.len() {
            let (mut lines, mut ops) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(request) = lines.request().unwrap() {
                    ops.push(request.op);
                }
                assert!(!lines.has_line());
            }
            assert_eq!(ops, [Op::Status, Op::Reset], "pieces of {size}");
            lines.push(b"pend\"}\n");
            assert!(lines.has_line());
            assert_eq!(lines.request().unwrap().unwrap().op, Op::Suspend);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_malformed_with_and_without_its_end() {
        let mut lines = Lines::default();
        lines.push(&vec![b' '; LINE_LIMIT]);
        assert_eq!(lines.request(), Ok(None));
        assert!(!lines.is_full());
        lines.push(b" ");
        assert!(lines.is_full());
        assert_eq!(lines.request(), Err(Rejected::too_long()));
        lines.push(b"\n");
        assert_eq!(lines.request(), Err(Rejected::too_long()));
    }
}
