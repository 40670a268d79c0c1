// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The pipeline of components: brought up in one order, taken down in exact reverse.
//!
//! A VM is brought up by [`Pipeline::init`], reset by [`Pipeline::reset`] and taken down by
//! [`Pipeline::term`], all on EMT 0. A failure at step k takes down k-1..0; destroy is the same path
//! from the top. There is no other teardown.

use std::fmt::{self, Debug};

use vm_pdm::ResetKind;

use crate::emt::Emt;

/// A component that failed, with what it said.
#[derive(Debug, thiserror::Error)]
#[error("{component}: {step} failed")]
pub struct ComponentError {
    /// The component's name.
    pub component: String,
    /// What it was doing.
    pub step: &'static str,
    /// What it said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a component's hook returns.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Rounds after every component is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Everything is constructed: look at the others.
    Constructed,
    /// Last: nothing may be added any more.
    Frozen,
}

/// A subsystem of the VM.
///
/// # Thread
/// All hooks run on EMT 0; `reset` and `relocate` while all EMTs are gathered.
pub trait Component: Send {
    /// Name, unique in the pipeline.
    fn name(&self) -> &str;

    /// Brings the component up.
    ///
    /// # Errors
    /// Whatever it failed with; the component must have undone its own half.
    fn init(&mut self, emt: &mut Emt) -> Outcome;

    /// All components are up.
    ///
    /// # Errors
    /// Whatever it failed with; the whole pipeline is taken down.
    fn init_completed(&mut self, _emt: &mut Emt, _round: Round) -> Outcome {
        Ok(())
    }

    /// Guest memory moved in the host: forget cached host addresses.
    fn relocate(&mut self, _emt: &mut Emt) {}

    /// Back to the state after `init`.
    ///
    /// # Errors
    /// Whatever it failed with; the VM ends in guru meditation.
    fn reset(&mut self, _emt: &mut Emt, _kind: ResetKind) -> Outcome {
        Ok(())
    }

    /// Takes the component down. Called exactly once for each successful `init`.
    fn term(&mut self, _emt: &mut Emt) {}
}

/// Components in order, and how many of them are up.
#[derive(Default)]
pub struct Pipeline {
    components: Vec<Box<dyn Component>>,
    up: usize,
}

impl Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("names", &self.names())
            .field("up", &self.up)
            .finish()
    }
}

impl Pipeline {
    /// A pipeline of `components`, none of them up.
    pub fn new(components: Vec<Box<dyn Component>>) -> Self {
        Self { components, up: 0 }
    }

    /// Names in order of `init`.
    pub fn names(&self) -> Vec<&str> {
        self.components.iter().map(|c| c.name()).collect()
    }

    /// Brings all components up, or none.
    ///
    /// # Errors
    /// The first failure; everything brought up before it is down again.
    pub fn init(&mut self, emt: &mut Emt) -> Result<(), ComponentError> {
        let result = self.try_init(emt);
        if result.is_err() {
            self.term(emt);
        }
        result
    }

    fn try_init(&mut self, emt: &mut Emt) -> Result<(), ComponentError> {
        for component in self.components.iter_mut().skip(self.up) {
            component
                .init(emt)
                .map_err(|e| failed(component.as_ref(), "init", e))?;
            self.up += 1;
            log::debug!(target: "vm.component", "{} up", component.name());
        }
        for round in [Round::Constructed, Round::Frozen] {
            for component in &mut self.components {
                component
                    .init_completed(emt, round)
                    .map_err(|e| failed(component.as_ref(), "init completion", e))?;
            }
        }
        Ok(())
    }

    /// Resets all components in order.
    ///
    /// # Errors
    /// The first failure; the rest is not reset.
    pub fn reset(&mut self, emt: &mut Emt, kind: ResetKind) -> Result<(), ComponentError> {
        for component in self.components.iter_mut().take(self.up) {
            component
                .reset(emt, kind)
                .map_err(|e| failed(component.as_ref(), "reset", e))?;
        }
        Ok(())
    }

    /// Tells all components that guest memory moved.
    pub fn relocate(&mut self, emt: &mut Emt) {
        for component in self.components.iter_mut().take(self.up) {
            component.relocate(emt);
        }
    }

    /// Takes down what is up, in exact reverse.
    pub fn term(&mut self, emt: &mut Emt) {
        while self.up > 0 {
            self.up -= 1;
            let component = &mut self.components[self.up];
            component.term(emt);
            log::debug!(target: "vm.component", "{} down", component.name());
        }
    }
}

fn failed(
    component: &dyn Component,
    step: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> ComponentError {
    ComponentError {
        component: component.name().to_owned(),
        step,
        source,
    }
}
