// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Info handlers: named pages about a part of the VM, written on request, for a person.
//!
//! | type | what it is |
//! |---|---|
//! | [`Infos`] | the registry: unique names to handlers |
//! | [`Asked`] | what a handler is told: arguments, and until when it is waited for |
//! | [`Page`] | what it writes to, bounded |
//! | [`InfoGuard`] | a name that is taken, until this is dropped |
//! | [`InfoError`] | why there is no page |
//!
//! A handler runs on a thread of its own, named `info`, one call of it at a time, and the registry's
//! lock is not held. One that panics, writes without end or does not come back in time costs its
//! caller an error and nobody else anything. A thread that is late is left to end by itself; until it
//! has, its handler does not run again.
//!
//! ```
//! use std::fmt::Write;
//! use std::time::Duration;
//! use vm_pdm::info::Infos;
//!
//! let infos = Infos::new();
//! let guard = infos.register("clock", "what time it is", |_asked, page| writeln!(page, "noon"))?;
//! assert_eq!(infos.run("clock", "", Duration::from_secs(5))?, "noon\n");
//! drop(guard);
//! assert!(infos.run("clock", "", Duration::from_secs(5)).is_err());
//! # Ok::<(), vm_pdm::info::InfoError>(())
//! ```

mod page;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use page::Page;

/// The name under which [`Infos::run`] lists all others.
pub const HELP: &str = "help";

/// Longest name, in bytes.
const NAME_MAX: usize = 64;

/// Nobody waits longer than a day.
const LIMIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest arguments, in bytes.
const ARGS_MAX: usize = 1024;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// The text is no name.
    #[error(
        "no name of an info handler: {name:?}: take 1 to 64 of a-z, 0-9, '-', '_' and '.', and not \"help\""
    )]
    InvalidName {
        /// The text, shortened.
        name: String,
    },
    /// Another handler has the name.
    #[error("there is an info handler {name:?} already: give each its own name")]
    Exists {
        /// The name.
        name: String,
    },
    /// Nobody has the name.
    #[error("no info handler {name:?}; known ones: {known}")]
    NotFound {
        /// The name, shortened.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// The arguments are too long.
    #[error("arguments of {bytes} bytes are longer than the 1024 a handler takes: shorten them")]
    Args {
        /// Their length.
        bytes: usize,
    },
    /// The handler panicked.
    #[error("info handler {name:?} panicked: {message}")]
    Panicked {
        /// Its name.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// The handler, or an earlier call of it, did not end in time.
    #[error("info handler {name:?} did not end within {limit:?}: try again later")]
    Late {
        /// Its name.
        name: String,
        /// How long it had.
        limit: Duration,
    },
    /// The host gives no thread.
    #[error("no thread for info handler {name:?}")]
    Thread {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a handler is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whatever the caller gave, for the handler to make sense of.
    pub args: String,
    /// Until when it is waited for.
    pub deadline: Instant,
}

impl Asked {
    /// How long it is still waited for.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

type Handler = dyn Fn(&Asked, &mut Page) -> fmt::Result + Send + Sync;

struct Entry {
    about: &'static str,
    handler: Box<Handler>,
    busy: Mutex<bool>,
    idle: Condvar,
}

/// The info handlers of a VM. Clones are the same registry. Any thread.
#[derive(Clone, Default)]
pub struct Infos {
    registry: Arc<Mutex<BTreeMap<String, Arc<Entry>>>>,
}

impl Debug for Infos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.registry).keys()).finish()
    }
}

impl Infos {
    /// No handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` write the page `name` when it is asked for, until the guard is dropped. It may
    /// take locks, and wait for an EMT within [`Asked::left`].
    ///
    /// # Errors
    /// [`InfoError::InvalidName`], [`InfoError::Exists`].
    pub fn register(
        &self,
        name: &str,
        about: &'static str,
        handler: impl Fn(&Asked, &mut Page) -> fmt::Result + Send + Sync + 'static,
    ) -> Result<InfoGuard, InfoError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if name.is_empty() || name.len() > NAME_MAX || name == HELP || !name.bytes().all(plain) {
            return Err(InfoError::InvalidName { name: brief(name) });
        }
        let entry = Arc::new(Entry {
            about,
            handler: Box::new(handler),
            busy: Mutex::new(false),
            idle: Condvar::new(),
        });
        let mut registry = lock(&self.registry);
        if registry.contains_key(name) {
            return Err(InfoError::Exists { name: name.into() });
        }
        registry.insert(name.to_owned(), entry);
        drop(registry);
        Ok(InfoGuard {
            registry: Arc::downgrade(&self.registry),
            name: name.to_owned(),
        })
    }

    /// Names and what they are about, in order.
    pub fn list(&self) -> Vec<(String, &'static str)> {
        let registry = lock(&self.registry);
        let all = registry.iter().map(|(n, entry)| (n.clone(), entry.about));
        all.collect()
    }

    /// The page `name`; [`HELP`] lists all. Blocks for `limit` at most, and for no more than a day.
    ///
    /// # Errors
    /// [`InfoError`]; the VM is as it was.
    pub fn run(&self, name: &str, args: &str, limit: Duration) -> Result<String, InfoError> {
        if args.len() > ARGS_MAX {
            return Err(InfoError::Args { bytes: args.len() });
        }
        if name == HELP {
            return Ok(self.help());
        }
        let Some(entry) = lock(&self.registry).get(name).cloned() else {
            return Err(InfoError::NotFound {
                name: brief(name),
                known: self.names(),
            });
        };
        let late = || InfoError::Late {
            name: name.to_owned(),
            limit,
        };
        let asked = Asked {
            args: args.to_owned(),
            deadline: Instant::now() + limit.min(LIMIT_MAX),
        };
        let turn = entry.turn(asked.deadline).ok_or_else(late)?;
        let (page_out, page_in) = sync_channel(1);
        let left = asked.left();
        let thread = start(turn, asked, page_out).map_err(|source| InfoError::Thread {
            name: name.to_owned(),
            source,
        })?;
        let result = match page_in.recv_timeout(left) {
            Ok(page) => Ok(page),
            Err(RecvTimeoutError::Timeout) => return Err(late()),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        };
        let joined = thread.join();
        match (result, joined) {
            (Ok(page), _) => Ok(page.into_text()),
            (Err(()), joined) => Err(InfoError::Panicked {
                name: name.to_owned(),
                message: joined.err().map(|p| said(p.as_ref())).unwrap_or_default(),
            }),
        }
    }

    fn help(&self) -> String {
        let mut page = Page::new();
        for (name, about) in self.list() {
            // A page that is full leaves out the rest.
            let _ = writeln!(page, "{name:16} {about}");
        }
        page.into_text()
    }

    fn names(&self) -> String {
        let mut names = vec![HELP.to_owned()];
        names.extend(lock(&self.registry).keys().cloned());
        names.join(", ")
    }
}

/// The only running call of a handler.
struct Turn(Arc<Entry>);

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.0.busy) = false;
        self.0.idle.notify_one();
    }
}

impl Entry {
    /// Waits until no call of this handler runs.
    fn turn(self: Arc<Self>, deadline: Instant) -> Option<Turn> {
        let mut busy = lock(&self.busy);
        while *busy {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            busy = self
                .idle
                .wait_timeout(busy, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *busy = true;
        drop(busy);
        Some(Turn(self))
    }
}

/// Runs the handler on its thread. The page is sent when the turn is over; a panic drops the sender.
fn start(turn: Turn, asked: Asked, page_out: SyncSender<Page>) -> std::io::Result<JoinHandle<()>> {
    crate::thread("info").spawn(move || {
        let mut page = Page::new();
        // It fails if the page is full, which the page says itself.
        let _ = (turn.0.handler)(&asked, &mut page);
        drop(turn);
        // Nobody takes it if it comes too late.
        let _ = page_out.send(page);
    })
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .map_or_else(|| "(no text)".to_owned(), |text| brief(&text))
}

fn brief(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
}

/// A name that is taken. Dropped, its handler is gone; a call under way ends as it would have.
#[must_use = "dropped, the handler is gone"]
pub struct InfoGuard {
    registry: Weak<Mutex<BTreeMap<String, Arc<Entry>>>>,
    name: String,
}

impl Debug for InfoGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InfoGuard").field(&self.name).finish()
    }
}

impl Drop for InfoGuard {
    fn drop(&mut self) {
        let gone = self
            .registry
            .upgrade()
            .and_then(|registry| lock(&registry).remove(&self.name));
        // What the handler holds is dropped without the lock.
        drop(gone);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
