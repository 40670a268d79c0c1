// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One vCPU: entering the guest and making sense of why it left.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::ThreadId;

use kvm_bindings as kb;
use kvm_ioctls::VcpuFd;
use vm_cpu::x86::{Activity, VcpuState};
use vm_cpu::{CpuError, Entry, Exit, IrqMode, Settled, Vcpu, Window};
use vm_emt::Kick;

use crate::errno::{host_error, invalid};
use crate::ioctl;
use crate::kick::{Kernel, SignalOnly, Target};
use crate::machine::Inner;
use crate::run_page::RunPage;
use crate::signal::current_tid;
use crate::time::VcpuTime;

/// [`Exit::InternalError`]'s suberror for a KVM exit that this engine does not know: this plus KVM's
/// exit reason. KVM's own suberrors are small numbers.
pub const UNKNOWN_EXIT: u32 = 0x4b56_0000;

/// `KVM_RUN` answers `EAGAIN` when an application processor was told to start; that often it is
/// entered again before the caller gets to look around.
const AGAIN_LIMIT: u32 = 16;

/// Parts of one access that `reset` finishes before it gives up: longer than any instruction's.
const PARTS_LIMIT: u32 = 1 << 16;

const RFLAGS_IF: u64 = 1 << 9;

/// Port items in the run page, handed out one by one.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    write: Direction,
    port: u16,
    size: u8,
    /// Where the next item is in the run page.
    at: usize,
    /// Items left, the next one included.
    left: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// What has to be done about the last exit.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Nothing,
    /// An item is handed out.
    Io(Cursor),
    Mmio(Direction),
    /// Served on our side; KVM finishes the instruction at the next `KVM_RUN`.
    Kernel,
}

/// Called after the vCPU's thread is published and before `KVM_RUN`.
type EntryHook = Box<dyn FnMut() + Send>;

/// One vCPU inside KVM.
pub struct KvmVcpu {
    // Field order is drop order: the file before the memory the guest could reach.
    pub(crate) fd: VcpuFd,
    pub(crate) page: RunPage,
    pub(crate) id: u32,
    target: Arc<Target>,
    thread: Option<(ThreadId, u32)>,
    pending: Pending,
    /// Only for machines without interrupt controller, where KVM has no such state.
    pub(crate) activity: Activity,
    pub(crate) power_on: Option<Box<VcpuState>>,
    hook: Option<EntryHook>,
    want: Window,
    pub(crate) time: VcpuTime,
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for KvmVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("KvmVcpu");
        out.field("id", &self.id)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

impl KvmVcpu {
    pub(crate) fn new(id: u32, fd: VcpuFd, inner: Arc<Inner>) -> Result<Self, CpuError> {
        let page = RunPage::map(&fd, inner.vm.run_size())
            .map_err(|e| host_error("mmap of the run page", Some(id), e))?;
        let target = Target::new(Kernel {
            page: Arc::clone(page.mapping()),
            signal: inner.facts.signal,
        });
        let mut vcpu = Self {
            fd,
            page,
            id,
            target: Arc::new(target),
            thread: None,
            pending: Pending::Nothing,
            activity: Activity::Running,
            power_on: None,
            hook: None,
            want: Window::Unwanted,
            time: VcpuTime::new(&inner.time),
            inner,
        };
        if vcpu.tells_registers() {
            vcpu.page.want_registers();
        }
        vcpu.meet_time()?;
        vcpu.power_on()?;
        Ok(vcpu)
    }

    fn tells_registers(&self) -> bool {
        let sets = self.inner.facts.host.value(kb::KVM_CAP_SYNC_REGS);
        u32::try_from(sets).unwrap_or(0) & kb::KVM_SYNC_X86_REGS != 0
    }

    /// A test's way into the gap between the last look and `KVM_RUN`.
    #[doc(hidden)]
    pub fn set_entry_hook(&mut self, hook: Option<EntryHook>) {
        self.hook = hook;
    }

    /// A kick that signals and does not set `immediate_exit`, which must fail the kick's test.
    #[doc(hidden)]
    pub fn signal_only(&self) -> SignalOnly {
        SignalOnly(Arc::clone(&self.target))
    }

    pub(crate) fn fail(&self, op: &'static str) -> impl Fn(io::Error) -> CpuError + use<> {
        let id = self.id;
        move |error| host_error(op, Some(id), error)
    }

    /// The calling thread's number, with the signal unblocked in it.
    fn tid(&mut self) -> Result<u32, CpuError> {
        let thread = std::thread::current().id();
        if let Some((known, tid)) = self.thread
            && known == thread
        {
            return Ok(tid);
        }
        self.inner
            .facts
            .signal
            .unblock()
            .map_err(self.fail("pthread_sigmask"))?;
        let tid = current_tid();
        self.thread = Some((thread, tid));
        Ok(tid)
    }

    /// Serves the pending exit on our side; `Some` is its next item.
    fn finish(&mut self, entry: Entry) -> Result<Option<Exit>, CpuError> {
        let reads = match self.pending {
            Pending::Io(Cursor { write, .. }) | Pending::Mmio(write) => write == Direction::Read,
            Pending::Nothing | Pending::Kernel => false,
        };
        let value = match (entry, reads) {
            (Entry::Data(value), true) => value,
            (Entry::Go, false) => 0,
            (Entry::Go, true) => return invalid("entry", "the pending read needs its data"),
            (Entry::Data(_), false) => return invalid("entry", "no read is pending"),
        };
        match self.pending {
            Pending::Nothing | Pending::Kernel => return Ok(None),
            Pending::Mmio(_) => {
                if reads {
                    self.page.set_mmio_data(value);
                }
            }
            Pending::Io(mut cursor) => {
                if reads {
                    self.page.set_io_item(cursor.at, cursor.size, value);
                }
                cursor.at += usize::from(cursor.size);
                cursor.left -= 1;
                if cursor.left > 0 {
                    return Ok(Some(self.hand_out(cursor)));
                }
            }
        }
        self.pending = Pending::Kernel;
        Ok(None)
    }

    fn hand_out(&mut self, cursor: Cursor) -> Exit {
        self.pending = Pending::Io(cursor);
        let Cursor { port, size, .. } = cursor;
        match cursor.write {
            Direction::Read => Exit::PioRead { port, size },
            Direction::Write => Exit::PioWrite {
                port,
                size,
                value: self.page.io_item(cursor.at, size),
            },
        }
    }

    /// `KVM_RUN` until something for the caller happens.
    fn enter(&mut self) -> Result<Exit, CpuError> {
        let tid = self.tid()?;
        self.keep_time()?;
        for _ in 0..AGAIN_LIMIT {
            self.page.set_exit_reason(kb::KVM_EXIT_UNKNOWN);
            self.target.publish(tid);
            if let Some(hook) = &mut self.hook {
                hook();
            }
            let result = ioctl::run(&self.fd);
            let kicked = self.target.take();
            self.target.withdraw();
            match result {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    self.pending = Pending::Nothing;
                    if kicked {
                        return Ok(Exit::Kicked);
                    }
                }
                result => return self.outcome(result),
            }
        }
        Ok(Exit::Kicked)
    }

    fn outcome(&mut self, result: io::Result<()>) -> Result<Exit, CpuError> {
        let Err(error) = result else {
            self.pending = Pending::Nothing;
            return Ok(self.decode());
        };
        match error.raw_os_error() {
            Some(libc::EINTR) => {
                self.pending = Pending::Nothing;
                Ok(Exit::Kicked)
            }
            Some(libc::EFAULT) => {
                self.pending = Pending::Nothing;
                let known = self.page.exit_reason() == kb::KVM_EXIT_MEMORY_FAULT;
                Ok(Exit::MemoryFault {
                    addr: known.then(|| self.page.fault_address()),
                })
            }
            _ => Err(host_error("KVM_RUN", Some(self.id), error)),
        }
    }

    /// What the run page says.
    fn decode(&mut self) -> Exit {
        match self.page.exit_reason() {
            kb::KVM_EXIT_IO => self.decode_io(),
            kb::KVM_EXIT_MMIO => self.decode_mmio(),
            kb::KVM_EXIT_HLT => {
                self.activity = Activity::Halted;
                Exit::Halt {
                    interruptible: self.page.if_flag() != 0,
                }
            }
            kb::KVM_EXIT_INTR => Exit::Kicked,
            kb::KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
            kb::KVM_EXIT_IOAPIC_EOI => Exit::Eoi {
                vector: self.page.eoi_vector(),
            },
            kb::KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            kb::KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
                reason: self.page.entry_failure(),
            },
            kb::KVM_EXIT_INTERNAL_ERROR => Exit::InternalError {
                suberror: self.page.internal_suberror(),
                data: self.page.internal_first(),
            },
            kb::KVM_EXIT_MEMORY_FAULT => Exit::MemoryFault {
                addr: Some(self.page.fault_address()),
            },
            kb::KVM_EXIT_SYSTEM_EVENT => Exit::InternalError {
                suberror: UNKNOWN_EXIT + kb::KVM_EXIT_SYSTEM_EVENT,
                data: self.page.event_type().into(),
            },
            other => Exit::InternalError {
                suberror: UNKNOWN_EXIT.saturating_add(other),
                data: 0,
            },
        }
    }

    fn decode_io(&mut self) -> Exit {
        let (size, left) = (self.page.io_size(), self.page.io_count());
        let at = usize::try_from(self.page.io_data_offset()).unwrap_or(usize::MAX);
        let bytes = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .saturating_mul(size.into());
        if !matches!(size, 1 | 2 | 4) || left == 0 || !self.page.has(at, bytes) {
            let suberror = UNKNOWN_EXIT + kb::KVM_EXIT_IO;
            return Exit::InternalError {
                suberror,
                data: size.into(),
            };
        }
        let out = u32::from(self.page.io_direction()) == kb::KVM_EXIT_IO_OUT;
        let write = if out {
            Direction::Write
        } else {
            Direction::Read
        };
        self.hand_out(Cursor {
            write,
            port: self.page.io_port(),
            size,
            at,
            left,
        })
    }

    fn decode_mmio(&mut self) -> Exit {
        let (addr, data) = (self.page.mmio_address(), self.page.mmio_data());
        let size = match u8::try_from(self.page.mmio_length()) {
            Ok(size @ 1..=8) => size,
            _ => {
                let suberror = UNKNOWN_EXIT + kb::KVM_EXIT_MMIO;
                return Exit::InternalError {
                    suberror,
                    data: self.page.mmio_length().into(),
                };
            }
        };
        if self.page.mmio_is_write() == 0 {
            self.pending = Pending::Mmio(Direction::Read);
            return Exit::MmioRead { addr, size };
        }
        self.pending = Pending::Mmio(Direction::Write);
        let value = data & (u64::MAX >> (64 - 8 * u32::from(size)));
        Exit::MmioWrite { addr, size, value }
    }

    /// A vCPU that waits, in a machine without interrupt controller: KVM would just run on.
    fn waiting(&mut self) -> Result<Option<Exit>, CpuError> {
        let interruptible = match self.activity {
            Activity::Running => return Ok(None),
            Activity::Halted => self.rflags()? & RFLAGS_IF != 0,
            Activity::WaitForInit | Activity::WaitForSipi | Activity::SipiReceived => false,
        };
        if self.target.take() {
            return Ok(Some(Exit::Kicked));
        }
        if interruptible && self.want == Window::Wanted {
            return Ok(Some(Exit::IrqWindow));
        }
        Ok(Some(Exit::Halt { interruptible }))
    }

    fn rflags(&self) -> Result<u64, CpuError> {
        let regs = self
            .fd
            .get_regs()
            .map_err(|e| host_error("KVM_GET_REGS", Some(self.id), e))?;
        Ok(regs.rflags)
    }

    /// Lets KVM finish the instruction; no guest code runs.
    fn finish_in_kernel(&mut self) -> Result<Option<Exit>, CpuError> {
        if !matches!(self.pending, Pending::Kernel) {
            return Ok(None);
        }
        self.page.set_exit_reason(kb::KVM_EXIT_UNKNOWN);
        self.target.begin_settling();
        let result = ioctl::run(&self.fd);
        self.target.end_settling();
        let exit = self.outcome(result)?;
        Ok((exit != Exit::Kicked).then_some(exit))
    }

    /// Finishes what is pending with zeros for data, so that KVM forgets it.
    pub(crate) fn drop_pending(&mut self) -> Result<(), CpuError> {
        for _ in 0..PARTS_LIMIT {
            let reads = matches!(
                self.pending,
                Pending::Io(Cursor {
                    write: Direction::Read,
                    ..
                }) | Pending::Mmio(Direction::Read)
            );
            let entry = if reads { Entry::Data(0) } else { Entry::Go };
            if self.settle(entry)?.is_none() {
                return Ok(());
            }
        }
        Err(self.fail("KVM_RUN")(io::Error::other(
            "the pending exit has no end",
        )))
    }

    pub(crate) fn forget_window(&mut self) {
        self.want_window(Window::Unwanted);
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn kicker(&mut self) -> Result<Arc<dyn Kick>, CpuError> {
        self.tid()?;
        Ok(Arc::clone(&self.target) as Arc<dyn Kick>)
    }

    fn run(&mut self, entry: Entry) -> Result<Exit, CpuError> {
        if let Some(exit) = self.finish(entry)? {
            return Ok(exit);
        }
        if let Some(exit) = self.waiting()? {
            return Ok(exit);
        }
        self.enter()
    }

    fn settle(&mut self, entry: Entry) -> Result<Option<Exit>, CpuError> {
        match self.finish(entry)? {
            Some(exit) => Ok(Some(exit)),
            None => self.finish_in_kernel(),
        }
    }

    fn settled(&mut self) -> Result<Settled<'_>, CpuError> {
        match self.pending {
            Pending::Nothing => Ok(Settled::vouch(self)),
            Pending::Io(_) | Pending::Mmio(_) | Pending::Kernel => {
                Err(CpuError::Unsettled { vcpu: self.id })
            }
        }
    }

    fn reset(&mut self) -> Result<(), CpuError> {
        self.back_to_power_on()
    }

    fn last_rip(&self) -> u64 {
        self.page.rip()
    }

    fn interrupt(&mut self, vector: u8) -> Result<bool, CpuError> {
        if self.inner.spec.irq != IrqMode::None {
            let why = "this machine has an interrupt controller: deliver an MSI";
            return invalid("interrupt", why);
        }
        if !matches!(self.activity, Activity::Running | Activity::Halted) {
            return Ok(false);
        }
        // The run page's flag is from the last exit, and KVM_INTERRUPT does not look itself.
        let op = "KVM_GET_VCPU_EVENTS";
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(|e| host_error(op, Some(self.id), e))?;
        let busy = [
            events.interrupt.injected,
            events.interrupt.shadow,
            events.exception.injected,
            events.exception.pending,
            events.nmi.injected,
        ];
        if busy != [0; 5] || self.rflags()? & RFLAGS_IF == 0 {
            return Ok(false);
        }
        ioctl::interrupt(&self.fd, vector).map_err(self.fail("KVM_INTERRUPT"))?;
        self.activity = Activity::Running;
        Ok(true)
    }

    fn want_window(&mut self, want: Window) {
        self.want = want;
        self.page
            .set_request_interrupt_window(u8::from(want == Window::Wanted));
    }
}
