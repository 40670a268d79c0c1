// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the guest's consoles end on the host.
//!
//! One of them has this terminal, or whatever standard input and output are. COM1 always writes
//! there, so that what a kernel says before its console driver runs is not lost; it reads from there
//! unless the virtio console does.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::{Context, bail};
use rustix::fs::OFlags;
use vm_devices::{Ends, SerialInput};

use crate::keyboard::Keyboard;
use crate::run::Event;

/// Which console is the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// COM1; there is no other.
    Serial,
    /// The virtio console.
    Virtio,
    /// COM1, and the virtio console ends at a file or terminal device.
    VirtioAt(PathBuf),
}

impl Choice {
    /// # Errors
    /// What it is not, and what it can be.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once(':') {
            None if text == "serial" => Self::Serial,
            None if text == "virtio" => Self::Virtio,
            Some(("virtio", path)) if !path.is_empty() => Self::VirtioAt(path.into()),
            _ => bail!("console {text:?}: give serial, virtio, or virtio:FILE"),
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

/// What goes into and comes out of a console.
pub(crate) struct Console {
    /// What it is called.
    pub(crate) name: String,
    pub(crate) input: Option<Box<dyn SerialInput>>,
    pub(crate) output: Box<dyn Write + Send>,
}

impl From<Console> for Ends {
    fn from(console: Console) -> Self {
        Self::new(&console.name, console.input, console.output)
    }
}

/// The ends of all consoles.
pub(crate) struct Consoles {
    pub(crate) serial: Console,
    pub(crate) virtio: Option<Console>,
}

/// Opens the file that `choice` names.
///
/// # Errors
/// It cannot be opened, or is neither a file nor a terminal.
pub(crate) fn open(choice: &Choice) -> anyhow::Result<Option<Console>> {
    match choice {
        Choice::Serial | Choice::Virtio => Ok(None),
        Choice::VirtioAt(path) => file(path)
            .with_context(|| format!("console {}", path.display()))
            .map(Some),
    }
}

/// A file takes output at its end; a terminal device gives input too.
fn file(path: &Path) -> anyhow::Result<Console> {
    let mut options = OpenOptions::new();
    // Looked at before it is opened, because opening a pipe would wait.
    let input: Option<Box<dyn SerialInput>> = match path.metadata() {
        Ok(found) if found.file_type().is_char_device() => {
            let no_controlling_terminal = OFlags::NOCTTY.bits().cast_signed();
            options.custom_flags(no_controlling_terminal);
            Some(Box::new(options.read(true).open(path)?))
        }
        Ok(found) if found.is_file() => None,
        Ok(_) => bail!("give a file or a terminal device"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    options.read(false).write(true);
    if input.is_none() {
        options.append(true).create(true);
    }
    let output = Box::new(options.open(path)?);
    let name = path.display().to_string();
    Ok(Console {
        name,
        input,
        output,
    })
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
    use std::io::Read;

    #[test]
    fn a_console_is_one_of_three_and_nothing_else() {
        let parse = |text| Choice::parse(text).map_err(|e| e.to_string());
        assert_eq!(parse("serial"), Ok(Choice::Serial));
        assert_eq!(parse("virtio"), Ok(Choice::Virtio));
        assert_eq!(parse("virtio:a:b"), Ok(Choice::VirtioAt("a:b".into())));
        for text in ["", "hvc0", "virtio:", "serial:x", "Virtio"] {
            assert!(
                parse(text).is_err_and(|e| e.contains("virtio:FILE")),
                "{text}"
            );
        }
    }

    #[test]
    fn output_goes_to_the_end_of_a_file_and_there_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for expected in ["one", "oneone"] {
            let mut console = file(&path).unwrap();
            assert!(console.input.is_none());
            console.output.write_all(b"one").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_terminal_device_gives_input_too_and_what_is_neither_is_refused() {
        let mut console = file(Path::new("/dev/null")).unwrap();
        assert_eq!(console.input.as_mut().unwrap().read(&mut [0]).unwrap(), 0);
        let dir = tempfile::tempdir().unwrap();
        assert!(file(dir.path()).is_err());
        assert!(file(&dir.path().join("no/file")).is_err());
    }
}
