// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where on the host a console ends, as the user names it: a file, a terminal device, a socket.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vm_devices::{Ends, SerialInput};

use crate::control::dial;

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

/// A place that a console can end at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndsAt {
    /// A file takes output at its end, and is made if need be; a terminal device gives input too.
    Path(PathBuf),
    /// A program that listens at a stream socket gets output and gives input.
    Socket(PathBuf),
}

impl EndsAt {
    /// `unix:` before a path is a socket's.
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Socket(path.into()),
            None => Self::Path(text.into()),
        }
    }

    /// Opens it, or connects to it; waits for a few seconds at most.
    ///
    /// # Errors
    /// What cannot be, with the path.
    pub(crate) fn open(&self) -> anyhow::Result<Console> {
        let (input, output) = match self {
            Self::Path(path) => file(path),
            Self::Socket(path) => socket(path),
        }
        .with_context(|| self.to_string())?;
        let name = self.to_string();
        Ok(Console {
            name,
            input,
            output,
        })
    }
}

impl fmt::Display for EndsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

type Pair = (Option<Box<dyn SerialInput>>, Box<dyn Write + Send>);

fn file(path: &Path) -> anyhow::Result<Pair> {
    // Looked at before it is opened, because opening a pipe would wait.
    let is_device = match path.metadata() {
        Ok(found) if found.file_type().is_char_device() => true,
        Ok(found) if found.is_file() => false,
        Ok(found) if found.file_type().is_socket() => {
            bail!("is a socket: give unix:{}", path.display())
        }
        Ok(_) => bail!("give a file, a terminal device, or unix: and the path of a socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    if !is_device {
        let output = OpenOptions::new().append(true).create(true).open(path)?;
        return Ok((None, Box::new(output)));
    }
    let input = device(path, OpenOptions::new().read(true))?;
    let output = device(path, OpenOptions::new().write(true))?;
    Ok((Some(Box::new(input)), Box::new(output)))
}

/// Opens a device without waiting for a carrier, and without its becoming this program's terminal.
fn device(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = options
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

fn socket(path: &Path) -> anyhow::Result<Pair> {
    let ours = dial(path)
        .map_err(io::Error::from)
        .context("cannot connect; see that a program listens there")?;
    Ok((Some(Box::new(ours.try_clone()?)), Box::new(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    fn path(path: &Path) -> anyhow::Result<Console> {
        EndsAt::Path(path.to_owned()).open()
    }

    #[test]
    fn output_goes_to_the_end_of_a_file_and_there_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for expected in ["one", "oneone"] {
            let mut console = path(&log).unwrap();
            assert!(console.input.is_none());
            assert_eq!(console.name, log.to_str().unwrap());
            console.output.write_all(b"one").unwrap();
            assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
        }
    }

    #[test]
    fn a_terminal_device_gives_input_too_and_what_is_neither_is_refused() {
        let mut console = path(Path::new("/dev/null")).unwrap();
        assert_eq!(console.input.as_mut().unwrap().read(&mut [0]).unwrap(), 0);
        let dir = tempfile::tempdir().unwrap();
        assert!(path(dir.path()).is_err());
        assert!(path(&dir.path().join("no/file")).is_err());
    }

    #[test]
    fn a_socket_is_connected_to_both_ways_and_its_absence_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("s");
        let end = EndsAt::parse(&format!("unix:{}", at.display()));
        assert_eq!(end, EndsAt::Socket(at.clone()));
        let error = format!("{:#}", end.open().err().unwrap());
        assert!(error.contains(&format!("unix:{}: cannot", at.display())));
        let listener = UnixListener::bind(&at).unwrap();
        let error = format!("{:#}", path(&at).err().unwrap());
        assert!(error.ends_with(&end.to_string()), "{error}");
        let mut console = end.open().unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let mut got = [0; 2];
        console.output.write_all(b"ab").unwrap();
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ab");
        theirs.write_all(b"cd").unwrap();
        let mut input = console.input.unwrap();
        input.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"cd");
    }
}
