// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tree itself: values with their origin, keys in natural order.
//!
//! Invariant: built once, then only the marks of what has been read change.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::Arc,
    sync::atomic::{self, AtomicBool},
};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file as it was named.
        file: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// An override, as `--set` gives it.
    Override,
    /// A flag of the program, by its name.
    Flag(Arc<str>),
    /// The program itself.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Override => f.pad("override"),
            Self::Flag(name) => f.pad(name),
            Self::Default => f.pad("default"),
        }
    }
}

/// A key; ordered so that `disk2` comes before `disk10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) String);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        natural(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares by runs: digits by the number they write, anything else byte by byte.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (digits_a, digits_b) = (leading_digits(a), leading_digits(b));
        let order = if digits_a > 0 && digits_b > 0 {
            let (number_a, rest_a) = a.split_at(digits_a);
            let (number_b, rest_b) = b.split_at(digits_b);
            (a, b) = (rest_a, rest_b);
            let (number_a, number_b) = (without_zeros(number_a), without_zeros(number_b));
            number_a
                .len()
                .cmp(&number_b.len())
                .then_with(|| number_a.cmp(number_b))
        } else {
            let (Some((first_a, rest_a)), Some((first_b, rest_b))) =
                (a.split_first(), b.split_first())
            else {
                return a.len().cmp(&b.len());
            };
            (a, b) = (rest_a, rest_b);
            first_a.cmp(first_b)
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn leading_digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
    read: AtomicBool,
}

#[derive(Debug)]
pub(crate) enum Value {
    Bool(bool),
    /// Within what i64 and u64 hold together.
    Integer(i128),
    Float(f64),
    Text(String),
    Date(String),
    List(Vec<Node>),
    Table(Table),
}

pub(crate) type Table = BTreeMap<Key, Node>;

impl Node {
    pub(crate) fn new(value: Value, origin: Origin) -> Self {
        Self {
            value,
            origin,
            read: AtomicBool::new(false),
        }
    }

    pub(crate) fn mark_read(&self) {
        // Relaxed: a mark says nothing about other memory.
        self.read.store(true, atomic::Ordering::Relaxed);
    }

    pub(crate) fn is_read(&self) -> bool {
        self.read.load(atomic::Ordering::Relaxed)
    }

    /// The element one step down.
    pub(crate) fn child(&self, step: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(table) => table.get(&Key(step.to_owned())),
            Value::List(list) => list.get(step.parse::<usize>().ok()?),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Date(_) => None,
        }
    }

    /// The elements one step down, with their steps, in order.
    pub(crate) fn children(&self) -> Vec<(String, &Self)> {
        match &self.value {
            Value::Table(table) => table
                .iter()
                .map(|(key, node)| (key.0.clone(), node))
                .collect(),
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(i, node)| (i.to_string(), node))
                .collect(),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Date(_) => Vec::new(),
        }
    }
}

impl Value {
    /// What it is, for an error: the type and, if short, the value.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Integer(value) => format!("the integer {value}"),
            Self::Float(value) => format!("the number {value:?}"),
            Self::Text(value) => format!("the text {:?}", crate::error::clip(value)),
            Self::Date(value) => format!("the date {value}"),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a section".to_owned(),
        }
    }
}

/// Appends a step to a path, quoted if it would not read as one step.
pub(crate) fn join(path: &str, step: &str) -> String {
    let step = quoted_key(step);
    if path.is_empty() {
        step
    } else {
        format!("{path}.{step}")
    }
}

pub(crate) fn quoted_key(key: &str) -> String {
    if is_bare(key) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

pub(crate) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A text as a TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_numbers_in_keys_count_as_numbers() {
        let mut keys = [
            "10", "2", "disk10", "disk2", "disk02", "1", "0", "disk", "disk2b", "a",
        ]
        .map(|key| Key(key.to_owned()));
        keys.sort();
        let sorted: Vec<_> = keys.iter().map(|key| key.0.as_str()).collect();
        let expected = [
            "0", "1", "2", "10", "a", "disk", "disk02", "disk2", "disk2b", "disk10",
        ];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_number_of_any_length_is_compared() {
        let (small, large) = ("9".repeat(500), format!("1{}", "0".repeat(500)));
        assert!(Key(small) < Key(large));
    }

    #[test]
    fn a_path_quotes_what_would_not_read_as_one_step() {
        assert_eq!(join("devices", "serial-0"), "devices.serial-0");
        assert_eq!(join("devices", "a.b"), "devices.\"a.b\"");
        assert_eq!(join("", ""), "\"\"");
    }
}
