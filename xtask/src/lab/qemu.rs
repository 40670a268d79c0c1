// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One boot of the lab: assemble its initramfs, run QEMU, pass its output on, end in bounded time.
//!
//! The machine is q35 (microvm fails to calibrate its TSC under load) with `-cpu max`, which has
//! AMD SVM and nested paging, and the ELF kernel by its PVH entry. Output goes through a
//! virtio-serial port with `ioeventfd=off`: a write is then finished inside the store that rings
//! the device, so nothing is lost when the debug-exit port ends QEMU a moment later.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::debian::remove_dir;
use super::setup::{Files, Kernel};
use crate::cpio::Archive;
use crate::sys;

/// The init writes this to the console when all is ready.
const STARTS: &str = "lab: command starts";
/// And this when the command has ended, with its status and a full stop behind it.
const ENDED: &str = "lab: command ended with status ";
/// A boot takes 2 to 15 s; twice that under load. Later than this the lab has failed.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(250);

/// A CPU whose guests' PAUSE instructions KVM intercepts; it then runs a vCPU that was preempted.
///
/// With the instruction clock a PAUSE ends QEMU's turn after two or three instructions, so that the
/// lab's time goes a thousand times slower while a guest spins: it waits for a vCPU that holds a lock,
/// that one for the end of a time slice, which takes seconds of ours, a lock at a time. QEMU does not
/// claim the two features, but has the intercept; it ignores the count, so each PAUSE is one.
const PAUSE_EXITS: &str = "max,+pause-filter,+pfthreshold,x-force-features=on";

/// The CPU of a guest in a lab whose clock is driven by instructions, as `vmm` spells it.
///
/// QEMU keeps the number of an interrupt that KVM injects until the guest's next exit, and delivers it
/// once more if its own turn ends before that, whether or not the guest takes interrupts then. With the
/// instruction clock a turn ends at every timer. A guest that acknowledges its interrupts without an
/// exit, by the page that it shares with KVM, gets its tick again in the middle of the handler: it
/// waits for a lock that it has, for ever. Seen in 12 of 12 boots with two vCPUs, under QEMU as under
/// `vmm`, and in 0 of 24 where each acknowledgement exits, which a timer's handler does first of all.
/// What is left are handlers that take their lock before they do anything that exits, such as a disk's:
/// a guest with one vCPU was seen to spin in a lock with interrupts off. So a lab that falls silent is
/// booted again.
pub(crate) const COUNTED_CPU: &str = "host,-kvm_pv_eoi";

/// How lab time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// With the host's.
    Wall,
    /// 2 ns for each guest instruction, one host thread: figures repeat whatever the load.
    Instructions,
}

/// Where the command's input and output go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Output only, no input.
    Output,
    /// Our standard input and a terminal in the lab.
    Terminal,
}

/// What to run, and in which lab.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) kernel: Kernel,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) clock: Clock,
    pub(crate) talk: Talk,
    /// The whole boot and run.
    pub(crate) limit: Duration,
    /// From one output to the next, if that is bounded.
    pub(crate) silence: Option<Duration>,
    /// Module sets besides `virtio`.
    pub(crate) modules: Vec<String>,
    /// Host file or directory, and its name below `/job`.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// What the command leaves in `/out` is unpacked here.
    pub(crate) out: Option<PathBuf>,
    /// A shell script.
    pub(crate) script: String,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The command's status.
    Status(u8),
    /// One of the limits passed.
    Late,
    /// We were told to end by this signal.
    Signal(i32),
    /// No boot, a kernel panic, QEMU itself: the reason, and the end of the console.
    Broken {
        reason: String,
        command_started: bool,
    },
}

/// Runs `job`, its output to `sink` as it comes. A lab that breaks before the command starts is
/// booted once more.
pub(crate) fn run(files: &Files, job: &Job, sink: &mut dyn FnMut(&[u8])) -> Result<End> {
    files.ensure_qemu()?;
    let end = boot(files, job, sink)?;
    if let End::Broken {
        reason,
        command_started: false,
    } = &end
    {
        eprintln!("lab: {reason}\nlab: did not boot, trying once more");
        return boot(files, job, sink);
    }
    Ok(end)
}

fn boot(files: &Files, job: &Job, sink: &mut dyn FnMut(&[u8])) -> Result<End> {
    let dir = RunDir::make(files.dir())?;
    let initrd = dir.0.join("initrd");
    write_initrd(files, job, &initrd)?;
    sys::note_signals()?;
    let mut command = command(files, job, &dir.0)?;
    let child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let mut machine = Machine::new(child, &dir.0, job)?;
    let end = machine.run(sink)?;
    drop(machine);
    let tar = dir.0.join("out.tar");
    if let Some(out) = job.out.as_ref().filter(|_| matches!(end, End::Status(_))) {
        std::fs::create_dir_all(out)?;
        crate::workspace::run(Command::new("tar").arg("-C").arg(out).arg("-xf").arg(tar))
            .context("what the command left in /out did not come back whole")?;
    }
    Ok(end)
}

fn write_initrd(files: &Files, job: &Job, path: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::new(File::create(path)?);
    for part in [files.tools(), files.modules(job.kernel)] {
        let mut part_file =
            File::open(&part).with_context(|| format!("cannot read {}", part.display()))?;
        std::io::copy(&mut part_file, &mut out)?;
    }
    let mut archive = Archive::new(out);
    let output = if job.talk == Talk::Terminal {
        "console"
    } else {
        "port"
    };
    let mut env = format!(
        "LAB_MODULES='{}'\nLAB_OUTPUT={output}\n",
        job.modules.join(" ")
    );
    if job.out.is_some() {
        env.push_str("LAB_RETURN=1\n");
    }
    if let Some((columns, rows)) = sys::terminal_size() {
        env.push_str(&format!("export COLUMNS={columns} LINES={rows}\n"));
    }
    archive.file("lab.env", 0o644, env.as_bytes())?;
    archive.file("job/run.sh", 0o755, job.script.as_bytes())?;
    for (from, name) in &job.files {
        archive.host_path(&format!("job/{name}"), from)?;
    }
    archive.finish()?;
    Ok(())
}

fn command(files: &Files, job: &Job, dir: &Path) -> Result<Command> {
    let (accel, cpu, icount) = match job.clock {
        Clock::Wall => ("tcg,thread=multi,tb-size=256", "max", None),
        Clock::Instructions => (
            "tcg,thread=single,tb-size=256",
            PAUSE_EXITS,
            Some("shift=1,sleep=off"),
        ),
    };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-M",
        "q35",
        "-accel",
        accel,
        "-cpu",
        cpu,
        "-smp",
        &job.cpus.to_string(),
    ]);
    qemu.args([
        "-m",
        &job.memory_mib.to_string(),
        "-nodefaults",
        "-no-user-config",
    ]);
    qemu.args(["-display", "none", "-no-reboot"]);
    if let Some(icount) = icount {
        qemu.args(["-icount", icount]);
    }
    qemu.arg("-kernel").arg(files.vmlinux(job.kernel));
    qemu.arg("-initrd").arg(dir.join("initrd"));
    qemu.args(["-append", &kernel_options(job.clock)]);
    let file = |id: &str, path: &Path| format!("file,id={id},path={}", path.display());
    qemu.args(["-chardev", &file("console", &dir.join("console"))]);
    qemu.args([
        "-serial",
        "chardev:console",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ]);
    qemu.args(["-device", "virtio-serial-pci,ioeventfd=off"]);
    match job.talk {
        // QEMU opens the path anew; our end is a pipe, which a plain file would not survive.
        Talk::Output => {
            qemu.args(["-chardev", "file,id=out,path=/dev/stdout,append=on"]);
            qemu.args(["-device", "virtserialport,nr=1,chardev=out,name=lab.out"]);
        }
        Talk::Terminal => {
            qemu.args(["-chardev", "stdio,id=out,signal=off"]);
            qemu.args(["-device", "virtconsole,nr=0,chardev=out,name=lab.tty"]);
        }
    }
    if job.out.is_some() {
        qemu.args(["-chardev", &file("tar", &dir.join("out.tar"))]);
        qemu.args(["-device", "virtserialport,nr=2,chardev=tar,name=lab.tar"]);
    }
    qemu.stdin(if job.talk == Talk::Terminal {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    qemu.stdout(Stdio::piped())
        .stderr(File::create(dir.join("qemu.log"))?);
    sys::tie_to_us(&mut qemu);
    Ok(qemu)
}

/// The lab kernel's command line.
///
/// On a loaded host the kernel measures its clocks while its one thread is kept waiting: it has
/// found 158 MHz where the counter ran at 2595, after which its time limits passed 16 times too
/// early, and it has panicked over a late timer interrupt. QEMU hands the host's counter on as it
/// is, so the kernel is told how fast that is, and told not to test the timer. With the
/// instruction clock nothing depends on the host's load, and the kernel measures as ever.
fn kernel_options(clock: Clock) -> String {
    let options = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable \
        audit=0 random.trust_cpu=on nmi_watchdog=0";
    match clock {
        Clock::Wall => format!("{options} no_timer_check tsc_early_khz={}", sys::tsc_khz()),
        Clock::Instructions => options.to_owned(),
    }
}

/// A running QEMU; killed when dropped.
#[derive(Debug)]
struct Machine<'a> {
    child: Child,
    out: ChildStdout,
    input: Option<ChildStdin>,
    /// Typed but not taken by QEMU yet.
    typed: Vec<u8>,
    dir: &'a Path,
    job: &'a Job,
    started: Instant,
    command_started: bool,
}

impl<'a> Machine<'a> {
    fn new(mut child: Child, dir: &'a Path, job: &'a Job) -> Result<Self> {
        let out = child.stdout.take().context("QEMU's output is a pipe")?;
        let input = child.stdin.take();
        if let Some(input) = &input {
            sys::never_block(input)?;
        }
        let started = Instant::now();
        let typed = Vec::new();
        Ok(Self {
            child,
            out,
            input,
            typed,
            dir,
            job,
            started,
            command_started: false,
        })
    }

    fn run(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<End> {
        let exited = sys::exit_notice(self.child.id()).context("pidfd_open")?;
        let stdin = std::io::stdin();
        let mut out_open = true;
        let mut heard = self.started;
        let mut buffer = [0; 8192];
        loop {
            if let Some(number) = sys::signal_noted() {
                return Ok(End::Signal(number));
            }
            let waited = self.started.elapsed();
            let silent = |limit| heard.elapsed() >= limit;
            if waited >= self.job.limit || self.job.silence.is_some_and(silent) {
                return Ok(End::Late);
            }
            self.command_started = self.command_started || self.console().contains(STARTS);
            if !self.command_started && waited >= BOOT_LIMIT {
                return Ok(self.broken(format!("no boot within {} s", BOOT_LIMIT.as_secs())));
            }
            let listen = self.input.is_some() && self.typed.is_empty();
            let files = [
                out_open.then(|| self.out.as_fd()),
                Some(exited.as_fd()),
                listen.then(|| stdin.as_fd()),
            ];
            let [output, exit, typed] = sys::readable(files, TICK)?;
            if output {
                let n = self.out.read(&mut buffer)?;
                out_open = n > 0;
                heard = Instant::now();
                sink(&buffer[..n]);
            } else if exit {
                // All output has been read: the pipe is at its end or empty.
                let status = self.child.wait()?;
                return Ok(self.end(status.code()));
            }
            if typed {
                self.take_input()?;
            }
            self.pass_input()?;
        }
    }

    fn take_input(&mut self) -> Result<()> {
        let mut buffer = [0; 1024];
        // Unbuffered: what is not passed on must stay readable for whoever comes after us.
        let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let n = stdin.read(&mut buffer)?;
        if n == 0 {
            self.input = None;
        }
        self.typed.extend_from_slice(&buffer[..n]);
        Ok(())
    }

    fn pass_input(&mut self) -> Result<()> {
        if let Some(input) = self.input.as_mut().filter(|_| !self.typed.is_empty()) {
            match input.write(&self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => self.input = None,
                Err(error) => return Err(error).context("passing input to the lab"),
            }
        }
        Ok(())
    }

    /// The debug-exit device makes of a written value v the status (v << 1) | 1; v is the
    /// command's status plus one, as far as seven bits hold it. The console has all of it.
    fn end(&self, code: Option<i32>) -> End {
        let port = code
            .filter(|code| code & 1 == 1 && *code >= 3)
            .map(|code| (code >> 1) - 1);
        match port.and_then(|status| u8::try_from(status).ok()) {
            Some(125) => self.broken("its init gave up".to_owned()),
            Some(status) => End::Status(status_in(&self.console()).unwrap_or(status)),
            None => self.broken(format!("QEMU ended with status {code:?}")),
        }
    }

    fn broken(&self, mut reason: String) -> End {
        let console = self.console();
        let said = ["Kernel panic", "BUG:", "Oops:"].map(|word| {
            console
                .lines()
                .find(|line| line.contains(word))
                .map(str::trim)
        });
        if let Some(said) = said.into_iter().flatten().next() {
            reason = format!("{reason}: {said}");
        }
        let log = std::fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
        let lines: Vec<_> = console.lines().chain(log.lines()).collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        let command_started = self.command_started || console.contains(STARTS);
        End::Broken {
            reason: format!("{reason}; its last words:\n{tail}"),
            command_started,
        }
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The status that the init wrote to the console; `None` when a kernel message tore the line.
fn status_in(console: &str) -> Option<u8> {
    let after = console.rsplit_once(ENDED)?.1;
    after.split_once('.')?.0.parse().ok()
}

/// Scratch directory of one boot, removed at the end.
#[derive(Debug)]
struct RunDir(PathBuf);

impl RunDir {
    fn make(lab: &Path) -> Result<Self> {
        for entry in std::fs::read_dir(lab)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix("run-")
                .and_then(|rest| rest.split('-').next());
            // Left by a run that was killed.
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_dir(&entry.path())?;
            }
        }
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let dir = lab.join(format!("run-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // A directory that stays is removed by the next run.
        drop(remove_dir(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_on_the_console_is_whole_or_not_taken() {
        assert_eq!(
            status_in("x\nlab: command ended with status 137.\r\ny"),
            Some(137)
        );
        assert_eq!(status_in("lab: command ended with status 13"), None);
        assert_eq!(
            status_in("lab: command ended with status 1[  2.0] kvm: x.7."),
            None
        );
        assert_eq!(status_in(""), None);
    }
}
