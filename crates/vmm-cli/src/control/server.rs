// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The threads of the control socket: `vmm-control` takes connections, `vmm-ctl-N` serves client N.
//!
//! `vmm-control` owns and joins its clients' threads; [`Server`] owns and joins `vmm-control`.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use vm_core::Vm;

use super::mailbox::Mailbox;
use super::protocol::{self, Failed, Id, Kind};
use super::session::Session;
use super::socket::Bound;
use crate::reach::Reach;
use crate::run::Event;

/// Clients at once.
const CLIENTS: usize = 16;

/// How long `vmm-control` leaves new connections alone when the host has no descriptor or thread.
const SHORTAGE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// What the clients' threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) vm: Vm,
    /// The effective configuration, for a bundle.
    pub(super) config: Arc<str>,
    pub(super) reach: Arc<Reach>,
    pub(super) events: Sender<Event>,
    /// The last line of an event stream, if the program comes to its end in order.
    pub(super) last_event: OnceLock<String>,
    /// Set once: sessions finish.
    ending: AtomicBool,
}

impl Shared {
    /// Whether sessions are to finish.
    pub(super) fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

/// Serves the socket until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to take connections. `events` is told when a client ends the program.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub(crate) fn start(
        bound: Bound,
        vm: &Vm,
        reach: &Arc<Reach>,
        events: &Sender<Event>,
        config: Arc<str>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            vm: vm.clone(),
            config,
            reach: Arc::clone(reach),
            events: events.clone(),
            last_event: OnceLock::new(),
            ending: AtomicBool::new(false),
        });
        let mailbox = Arc::new(Mailbox::new()?);
        let acceptor = Acceptor {
            bound,
            shared: Arc::clone(&shared),
            mailbox: Arc::clone(&mailbox),
            clients: Vec::new(),
            taken: 0,
        };
        let thread = vm_pdm::thread("vmm-control").spawn(move || acceptor.run())?;
        Ok(Self {
            shared,
            mailbox,
            thread: Some(thread),
        })
    }

    /// Ends in order, after the VM's end: each client gets what is due to it, the event streams end
    /// with `last_event`, every thread is joined and the file is gone.
    pub(crate) fn finish(self, last_event: String) {
        // Nobody has set it: this takes the server.
        let _ = self.shared.last_event.set(last_event);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.mailbox.rouse();
        join(self.thread.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            log::error!(target: "vmm.control", "{name} ended by a panic");
        }
    }
}

struct Client {
    mailbox: Arc<Mailbox>,
    /// Emptied when the client's place is free, which is before its connection closes.
    place: std::sync::Weak<()>,
    thread: Option<JoinHandle<()>>,
}

struct Acceptor {
    bound: Bound,
    shared: Arc<Shared>,
    /// Only to be roused.
    mailbox: Arc<Mailbox>,
    clients: Vec<Client>,
    taken: u64,
}

impl Acceptor {
    fn run(mut self) {
        let mut pause = None;
        while !self.shared.ending() {
            if let Err(e) = self.sleep(pause.take()) {
                log::error!(target: "vmm.control", "no more clients are served: {e}");
                break;
            }
            self.mailbox.slept();
            if let Err(e) = self.accept() {
                log::warn!(target: "vmm.control", "a client has to wait: {e}");
                pause = Some(SHORTAGE);
            }
        }
        // No new ones; those that are there get what is due to them.
        drop(self.bound);
        for client in &self.clients {
            client.mailbox.rouse();
        }
        for client in self.clients {
            join(client.thread);
        }
    }

    /// Sleeps until there is a connection or the end; in a `pause` until it is over or the end.
    fn sleep(&self, pause: Option<Timespec>) -> io::Result<()> {
        let listened = match pause {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let wake = self.mailbox.wake();
        let mut fds = [
            PollFd::new(&wake, PollFlags::IN),
            PollFd::new(self.bound.listener(), listened),
        ];
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes one connection, if there is one.
    fn accept(&mut self) -> io::Result<()> {
        let stream = match self.bound.listener().accept() {
            Ok((stream, _)) => stream,
            Err(e) if passing(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.taken += 1;
        stream.set_nonblocking(true)?;
        if let Err(failed) = self.admit(&stream) {
            turn_away(&stream, &failed);
            return Ok(());
        }
        let number = self.taken;
        let mailbox = Arc::new(Mailbox::new()?);
        let place = Arc::new(());
        let left = Arc::downgrade(&place);
        let session = Session::new(stream, Arc::clone(&self.shared), Arc::clone(&mailbox));
        let thread = vm_pdm::thread(format!("vmm-ctl-{number}"))
            .spawn(move || session.run(number, place))?;
        self.clients.push(Client {
            mailbox,
            place: left,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Whether this peer may come in now.
    fn admit(&mut self, stream: &UnixStream) -> Result<(), Failed> {
        for client in &mut self.clients {
            if client.place.strong_count() == 0 {
                join(client.thread.take());
            }
        }
        self.clients.retain(|client| client.thread.is_some());
        let peer = rustix::net::sockopt::socket_peercred(stream)
            .map_err(|e| Failed::new(Kind::Denied, format!("who you are is not known: {e}")))?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            log::warn!(target: "vmm.control", "a client of uid {} was turned away", peer.uid.as_raw());
            return Err(Failed::new(
                Kind::Denied,
                "only the user who runs this VM, and root, may control it",
            ));
        }
        if self.clients.len() >= CLIENTS {
            return Err(Failed::new(
                Kind::Busy,
                format!("{CLIENTS} clients are connected; end one and try again"),
            ));
        }
        Ok(())
    }
}

/// Whether a failed accept concerns that one connection alone.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// One line, if there is room for it; a new connection has.
fn turn_away(mut stream: &UnixStream, failed: &Failed) {
    let _ = stream.write(&protocol::reply(&Id::None, &Err(failed.clone())));
}
