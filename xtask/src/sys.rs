// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The system calls that the standard library does not offer: waiting on several files at once,
//! a raw terminal that is always given back, signals that end a run in order.

// UNSAFETY: thin calls into libc with owned or borrowed buffers; nothing is kept behind them.
#![expect(
    unsafe_code,
    reason = "poll, termios, sigaction and prctl have no safe wrapper in std"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_signal(number: libc::c_int) {
    SIGNAL.store(number, Ordering::SeqCst);
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the process at once.
/// Children get the default actions back when they are started.
pub(crate) fn note_signals() -> io::Result<()> {
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zero is a valid sigaction: no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note_signal as *const () as libc::sighandler_t;
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let rc = unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The last signal noted, if any.
pub(crate) fn signal_noted() -> Option<i32> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|&number| number != 0)
}

/// Makes the child its own process group (a Ctrl-C at the terminal is for us, who end it in
/// order) and lets the kernel kill it when the thread that started it ends for any reason.
pub(crate) fn tie_to_us(command: &mut Command) {
    command.process_group(0);
    // SAFETY: the hook makes one system call and allocates nothing between fork and exec.
    unsafe { command.pre_exec(end_with_parent) };
}

fn end_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes the signal number only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kills a child that [`tie_to_us`] made a group of its own, and what it has started.
pub(crate) fn kill_group(child: &Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: the child has not been waited for, so its number is still its own.
    match unsafe { libc::kill(-group, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file that turns readable when the process ends (pidfd_open(2)).
pub(crate) fn exit_notice(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this file for us, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which of `files` can be read without waiting (or are at their end). Returns all `false` after
/// `limit` or when a signal arrived.
pub(crate) fn readable<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    limit: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = files.map(|file| libc::pollfd {
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let count = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `polled` is an array of exactly `count` entries.
    let rc = unsafe { libc::poll(polled.as_mut_ptr(), count, limit) };
    if rc < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([false; N]);
    }
    Ok(polled.map(|file| file.revents != 0))
}

/// Writes to the file return instead of waiting when the reader is slow.
pub(crate) fn never_block(file: impl AsFd) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: F_SETFL takes the flags.
    let rc = unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    if flags < 0 || rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// How fast this processor's time stamp counter runs, in kHz; measured once.
pub(crate) fn tsc_khz() -> u64 {
    static MEASURED: OnceLock<u64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let (at, ticks) = clock_pair();
        // With no file to wait for this is only the wait, here long enough for 0.01 %.
        drop(readable([], Duration::from_millis(100)));
        let (later, more_ticks) = clock_pair();
        let micros = u64::try_from((later - at).as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        more_ticks.wrapping_sub(ticks).saturating_mul(1000) / micros
    })
}

/// Both clocks at one moment: of several tries the one least disturbed.
fn clock_pair() -> (Instant, u64) {
    let read = || {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has the counter, and Linux lets programs read it.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (before.elapsed(), before, ticks)
    };
    let mut best = read();
    for _ in 0..100 {
        let next = read();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

/// Are we root? Decides only whether packages can be installed.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Standard input in raw mode; given back on drop, also when a panic unwinds.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    /// `None` when standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        // SAFETY: all-zero is a valid termios for tcgetattr to fill.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` outlives the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
            return Ok(None);
        }
        let mut raw = before;
        // SAFETY: `raw` is a valid termios.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: `before` came from tcgetattr on the same file.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.before) };
    }
}

/// Columns and rows of the terminal on standard output.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    // SAFETY: all-zero is a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ fills a winsize, which outlives the call.
    let rc = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (rc == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
