// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An engine around the scripted one, in which a test may have a call fail or note it.

use std::fmt::Debug;
use std::sync::Arc;

use vm_cpu::script::ScriptEngine;
use vm_cpu::{CpuError, Engine, GuestRam, Held, Machine, MachineSpec, Msi, Vcpu};

/// Asked before a call goes on to the scripted machine; what it fails with is the call's error.
pub(crate) trait Hooks: Debug + Send + Sync {
    fn machine(&self) -> Result<(), CpuError> {
        Ok(())
    }
    fn vcpu(&self, _id: u32) -> Result<(), CpuError> {
        Ok(())
    }
    fn hold_time(&self) -> Result<(), CpuError> {
        Ok(())
    }
    fn let_time_go(&self) -> Result<(), CpuError> {
        Ok(())
    }
    /// The scripted machine is there.
    fn created(&self, _machine: &Arc<dyn Machine>) {}
}

#[derive(Debug)]
pub(crate) struct Hooked<H> {
    pub(crate) inner: Arc<ScriptEngine>,
    pub(crate) hooks: Arc<H>,
}

#[derive(Debug)]
struct HookedMachine<H> {
    inner: Arc<dyn Machine>,
    hooks: Arc<H>,
}

impl<H: Hooks + 'static> Engine for Hooked<H> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn create(&self, spec: &MachineSpec, ram: &GuestRam) -> Result<Arc<dyn Machine>, CpuError> {
        self.hooks.machine()?;
        let inner = self.inner.create(spec, ram)?;
        self.hooks.created(&inner);
        let hooks = Arc::clone(&self.hooks);
        Ok(Arc::new(HookedMachine { inner, hooks }))
    }
}

impl<H: Hooks> Machine for HookedMachine<H> {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, CpuError> {
        self.hooks.vcpu(id)?;
        self.inner.create_vcpu(id)
    }
    fn deliver_msi(&self, msi: Msi) -> Result<(), CpuError> {
        self.inner.deliver_msi(msi)
    }
    fn route_pins(&self, pins: &[Option<Msi>]) -> Result<(), CpuError> {
        self.inner.route_pins(pins)
    }
    fn clock_ns(&self) -> Result<u64, CpuError> {
        self.inner.clock_ns()
    }
    fn set_clock_ns(&self, ns: u64) -> Result<(), CpuError> {
        self.inner.set_clock_ns(ns)
    }
    fn hold_time(&self) -> Result<Held, CpuError> {
        self.hooks.hold_time()?;
        self.inner.hold_time()
    }
    fn let_time_go(&self) -> Result<(), CpuError> {
        self.hooks.let_time_go()?;
        self.inner.let_time_go()
    }
}
