// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building a tree from its sources, and asking it.

use crate::{
    CfgError, Origin,
    error::clip,
    nearest::nearest,
    node::{Key, Node, Table, Value, join, quoted, quoted_key},
    parse::{self, LineOrigin},
    read,
};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// The largest configuration file accepted, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// Collects the sources of a configuration; a later one goes before an earlier one, key by key.
#[derive(Debug)]
pub struct Builder {
    root: Node,
}

impl Builder {
    /// Adds values of the program itself, as TOML text.
    ///
    /// # Errors
    ///
    /// [`CfgError::Syntax`], [`CfgError::Conflict`].
    pub fn defaults(self, text: &str) -> Result<Self, CfgError> {
        let parsed = parse::document("defaults", text, LineOrigin::Said(Origin::Default))?;
        self.merge(parsed)
    }

    /// Adds a TOML file.
    ///
    /// # Errors
    ///
    /// [`CfgError`]: it cannot be read, is a directory, larger than 1 MiB, not UTF-8 or not TOML,
    /// or has a section where an earlier source has a value or the reverse.
    pub fn file(self, file: &Path) -> Result<Self, CfgError> {
        let text = read_text(file)?;
        self.text(file, &text)
    }

    /// Adds TOML text that was read from `file`, or is called that in errors.
    ///
    /// # Errors
    ///
    /// [`CfgError::Syntax`], [`CfgError::Conflict`], [`CfgError::TooLarge`].
    pub fn text(self, file: &Path, text: &str) -> Result<Self, CfgError> {
        if text.len() as u64 > SIZE_LIMIT {
            return Err(CfgError::TooLarge {
                file: file.to_owned(),
                limit: SIZE_LIMIT,
            });
        }
        let name = file.display().to_string();
        let parsed = parse::document(&name, text, LineOrigin::File(file.into()))?;
        self.merge(parsed)
    }

    /// Adds an override, `path.to.key=value`. The value is TOML or, if it is none, a text; a number
    /// in the path is the place of an element in a list that an earlier source has.
    ///
    /// # Errors
    ///
    /// [`CfgError::Override`], [`CfgError::Conflict`].
    pub fn set(self, assignment: &str) -> Result<Self, CfgError> {
        self.assign(assignment, &Origin::Override)
    }

    /// Adds an override as [`set`](Self::set) does, that is said to come from the flag `name`.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn flag(self, name: &str, assignment: &str) -> Result<Self, CfgError> {
        self.assign(assignment, &Origin::Flag(name.into()))
    }

    fn assign(mut self, assignment: &str, origin: &Origin) -> Result<Self, CfgError> {
        if assignment.len() as u64 > SIZE_LIMIT {
            let message = "too long".to_owned();
            return Err(CfgError::Override {
                text: clip(assignment),
                message,
            });
        }
        let (steps, value) = parse::assignment(assignment, origin)?;
        let mut node = &mut self.root;
        let mut path = String::new();
        for step in steps {
            let at = join(&path, &step);
            node =
                descend(node, &step, origin).map_err(|message| conflict(&at, &value, &message))?;
            path = at;
        }
        merge_into(&path, node, value)?;
        Ok(self)
    }

    /// The tree. It does not change any more.
    pub fn build(self) -> Tree {
        let asked = Mutex::new(BTreeSet::new());
        Tree {
            inner: Arc::new(Inner {
                root: self.root,
                asked,
            }),
        }
    }

    fn merge(mut self, parsed: Node) -> Result<Self, CfgError> {
        merge_into("", &mut self.root, parsed)?;
        Ok(self)
    }
}

/// One step down, where an override leads; what is not there yet is made.
fn descend<'n>(node: &'n mut Node, step: &str, origin: &Origin) -> Result<&'n mut Node, String> {
    let what = node.value.describe();
    match &mut node.value {
        Value::Table(table) => {
            let empty = || Node::new(Value::Table(Table::new()), origin.clone());
            Ok(table.entry(Key(step.to_owned())).or_insert_with(empty))
        }
        Value::List(list) => {
            let count = list.len();
            step.parse::<usize>()
                .ok()
                .and_then(|place| list.get_mut(place))
                .ok_or_else(|| format!("the list has no element {step:?}, only {count}"))
        }
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::Date(_) => {
            Err(format!("what it is to be set in is {what}, not a section"))
        }
    }
}

/// Puts `new` over `old`: a section key by key, anything else whole.
fn merge_into(path: &str, old: &mut Node, new: Node) -> Result<(), CfgError> {
    let fresh = matches!(&old.value, Value::Table(t) if t.is_empty()) && !path.is_empty();
    if fresh && !matches!(new.value, Value::Table(_)) {
        *old = new;
        return Ok(());
    }
    match (&mut old.value, new.value) {
        (Value::Table(into), Value::Table(from)) => {
            for (key, node) in from {
                match into.get_mut(&key) {
                    Some(there) => merge_into(&join(path, &key.0), there, node)?,
                    None => {
                        into.insert(key, node);
                    }
                }
            }
            Ok(())
        }
        (Value::Table(_), value) => {
            let message = "it is a section; set one of its keys";
            Err(conflict(path, &Node::new(value, new.origin), message))
        }
        (there, value @ Value::Table(_)) => {
            let message = format!("it is {}, not a section", there.describe());
            Err(conflict(path, &Node::new(value, new.origin), &message))
        }
        (_, value) => {
            *old = Node::new(value, new.origin);
            Ok(())
        }
    }
}

fn conflict(path: &str, new: &Node, message: &str) -> CfgError {
    CfgError::Conflict {
        path: clip(path),
        origin: new.origin.clone(),
        message: clip(message),
    }
}

fn read_text(file: &Path) -> Result<String, CfgError> {
    let unreadable = |source| CfgError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let opened = File::open(file).map_err(unreadable)?;
    if opened.metadata().map_err(unreadable)?.is_dir() {
        return Err(CfgError::Directory {
            file: file.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    opened
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(CfgError::TooLarge {
            file: file.to_owned(),
            limit: SIZE_LIMIT,
        });
    }
    String::from_utf8(bytes).map_err(|error| CfgError::NotUtf8 {
        file: file.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}

/// A configuration: one tree of sections and values. Cheap to clone; never changes.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    root: Node,
    /// The paths that somebody has asked for, whether they are set or not.
    asked: Mutex<BTreeSet<String>>,
}

impl Inner {
    pub(crate) fn ask(&self, path: String) {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path);
    }
}

/// One value that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its full path.
    pub path: String,
    /// The value as TOML.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Tree {
    /// No sources yet.
    pub fn builder() -> Builder {
        Builder {
            root: Node::new(Value::Table(Table::new()), Origin::Default),
        }
    }

    /// The whole tree as a section.
    pub fn root(&self) -> Section {
        Section {
            tree: self.clone(),
            steps: Vec::new(),
        }
    }

    /// The section at this path; one that is not set is empty.
    ///
    /// # Errors
    ///
    /// [`CfgError::WrongType`] if a value is there, [`CfgError::Invalid`] if `path` is none.
    pub fn section(&self, path: &str) -> Result<Section, CfgError> {
        self.root().section(path)
    }

    /// Every value, in the order of the tree.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        collect(&self.inner.root, String::new(), &|_| true, &mut entries);
        entries
    }

    /// The values that nobody has read, in the order of the tree.
    pub fn unread(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        collect(
            &self.inner.root,
            String::new(),
            &|node| !node.is_read(),
            &mut entries,
        );
        entries
    }

    /// Refuses a key that nobody has read; to be called when everybody has.
    ///
    /// # Errors
    ///
    /// [`CfgError::UnknownKey`] for the first, with the nearest key that somebody asked for.
    pub fn refuse_unread(&self) -> Result<(), CfgError> {
        let Some(Entry { path, origin, .. }) = self.unread().into_iter().next() else {
            return Ok(());
        };
        let asked = self
            .inner
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let nearest = nearest(&path, asked.iter().map(String::as_str)).map(str::to_owned);
        Err(CfgError::UnknownKey {
            path: clip(&path),
            origin,
            nearest,
        })
    }

    /// The tree as TOML, one line for each value, that parses to the same tree.
    pub fn render(&self) -> String {
        self.entries()
            .iter()
            .map(|entry| format!("{} = {}\n", entry.path, entry.value))
            .collect()
    }

    fn find(&self, steps: &[String]) -> Option<&Node> {
        steps
            .iter()
            .try_fold(&self.inner.root, |node, step| node.child(step))
    }
}

fn collect(node: &Node, path: String, wanted: &dyn Fn(&Node) -> bool, into: &mut Vec<Entry>) {
    if let Value::Table(table) = &node.value
        && (!table.is_empty() || path.is_empty())
    {
        for (key, child) in table {
            collect(child, join(&path, &key.0), wanted, into);
        }
    } else if wanted(node) {
        into.push(Entry {
            path,
            value: render(&node.value),
            origin: node.origin.clone(),
        });
    }
}

fn render(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => "nan".to_owned(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(text) => quoted(text),
        Value::Date(date) => date.clone(),
        Value::List(list) => {
            let elements: Vec<_> = list.iter().map(|node| render(&node.value)).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Table(table) => {
            let pair = |(key, node): (&Key, &Node)| {
                format!("{} = {}", quoted_key(&key.0), render(&node.value))
            };
            format!(
                "{{{}}}",
                table.iter().map(pair).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// A part of a tree, by its path.
#[derive(Debug, Clone)]
pub struct Section {
    tree: Tree,
    steps: Vec<String>,
}

impl Section {
    /// Its full path; empty for the root.
    pub fn path(&self) -> String {
        self.steps
            .iter()
            .fold(String::new(), |path, step| join(&path, step))
    }

    /// The section at this path below it; one that is not set is empty.
    ///
    /// # Errors
    ///
    /// As [`Tree::section`].
    pub fn section(&self, path: &str) -> Result<Self, CfgError> {
        let invalid = |message: String| CfgError::Invalid {
            path: clip(path),
            origin: Origin::Default,
            message,
        };
        let (below, rest) = parse::split_path(path).map_err(invalid)?;
        if !rest.is_empty() {
            return Err(invalid("not a path of keys joined by dots".to_owned()));
        }
        let steps = self.steps.iter().cloned().chain(below).collect();
        let section = Self {
            tree: self.tree.clone(),
            steps,
        };
        let path = section.path();
        match section.node() {
            Some(node) if !matches!(node.value, Value::Table(_) | Value::List(_)) => {
                Err(CfgError::WrongType {
                    path: clip(&path),
                    origin: node.origin.clone(),
                    found: node.value.describe(),
                    expected: "a section".to_owned(),
                })
            }
            _ => {
                section.tree.inner.ask(path);
                Ok(section)
            }
        }
    }

    /// Whether anything is set in it.
    pub fn is_set(&self) -> bool {
        self.node().is_some()
    }

    /// The sections directly below it, in natural order (`disk2` before `disk10`), with their names.
    pub fn sections(&self) -> Vec<(String, Self)> {
        let node = self.node();
        let below = node.map(Node::children).unwrap_or_default().into_iter();
        below
            .filter(|(_, node)| matches!(node.value, Value::Table(_)))
            .map(|(step, _)| {
                let steps = self.steps.iter().cloned().chain([step.clone()]).collect();
                (
                    step,
                    Self {
                        tree: self.tree.clone(),
                        steps,
                    },
                )
            })
            .collect()
    }

    /// Reads it as a `T`: a struct whose fields are its keys. A key that `T` has no field for is
    /// refused. Fields with `#[serde(default)]` need not be set.
    ///
    /// # Errors
    ///
    /// [`CfgError`]: an unknown key, a value of the wrong type or out of range, a key that is
    /// missing, or a value that `T` refuses for a reason of its own.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, CfgError> {
        let path = self.path();
        match self.node() {
            Some(node) => read::read(&self.tree.inner, node, &path),
            None => {
                let empty = Node::new(Value::Table(Table::new()), Origin::Default);
                read::read(&self.tree.inner, &empty, &path)
            }
        }
    }

    fn node(&self) -> Option<&Node> {
        self.tree.find(&self.steps)
    }
}
