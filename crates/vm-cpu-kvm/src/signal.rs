// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The signal that takes a thread out of `KVM_RUN`, and the futex a vCPU waits at for kickers.
// UNSAFETY: sigaction(2), pthread_sigmask(3), tgkill(2), futex(2). The handler does nothing, so it
// is async-signal-safe; the words passed to futex live in the caller's borrow.
#![expect(unsafe_code, reason = "signals and futexes are foreign functions")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_long};
use vm_cpu::CpuError;

/// A signal whose handler is installed and does nothing: its only effect is that a system call of
/// the thread it is sent to ends with `EINTR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(c_int);

extern "C" fn on_signal(_: c_int) {}

impl Signal {
    /// The real-time signal taken if the embedder names none.
    pub(crate) fn default_number() -> c_int {
        libc::SIGRTMIN() + 4
    }

    /// Installs the handler, once for the process.
    ///
    /// # Errors
    /// [`CpuError::Unavailable`] if the process handles that signal already.
    pub(crate) fn install(number: c_int) -> Result<Self, CpuError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = on_signal as extern "C" fn(c_int) as libc::sighandler_t;
        let is = current_action(number)
            .map_err(|source| CpuError::Host {
                op: "sigaction",
                vcpu: None,
                source,
            })?
            .sa_sigaction;
        if is == ours {
            return Ok(Self(number));
        }
        if is != libc::SIG_DFL && is != libc::SIG_IGN {
            return Err(CpuError::Unavailable {
                what: format!("signal {number}"),
                hint: "this process handles it already: choose another for kicks".into(),
            });
        }
        set_action(number, ours).map_err(|source| CpuError::Host {
            op: "sigaction",
            vcpu: None,
            source,
        })?;
        Ok(Self(number))
    }

    /// Lets the calling thread receive the signal.
    pub(crate) fn unblock(self) -> io::Result<()> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: initialises the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set is initialised.
        unsafe { libc::sigaddset(set.as_mut_ptr(), self.0) };
        let how = libc::SIG_UNBLOCK;
        // SAFETY: the set is initialised; a null old set is allowed.
        let error = unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) };
        if error == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(error))
        }
    }

    /// Sends it to thread `tid` of this process.
    pub(crate) fn send(self, tid: u32) {
        let (pid, tid) = (c_long::from(std::process::id()), c_long::from(tid));
        // SAFETY: takes integers only. The caller keeps the thread from ending meanwhile, see `kick`.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, self.0) };
    }
}

fn current_action(number: c_int) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; writes the structure.
    let result = unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: written by the call; all zeros are valid too.
    Ok(unsafe { action.assume_init() })
}

fn set_action(number: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    let mut action = current_action(number)?;
    action.sa_sigaction = handler;
    // No SA_RESTART: a restarted KVM_RUN would be a lost kick.
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: initialises the set.
    unsafe { libc::sigemptyset(&raw mut action.sa_mask) };
    // SAFETY: the structure is complete and the handler does nothing.
    let result = unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The calling thread's number.
pub(crate) fn current_tid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    u32::try_from(tid).unwrap_or(0)
}

/// Blocks while `word` is `value`, or for less.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let no_limit = std::ptr::null::<libc::timespec>();
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is live and aligned for the duration of the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, no_limit) };
}

/// Ends all waits at `word`.
pub(crate) fn wake(word: &AtomicU32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: only the address is used.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, c_int::MAX) };
}
