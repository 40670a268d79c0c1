// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From TOML text and `--set` overrides to nodes. Invariant: nothing in the text can make this
//! panic or use more memory than a small multiple of its length.

use crate::{
    CfgError, Origin,
    error::clip,
    node::{Key, Node, Table, Value, is_bare},
};
use std::{ops::Range, path::Path, sync::Arc};
use toml::de::{DeInteger, DeTable, DeValue};
use toml_parser::lexer::TokenKind;

/// How deep sections and lists may be nested, in a file or in the path of an override.
const DEPTH_LIMIT: usize = 32;

/// A text being parsed, to name lines in it.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    origin: LineOrigin,
}

/// What the values of a source are said to come from.
pub(crate) enum LineOrigin {
    File(Arc<Path>),
    Said(Origin),
}

/// Parses a document.
pub(crate) fn document(name: &str, text: &str, origin: LineOrigin) -> Result<Node, CfgError> {
    let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
    let lines = std::iter::once(0)
        .chain(breaks.map(|(at, _)| at + 1))
        .collect();
    let source = Source {
        name,
        text,
        lines,
        origin,
    };
    if let Some(at) = too_deep(text) {
        return Err(source.syntax(at, "nested too deeply; use fewer levels"));
    }
    let parsed = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.syntax(at, error.message())
    })?;
    let span = parsed.span();
    let table = source.table(parsed.into_inner(), 0)?;
    Ok(Node::new(Value::Table(table), source.origin_at(&span)))
}

/// Where the text is nested more deeply than [`DEPTH_LIMIT`], if it is.
///
/// `toml` bounds brackets and the steps of a dotted key, but not one within the other, and recurses:
/// six KiB of `a.a.a={a.a.a=..` would overflow a thread's stack. Counted on its own tokens, so that
/// a bracket in a string or a comment is none. Of what is malformed too much is counted, never too
/// little: only a bracket of the same sort closes one.
fn too_deep(text: &str) -> Option<usize> {
    // The brackets open, each with the steps of the key before it, and the steps of this key.
    let mut open: Vec<(TokenKind, usize)> = Vec::new();
    let mut steps = 1;
    let mut depth = 0;
    for token in toml_parser::Source::new(text).lex() {
        let kind = token.kind();
        if kind == TokenKind::Dot {
            steps += 1;
        } else if kind == TokenKind::LeftSquareBracket || kind == TokenKind::LeftCurlyBracket {
            open.push((kind, steps));
            depth += steps;
            steps = 1;
        } else if kind == TokenKind::Comma || kind == TokenKind::Newline {
            steps = 1;
        } else if open
            .last()
            .is_some_and(|&(opened, _)| Some(opened) == opener_of(kind))
        {
            depth -= open.pop().map_or(0, |(_, steps)| steps);
        }
        if depth + steps > DEPTH_LIMIT {
            return Some(token.span().start());
        }
    }
    None
}

fn opener_of(kind: TokenKind) -> Option<TokenKind> {
    if kind == TokenKind::RightSquareBracket {
        Some(TokenKind::LeftSquareBracket)
    } else {
        (kind == TokenKind::RightCurlyBracket).then_some(TokenKind::LeftCurlyBracket)
    }
}

impl Source<'_> {
    fn table(&self, parsed: DeTable<'_>, depth: usize) -> Result<Table, CfgError> {
        let mut table = Table::new();
        for (key, value) in parsed {
            let span = key.span();
            let node = self.node(value.into_inner(), &span, depth + 1)?;
            table.insert(Key(key.into_inner().into_owned()), node);
        }
        Ok(table)
    }

    fn node(
        &self,
        parsed: DeValue<'_>,
        span: &Range<usize>,
        depth: usize,
    ) -> Result<Node, CfgError> {
        if depth > DEPTH_LIMIT {
            return Err(self.syntax(span.start, "nested too deeply; use fewer levels"));
        }
        let value = match parsed {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(integer) => Value::Integer(integer_of(&integer).ok_or_else(|| {
                let range = "an integer beyond 64 bits; use one from -2^63 to 2^64 - 1";
                self.syntax(span.start, range)
            })?),
            DeValue::Float(float) => {
                let number = float.as_str().parse().map_err(|_| {
                    self.syntax(span.start, "not a number; write it as in 1.5 or 1e6")
                })?;
                Value::Float(number)
            }
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(list) => {
                let elements = list.into_iter().map(|element| {
                    let span = element.span();
                    self.node(element.into_inner(), &span, depth + 1)
                });
                Value::List(elements.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Table(self.table(table, depth)?),
        };
        Ok(Node::new(value, self.origin_at(span)))
    }

    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&begin| begin <= at)
    }

    fn origin_at(&self, span: &Range<usize>) -> Origin {
        match &self.origin {
            LineOrigin::File(file) => Origin::File {
                file: Arc::clone(file),
                line: self.line(span.start),
            },
            LineOrigin::Said(origin) => origin.clone(),
        }
    }

    fn syntax(&self, at: usize, message: &str) -> CfgError {
        let line = self.line(at);
        let begin = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(begin..at).unwrap_or("");
        CfgError::Syntax {
            file: self.name.to_owned(),
            line,
            column: before.chars().count() + 1,
            message: clip(&message.replace('\n', ", ")),
        }
    }
}

fn integer_of(parsed: &DeInteger<'_>) -> Option<i128> {
    let value = i128::from_str_radix(parsed.as_str(), parsed.radix()).ok()?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX))
        .contains(&value)
        .then_some(value)
}

/// Parses `path.to.key=value` into the steps of the path and the value.
///
/// The value is TOML, or else, if it is nothing that TOML would begin with a quote or a bracket, the
/// text as it stands, so that `vm.memory=6G` needs no quotes.
pub(crate) fn assignment(text: &str, origin: &Origin) -> Result<(Vec<String>, Node), CfgError> {
    let refused = |message: String| CfgError::Override {
        text: clip(text),
        message,
    };
    let (path, rest) = split_path(text).map_err(refused)?;
    let Some(value) = rest.strip_prefix('=') else {
        return Err(refused("no '=' after the key".to_owned()));
    };
    let value = value.trim();
    // A line break would let the value add further keys.
    let parsed = if value.contains(['\n', '\r']) {
        Err("a line break in the value".to_owned())
    } else {
        let line = format!("value = {value}");
        document("override", &line, LineOrigin::Said(origin.clone())).map_err(|error| {
            if let CfgError::Syntax { message, .. } = error {
                message
            } else {
                error.to_string()
            }
        })
    };
    match parsed {
        Ok(node) => Ok((
            path,
            only_child(node).ok_or_else(|| refused("no value".to_owned()))?,
        )),
        Err(_) if is_plain(value) => Ok((
            path,
            Node::new(Value::Text(value.to_owned()), origin.clone()),
        )),
        Err(message) => Err(refused(format!("the value is not TOML ({message})"))),
    }
}

/// Whether a value that is not TOML may stand for itself.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with(['"', '\'', '[', '{'])
        && !value.contains(char::is_control)
}

fn only_child(node: Node) -> Option<Node> {
    match node.value {
        Value::Table(table) => table.into_values().next(),
        Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Date(_)
        | Value::List(_) => None,
    }
}

/// Splits off a path of bare or double-quoted steps joined by dots; gives also what follows it.
pub(crate) fn split_path(text: &str) -> Result<(Vec<String>, &str), String> {
    let mut steps = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let (step, after) = split_step(rest)?;
        if steps.len() == DEPTH_LIMIT {
            return Err("the path has too many steps".to_owned());
        }
        steps.push(step.to_owned());
        rest = after.trim_start();
        match rest.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None => return Ok((steps, rest)),
        }
    }
}

fn split_step(text: &str) -> Result<(&str, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (step, after) = quoted
            .split_once('"')
            .ok_or_else(|| "a quote in the path is not closed".to_owned())?;
        if step.contains('\\') {
            return Err("a backslash in the path".to_owned());
        }
        return Ok((step, after));
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let (step, after) = text.split_at(end.unwrap_or(text.len()));
    if is_bare(step) {
        Ok((step, after))
    } else {
        Err("a step of the path is empty".to_owned())
    }
}
