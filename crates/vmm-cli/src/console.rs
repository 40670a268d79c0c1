// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the guest's consoles end on the host.
//!
//! One of them has this terminal, or whatever standard input and output are. COM1 always writes
//! there, so that what a kernel says before its console driver runs is not lost; it reads from there
//! unless the virtio console does.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;

use anyhow::{Context, bail};
use vm_devices::SerialInput;

use crate::ends::{Console, EndsAt};
use crate::keyboard::Keyboard;
use crate::run::Event;

/// Which console is the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// COM1; there is no other.
    Serial,
    /// The virtio console.
    Virtio,
    /// COM1, and the virtio console ends at a file, terminal device or socket.
    VirtioAt(EndsAt),
}

impl Choice {
    /// # Errors
    /// What it is not, and what it can be.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once(':') {
            None if text == "serial" => Self::Serial,
            None if text == "virtio" => Self::Virtio,
            Some(("virtio", at)) if !["", "unix:"].contains(&at) => {
                Self::VirtioAt(EndsAt::parse(at))
            }
            _ => bail!("console {text:?}: give serial, virtio, virtio:FILE or virtio:unix:PATH"),
        })
    }

    /// How many windows of virtio-mmio it takes.
    pub(crate) fn windows(&self) -> usize {
        match self {
            Self::Serial => 0,
            Self::Virtio | Self::VirtioAt(_) => 1,
        }
    }

    /// The kernel's console, unless the user says otherwise.
    pub(crate) fn append(&self) -> &'static str {
        match self {
            Self::Serial | Self::VirtioAt(_) => "console=ttyS0",
            Self::Virtio => "console=hvc0",
        }
    }
}

/// The ends of all consoles.
pub(crate) struct Consoles {
    pub(crate) serial: Console,
    pub(crate) virtio: Option<Console>,
}

/// Opens what `choice` names.
///
/// # Errors
/// Those of [`EndsAt::open`].
pub(crate) fn open(choice: &Choice) -> anyhow::Result<Option<Console>> {
    match choice {
        Choice::Serial | Choice::Virtio => Ok(None),
        Choice::VirtioAt(at) => at.open().context("console").map(Some),
    }
}

/// Gives this terminal to the console that has it; `apart` is what [`open`] opened.
///
/// # Errors
/// What the host said.
pub(crate) fn connect(
    choice: &Choice,
    apart: Option<Console>,
    events: &Sender<Event>,
) -> io::Result<(Consoles, Option<Keyboard>)> {
    let (input, keyboard) = standard_input(events)?;
    let here = |input: Option<_>| Console {
        name: match input {
            Some(_) => "standard input and output",
            None => "standard output",
        }
        .to_owned(),
        input,
        output: Box::new(io::stdout()),
    };
    let consoles = match choice {
        Choice::Serial | Choice::VirtioAt(_) => Consoles {
            serial: here(Some(input)),
            virtio: apart,
        },
        Choice::Virtio => Consoles {
            serial: here(None),
            virtio: Some(here(Some(input))),
        },
    };
    Ok((consoles, keyboard))
}

/// At a terminal, Ctrl-A is the user's; from a pipe or a file, every byte is the guest's.
fn standard_input(events: &Sender<Event>) -> io::Result<(Box<dyn SerialInput>, Option<Keyboard>)> {
    if io::stdin().is_terminal() {
        let (keyboard, out) = Keyboard::start(events.clone())?;
        return Ok((Box::new(out), Some(keyboard)));
    }
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    Ok((Box::new(input), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_one_of_three_and_nothing_else() {
        let parse = |text| Choice::parse(text).map_err(|e| e.to_string());
        assert_eq!(parse("serial"), Ok(Choice::Serial));
        assert_eq!(parse("virtio"), Ok(Choice::Virtio));
        assert_eq!(
            parse("virtio:a:b"),
            Ok(Choice::VirtioAt(EndsAt::Path("a:b".into())))
        );
        let socket = EndsAt::Socket("/s".into());
        assert_eq!(parse("virtio:unix:/s"), Ok(Choice::VirtioAt(socket)));
        for text in ["", "hvc0", "virtio:", "virtio:unix:", "serial:x", "Virtio"] {
            assert!(
                parse(text).is_err_and(|e| e.contains("virtio:FILE")),
                "{text}"
            );
        }
    }
}
