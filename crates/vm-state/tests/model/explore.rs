// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Breadth-first search of everything a model can do, and three questions to what was found.
//!
//! Invariant: a trace is a shortest one, so the first counter-example is the one to read.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug};
use std::hash::Hash;

/// More states than this are a mistake in the model.
const MOST_STATES: usize = 4_000_000;

/// Who decides that a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call that somebody may make, or never.
    Call,
    /// A part of the system that owes the step: if nothing else happens, this does.
    Inner,
    /// Misfortune, a guest, a peer: may happen, and nobody may count on it.
    Chance,
}

/// What a step is called: who, and what.
pub(crate) type Label = (&'static str, &'static str);

/// One thing that may happen next.
pub(crate) struct Step<S> {
    pub(crate) label: Label,
    pub(crate) kind: Kind,
    pub(crate) to: S,
    /// What is wrong with taking it, if anything.
    pub(crate) wrong: Option<&'static str>,
}

/// A system to be searched.
pub(crate) trait Model {
    type State: Clone + Eq + Hash + Debug;

    fn initial(&self) -> Self::State;

    fn steps(&self, state: &Self::State) -> Vec<Step<Self::State>>;

    /// What is wrong with `state`, if anything.
    fn wrong(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether the system may stay in `state` for ever if nobody calls and nothing happens to it.
    fn rests(&self, state: &Self::State) -> bool;

    /// Whether this is the end that must be reachable from everywhere.
    fn ended(&self, state: &Self::State) -> bool;
}

/// Everything that was found.
pub(crate) struct Explored<S> {
    pub(crate) states: Vec<S>,
    /// The first way into each state; none into the first.
    parents: Vec<Option<(usize, Label)>>,
    edges: Vec<(usize, usize, Kind)>,
    wrong: Option<(usize, Option<Label>, &'static str)>,
}

/// How the system comes where it must not.
pub(crate) struct CounterExample {
    pub(crate) what: String,
    pub(crate) trace: Vec<String>,
}

impl fmt::Display for CounterExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.what)?;
        for (number, line) in self.trace.iter().enumerate() {
            writeln!(f, "  {number:>2}. {line}")?;
        }
        Ok(())
    }
}

/// Looks at every state that can be reached, also by way of a wrong one.
pub(crate) fn explore<M: Model>(model: &M) -> Explored<M::State> {
    let first = model.initial();
    let mut found = Explored {
        wrong: model.wrong(&first).map(|why| (0, None, why)),
        states: vec![first.clone()],
        parents: vec![None],
        edges: Vec::new(),
    };
    let mut numbers = HashMap::from([(first, 0)]);
    let mut next = VecDeque::from([0]);
    while let Some(from) = next.pop_front() {
        let state = found.states[from].clone();
        for step in model.steps(&state) {
            let to = *numbers.entry(step.to).or_insert_with_key(|state| {
                let number = found.states.len();
                assert!(number < MOST_STATES, "the model has no end");
                if let Some(why) = model.wrong(state) {
                    found.wrong.get_or_insert((number, None, why));
                }
                found.states.push(state.clone());
                found.parents.push(Some((from, step.label)));
                next.push_back(number);
                number
            });
            if let Some(why) = step.wrong {
                found.wrong.get_or_insert((from, Some(step.label), why));
            }
            found.edges.push((from, to, step.kind));
        }
    }
    found
}

impl<S: Clone + Eq + Hash + Debug> Explored<S> {
    pub(crate) fn edges(&self) -> usize {
        self.edges.len()
    }

    /// The numbers of the states on the first way to `state`, with the step into each.
    pub(crate) fn way(&self, state: usize) -> Vec<(usize, Option<Label>)> {
        let mut way = Vec::new();
        let mut at = state;
        while let Some((from, label)) = self.parents[at] {
            way.push((at, Some(label)));
            at = from;
        }
        way.push((at, None));
        way.reverse();
        way
    }

    /// A state or a step that is wrong in itself.
    pub(crate) fn wrong(&self) -> Option<CounterExample> {
        let (state, last, why) = self.wrong?;
        let mut example = self.example(state, why);
        if let Some((who, what)) = last {
            example.trace.push(format!("{who}: {what}"));
        }
        Some(example)
    }

    /// A state that is left by nobody although somebody should, or in which those who should go
    /// on in circles.
    pub(crate) fn stuck<M: Model<State = S>>(&self, model: &M) -> Option<CounterExample> {
        let mut out = vec![0_usize; self.states.len()];
        let inner = || self.edges.iter().filter(|e| e.2 == Kind::Inner);
        for &(from, ..) in inner() {
            out[from] += 1;
        }
        let sink = (0..out.len()).find(|&s| out[s] == 0 && !self.stands(model, s));
        if let Some(state) = sink {
            return Some(self.example(state, "nobody goes on"));
        }
        let mut into: Vec<Vec<usize>> = vec![Vec::new(); self.states.len()];
        for &(from, to, _) in inner() {
            into[to].push(from);
        }
        let mut done: Vec<usize> = (0..out.len()).filter(|&s| out[s] == 0).collect();
        while let Some(state) = done.pop() {
            for &from in &into[state] {
                out[from] -= 1;
                if out[from] == 0 {
                    done.push(from);
                }
            }
        }
        let circle = (0..out.len()).find(|&s| out[s] > 0)?;
        Some(self.example(circle, "they go on in circles"))
    }

    /// A state from which the end cannot be reached by calls and by what the system owes.
    pub(crate) fn endless<M: Model<State = S>>(&self, model: &M) -> Option<CounterExample> {
        let mut into: Vec<Vec<usize>> = vec![Vec::new(); self.states.len()];
        for &(from, to, kind) in &self.edges {
            if kind != Kind::Chance {
                into[to].push(from);
            }
        }
        let mut ends: Vec<bool> = self.states.iter().map(|s| model.ended(s)).collect();
        let mut next: Vec<usize> = (0..ends.len()).filter(|&s| ends[s]).collect();
        while let Some(state) = next.pop() {
            for &from in &into[state] {
                if !std::mem::replace(&mut ends[from], true) {
                    next.push(from);
                }
            }
        }
        let lost = (0..ends.len()).find(|&s| !ends[s])?;
        Some(self.example(lost, "there is no way to the end"))
    }

    /// All three questions.
    pub(crate) fn flaw<M: Model<State = S>>(&self, model: &M) -> Option<CounterExample> {
        self.wrong()
            .or_else(|| self.stuck(model))
            .or_else(|| self.endless(model))
    }

    fn stands<M: Model<State = S>>(&self, model: &M, state: usize) -> bool {
        model.rests(&self.states[state]) || model.ended(&self.states[state])
    }

    fn example(&self, state: usize, what: &str) -> CounterExample {
        let trace = self.way(state).into_iter().map(|(at, label)| {
            let (who, what) = label.unwrap_or(("", "begin"));
            format!("{who}: {what}\n        {:?}", self.states[at])
        });
        CounterExample {
            what: what.to_owned(),
            trace: trace.collect(),
        }
    }
}
