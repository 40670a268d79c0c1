// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The terminal in raw mode, and back again whatever happens.
//!
//! The mode found at start is kept in one place; it is put back when [`Raw`] is dropped, by the panic
//! hook, and by the thread that takes signals. Putting it back twice does no harm.

use std::io::IsTerminal;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// While this lives, standard input is a raw terminal; nothing happens if it is none.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes standard input raw.
    ///
    /// # Errors
    /// What the host said.
    pub(crate) fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(()));
        }
        let found = tcgetattr(&stdin)?;
        let mut raw = found.clone();
        raw.make_raw();
        // Output processing stays: messages of ours end in a bare newline.
        raw.output_modes = found.output_modes;
        keep(Some(found));
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn keep(found: Option<Termios>) {
    *FOUND
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = found;
}

/// Puts back the mode found at start.
pub(crate) fn restore() {
    let found = FOUND
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(found) = found.as_ref() {
        // Nothing is left to do about a terminal that has gone away.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, found);
    }
}
