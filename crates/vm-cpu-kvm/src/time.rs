// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Time that does not pass for a guest.
//!
//! To hold time is to note kvm-clock and the host's TSC of one moment: `KVM_GET_CLOCK` gives both
//! where KVM's clocks follow the TSC (Linux, `Documentation/virt/kvm/api.rst`, `KVM_CLOCK_HOST_TSC`),
//! elsewhere the TSC is read right after. To let it go is to put kvm-clock back, and to count what
//! the host's TSC went by meanwhile. Each vCPU takes what was counted since it last looked from its
//! TSC's offset (`Documentation/virt/kvm/devices/vcpu.rst`, section 4, `KVM_VCPU_TSC_OFFSET`, since
//! Linux 5.16) before it enters the guest again. One count for all keeps the differences between the
//! vCPUs' TSCs to the tick.
//!
//! KVM's timer behind the TSC deadline runs by the host's clock and fires too early for a TSC that
//! was taken back, so the deadline is written again after that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_bindings::{
    KVM_CAP_TSC_CONTROL, KVM_CAP_VCPU_ATTRIBUTES, KVM_CLOCK_HOST_TSC, kvm_clock_data,
};
use kvm_ioctls::VmFd;
use vm_cpu::x86::{Msr, Tsc};
use vm_cpu::{CpuError, Held};

use crate::errno::host_error;
use crate::tsc::{self, Scale};
use crate::vcpu::KvmVcpu;
use crate::{ioctl, msrs};

/// The time of a machine's guest.
#[derive(Debug, Default)]
pub(crate) struct Time {
    held: Mutex<Option<Moment>>,
    /// Ticks of the host's TSC that are not to show in the vCPUs' TSCs, over all holds.
    ticks: AtomicU64,
    /// Whether the vCPUs' TSCs can be moved; known from the first vCPU on.
    moves: OnceLock<bool>,
}

/// When time was held.
#[derive(Debug, Clone, Copy)]
struct Moment {
    clock_ns: u64,
    host_tsc: u64,
}

impl Time {
    fn lock(&self) -> MutexGuard<'_, Option<Moment>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moves(&self) -> bool {
        self.moves.get().copied().unwrap_or(false)
    }

    /// Ticks of the host's TSC that passed while time was held.
    pub(crate) fn ticks(&self) -> u64 {
        // Acquire: pairs with the release in `let_go`. Who sees the new count also sees the clock
        // that was set before it.
        self.ticks.load(Ordering::Acquire)
    }

    pub(crate) fn hold(&self, vm: &VmFd) -> Result<Held, CpuError> {
        let mut held = self.lock();
        if held.is_none() {
            *held = Some(now(vm)?);
        }
        Ok(if self.moves() {
            Held::Everything
        } else {
            Held::ClockOnly
        })
    }

    pub(crate) fn let_go(&self, vm: &VmFd) -> Result<(), CpuError> {
        let mut held = self.lock();
        let Some(then) = *held else {
            return Ok(());
        };
        let now = now(vm)?;
        set_clock(vm, then.clock_ns)?;
        *held = None;
        if self.moves() {
            // A host whose processors' TSCs differ may have gone back: nothing passed then.
            let passed = now.host_tsc.saturating_sub(then.host_tsc);
            // Release: pairs with the acquire in `ticks`.
            self.ticks.fetch_add(passed, Ordering::Release);
        }
        Ok(())
    }

    pub(crate) fn clock_ns(&self, vm: &VmFd) -> Result<u64, CpuError> {
        match *self.lock() {
            Some(moment) => Ok(moment.clock_ns),
            None => Ok(now(vm)?.clock_ns),
        }
    }

    pub(crate) fn set_clock_ns(&self, vm: &VmFd, ns: u64) -> Result<(), CpuError> {
        match &mut *self.lock() {
            Some(moment) => {
                moment.clock_ns = ns;
                Ok(())
            }
            None => set_clock(vm, ns),
        }
    }

    /// The host's TSC when time was held, if it is and if the vCPUs' TSCs are held with it.
    fn held_tsc(&self) -> Option<u64> {
        let held = *self.lock();
        held.filter(|_| self.moves()).map(|moment| moment.host_tsc)
    }
}

fn now(vm: &VmFd) -> Result<Moment, CpuError> {
    let clock = vm
        .get_clock()
        .map_err(|e| host_error("KVM_GET_CLOCK", None, e))?;
    let has_tsc = clock.flags & KVM_CLOCK_HOST_TSC != 0;
    Ok(Moment {
        clock_ns: clock.clock,
        host_tsc: if has_tsc { clock.host_tsc } else { tsc::host() },
    })
}

fn set_clock(vm: &VmFd, ns: u64) -> Result<(), CpuError> {
    let clock = kvm_clock_data {
        clock: ns,
        ..kvm_clock_data::default()
    };
    vm.set_clock(&clock)
        .map_err(|e| host_error("KVM_SET_CLOCK", None, e))
}

/// What a vCPU knows of the time of its machine.
#[derive(Debug)]
pub(crate) struct VcpuTime {
    /// The count of held ticks that its TSC's offset accounts for.
    offset_at: u64,
    /// The one that its deadline's timer accounts for.
    timer_at: u64,
    /// Frequency of the host's TSC, which a new vCPU has.
    host_khz: u32,
    scale: Scale,
}

impl VcpuTime {
    /// Of a new vCPU, to which KVM gives the TSC that the others have.
    pub(crate) fn new(time: &Time) -> Self {
        let ticks = time.ticks();
        Self {
            offset_at: ticks,
            timer_at: ticks,
            host_khz: 0,
            scale: Scale::ONE,
        }
    }

    pub(crate) fn host_khz(&self) -> u32 {
        self.host_khz
    }
}

impl KvmVcpu {
    /// Learns what there is to know of a new vCPU's TSC.
    pub(crate) fn meet_time(&mut self) -> Result<(), CpuError> {
        self.time.host_khz = ioctl::tsc_khz(&self.fd).map_err(self.fail("KVM_GET_TSC_KHZ"))?;
        if self.inner.time.moves.get().is_none() {
            let moves = self.tsc_moves()?;
            // Another vCPU may have been faster; it found the same.
            let _ = self.inner.time.moves.set(moves);
        }
        Ok(())
    }

    /// Whether this vCPU's TSC goes by its offset. A new one's begins at 0, so that its offset is the
    /// host's TSC, negated; there are KVMs that take an offset and hand through the host's TSC.
    fn tsc_moves(&self) -> Result<bool, CpuError> {
        if !self.has(KVM_CAP_VCPU_ATTRIBUTES) || !ioctl::has_tsc_offset(&self.fd) {
            return Ok(false);
        }
        let offset = self.tsc_offset()?;
        let before = tsc::host();
        let read = self.read_tsc()?;
        let after = tsc::host();
        let by_offset = before.wrapping_add(offset)..=after.wrapping_add(offset);
        Ok(offset != 0 && by_offset.contains(&read))
    }

    /// Called before every entry; almost always nothing was held since the last one.
    pub(crate) fn keep_time(&mut self) -> Result<(), CpuError> {
        let ticks = self.inner.time.ticks();
        if ticks == self.time.timer_at {
            return Ok(());
        }
        self.catch_up(ticks)
    }

    /// Takes what was held from the TSC and arms the deadline's timer anew. What fails is tried again
    /// at the next entry, from where it failed.
    #[cold]
    fn catch_up(&mut self, ticks: u64) -> Result<(), CpuError> {
        if ticks != self.time.offset_at {
            let over = self.over(ticks);
            self.set_tsc_offset(self.tsc_offset()?.wrapping_sub(over))?;
            self.time.offset_at = ticks;
        }
        let deadline = msrs::read(&self.fd, self.id, &[msrs::TSC_DEADLINE])?;
        let armed: Vec<Msr> = deadline.into_iter().filter(|msr| msr.value != 0).collect();
        msrs::write(&self.fd, self.id, &armed)?;
        self.time.timer_at = ticks;
        Ok(())
    }

    /// What the TSC is ahead by, in its own ticks. Taken from the total and not from what passed
    /// since the last time, so that it rounds the same however often a vCPU looked.
    fn over(&self, ticks: u64) -> u64 {
        let VcpuTime {
            scale, offset_at, ..
        } = self.time;
        scale.of(ticks).wrapping_sub(scale.of(offset_at))
    }

    pub(crate) fn tsc(&self) -> Result<Tsc, CpuError> {
        let khz = ioctl::tsc_khz(&self.fd).map_err(self.fail("KVM_GET_TSC_KHZ"))?;
        let value = match self.inner.time.held_tsc() {
            Some(host) => self.time.scale.of(host).wrapping_add(self.tsc_offset()?),
            None => self.read_tsc()?,
        };
        let value = value.wrapping_sub(self.over(self.inner.time.ticks()));
        Ok(Tsc { khz, value })
    }

    /// Sets the TSC, and its frequency where the host can.
    pub(crate) fn set_tsc(&mut self, tsc: Tsc) -> Result<(), CpuError> {
        if tsc.khz != 0 && self.has(KVM_CAP_TSC_CONTROL) {
            self.fd
                .set_tsc_khz(tsc.khz)
                .map_err(|e| host_error("KVM_SET_TSC_KHZ", Some(self.id), e))?;
            let point = tsc::point(self.inner.facts.cpuid.as_slice());
            self.time.scale = Scale::new(tsc.khz, self.time.host_khz, point);
        }
        match self.inner.time.held_tsc() {
            Some(host) => {
                self.set_tsc_offset(tsc.value.wrapping_sub(self.time.scale.of(host)))?;
            }
            None => {
                let msr = Msr {
                    index: msrs::TSC,
                    value: tsc.value,
                };
                msrs::write(&self.fd, self.id, &[msr])?;
            }
        }
        self.time.offset_at = self.inner.time.ticks();
        Ok(())
    }

    /// Has the TSC go on over a reset: stepping one vCPU's back would take it out of step with the
    /// others. KVM on AMD clears its control block after a triple fault, and the TSC's offset with it
    /// (AMD APM vol. 2, section 15.14.3: it is undefined then), without forgetting what it was: guest
    /// and timers would go by different TSCs.
    pub(crate) fn renew_tsc(&mut self) -> Result<(), CpuError> {
        if self.inner.time.moves() {
            return self.set_tsc_offset(self.tsc_offset()?);
        }
        let tsc = self.tsc()?;
        self.set_tsc(tsc)
    }

    fn read_tsc(&self) -> Result<u64, CpuError> {
        let value = msrs::read(&self.fd, self.id, &[msrs::TSC])?;
        Ok(value.first().map_or(0, |msr| msr.value))
    }

    fn tsc_offset(&self) -> Result<u64, CpuError> {
        ioctl::tsc_offset(&self.fd).map_err(self.fail("KVM_GET_DEVICE_ATTR"))
    }

    fn set_tsc_offset(&self, offset: u64) -> Result<(), CpuError> {
        ioctl::set_tsc_offset(&self.fd, offset).map_err(self.fail("KVM_SET_DEVICE_ATTR"))
    }
}
