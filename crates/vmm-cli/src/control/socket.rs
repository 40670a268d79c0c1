// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The socket's file: made so that it was never open to others, a dead program's replaced, a live
//! one's refused, and removed at the end.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::poll;
use rustix::fs::{FlockOperation, Timespec, flock};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How often the directory's lock is tried, 20 ms apart; its holders need microseconds.
const LOCK_TRIES: u32 = 100;

/// How long it is waited for a program that is there to take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another program serves it.
    #[error("{0}: a running program serves this control socket; give this VM another path")]
    Live(PathBuf),
    /// Something else lies there.
    #[error("{0} exists and is not a socket; remove it or give another path")]
    NotSocket(PathBuf),
    /// The host said no.
    #[error("cannot {what} {path}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket with its file; dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a file somebody else put there stays.
    file: (u64, u64),
}

impl Bound {
    /// Makes the socket and listens, mode 0600. Connections wait until they are served.
    ///
    /// # Errors
    /// [`SocketError`]; what lay at `path` is untouched, unless it was a dead program's socket.
    pub(crate) fn new(path: &Path) -> Result<Self, SocketError> {
        let host = |what| {
            move |source| SocketError::Host {
                what,
                path: path.to_owned(),
                source,
            }
        };
        // It is bound by another path, which may be short enough when this one is not.
        SocketAddrUnix::new(path)
            .map_err(io::Error::from)
            .map_err(host("use, as the path of a socket,"))?;
        // Who holds this decides alone whether the file that is there is dead.
        let lock = lock_directory(path).map_err(host("lock the directory of"))?;
        clear(path)?;
        let listener = listen(path).map_err(host("make the control socket"))?;
        let file = path
            .symlink_metadata()
            .map_err(host("look at the control socket"))?;
        drop(lock);
        listener
            .set_nonblocking(true)
            .map_err(host("listen at the control socket"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
        })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = |path: &Path| {
            let file = path.symlink_metadata();
            file.is_ok_and(|file| (file.dev(), file.ino()) == self.file)
        };
        if ours(&self.path)
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::warn!(target: "vmm.control", "{} stays behind: {e}", self.path.display());
        }
    }
}

/// Makes the socket where nobody else can come, and moves it into place with its mode set. (A mode
/// mask would do as well, but it is the whole process', and other threads make files.)
fn listen(path: &Path) -> io::Result<UnixListener> {
    let private = path.with_file_name(format!(".{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&private)?;
    let inside = private.join("s");
    let made = UnixListener::bind(&inside).and_then(|listener| {
        std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    });
    if made.is_err() {
        // Absent if the bind failed; what stays is harmless.
        let _ = std::fs::remove_file(&inside);
    }
    let _ = std::fs::remove_dir(&private);
    made
}

/// Removes a dead program's socket.
fn clear(path: &Path) -> Result<(), SocketError> {
    let host = |what, source| SocketError::Host {
        what,
        path: path.to_owned(),
        source,
    };
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(host("look at", e)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(SocketError::NotSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match connect_to(path, SocketFlags::NONBLOCK) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|e| host("remove the dead socket", e))
        }
        // Gone meanwhile: its program just ended.
        Err(Errno::NOENT) => Ok(()),
        // Whatever else it says, somebody may be there.
        Ok(_) | Err(Errno::AGAIN) => Err(SocketError::Live(path.to_owned())),
        Err(e) => Err(host("tell who serves", e.into())),
    }
}

fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            // A lock of this sort has no limit of its own, hence tries.
            Err(Errno::WOULDBLOCK) => {
                let pause = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let _ = poll(&mut [], Some(&pause));
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "another program holds a lock on it for seconds",
    ))
}

/// Connects, within a limit.
///
/// # Errors
/// What the host said; `AGAIN` if nobody took the connection in time.
pub(crate) fn dial(path: &Path) -> Result<UnixStream, Errno> {
    connect_to(path, SocketFlags::empty()).map(UnixStream::from)
}

fn connect_to(path: &Path, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A full queue of connections would be waited for without end.
    set_socket_timeout(&socket, Timeout::Send, Some(DIAL_LIMIT))?;
    connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = Bound::new(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(bound);
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn a_dead_programs_socket_is_replaced_and_a_live_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let bound = Bound::new(&path).unwrap();
        let refused = Bound::new(&path).unwrap_err();
        assert!(matches!(refused, SocketError::Live(_)), "{refused}");
        dial(&path).unwrap();
        drop(bound);
    }

    #[test]
    fn a_path_that_no_client_could_connect_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        let refused = Bound::new(&long).unwrap_err();
        assert!(matches!(refused, SocketError::Host { .. }), "{refused}");
        assert!(!long.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        let refused = Bound::new(&path).unwrap_err();
        assert!(matches!(refused, SocketError::NotSocket(_)), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = Bound::new(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(other);
    }
}
