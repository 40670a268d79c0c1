// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From nodes to typed values, through serde, with the path and origin in every error.

use crate::{
    CfgError, Origin,
    error::clip,
    nearest::nearest,
    node::{Key, Node, Table, Value, join},
    tree::Inner,
};
use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer,
        Unexpected, Visitor,
    },
    forward_to_deserialize_any,
};
use std::{collections::btree_map, fmt, slice};

/// Reads `node`, which stands at `path`, as a `T`.
pub(crate) fn read<T: DeserializeOwned>(
    tree: &Inner,
    node: &Node,
    path: &str,
) -> Result<T, CfgError> {
    let reader = Reader {
        tree,
        node,
        path: path.to_owned(),
    };
    T::deserialize(reader).map_err(|fault| fault.at(path, &node.origin).into_error())
}

/// What is wrong, and where once that is known.
#[derive(Debug)]
struct Fault {
    what: What,
    place: Option<(String, Origin)>,
}

#[derive(Debug)]
enum What {
    Unknown { nearest: Option<String> },
    Type { found: String, expected: String },
    Range { found: String, expected: String },
    Missing { field: String },
    Other { message: String },
}

impl Fault {
    fn new(what: What) -> Self {
        Self { what, place: None }
    }

    /// Says where, unless something further down already has.
    fn at(mut self, path: &str, origin: &Origin) -> Self {
        self.place
            .get_or_insert_with(|| (path.to_owned(), origin.clone()));
        self
    }

    fn into_error(self) -> CfgError {
        let (path, origin) = self.place.unwrap_or((String::new(), Origin::Default));
        let shown = clip(if path.is_empty() {
            "the configuration"
        } else {
            &path
        });
        match self.what {
            What::Unknown { nearest } => CfgError::UnknownKey {
                path: shown,
                origin,
                nearest,
            },
            What::Type { found, expected } => CfgError::WrongType {
                path: shown,
                origin,
                found,
                expected,
            },
            What::Range { found, expected } => CfgError::OutOfRange {
                path: shown,
                origin,
                found,
                expected,
            },
            What::Missing { field } => CfgError::Missing {
                path: clip(&join(&path, &field)),
            },
            What::Other { message } => CfgError::Invalid {
                path: shown,
                origin,
                message,
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.what, f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other {
            message: clip(&message.to_string()),
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Type {
            found: described(&found),
            expected: in_words(expected),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Range {
            found: described(&found),
            expected: in_words(expected),
        })
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let found = format!("a list of {length}");
        Self::new(What::Range {
            found,
            expected: in_words(expected),
        })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut wanted = format!("one of {}", expected.join(", "));
        if let Some(nearest) = nearest(variant, expected.iter().copied()) {
            wanted.push_str(&format!(" (did you mean {nearest}?)"));
        }
        Self::new(What::Range {
            found: format!("{:?}", clip(variant)),
            expected: wanted,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing {
            field: field.to_owned(),
        })
    }
}

fn described(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the integer {value}"),
        Unexpected::Signed(value) => format!("the integer {value}"),
        Unexpected::Float(value) => format!("the number {value:?}"),
        Unexpected::Str(text) => format!("the text {:?}", clip(text)),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a section".to_owned(),
        Unexpected::Other(text) => clip(text),
        Unexpected::Char(_)
        | Unexpected::Bytes(_)
        | Unexpected::Unit
        | Unexpected::Option
        | Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant => clip(&found.to_string()),
    }
}

/// What serde's own readers call by its Rust name, in the words of whoever writes a configuration.
fn in_words(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let range = match name.as_str() {
        "u8" => "an integer from 0 to 255".to_owned(),
        "u16" => "an integer from 0 to 65535".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "an integer from 0 to 2^64 - 1".to_owned(),
        "i8" => "an integer from -128 to 127".to_owned(),
        "i16" => "an integer from -32768 to 32767".to_owned(),
        "i32" => "an integer from -2147483648 to 2147483647".to_owned(),
        "i64" | "isize" => "an integer from -2^63 to 2^63 - 1".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a sequence" => "a list".to_owned(),
        _ if name.starts_with("struct ") || name == "a map" => "a section".to_owned(),
        _ => name,
    };
    clip(&range)
}

struct Reader<'t> {
    tree: &'t Inner,
    node: &'t Node,
    path: String,
}

impl<'t> Reader<'t> {
    /// Adds the place to a fault found in this node.
    fn place<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(&self.path, &self.node.origin))
    }

    fn pairs(&self, table: &'t Table) -> Pairs<'t> {
        Pairs {
            tree: self.tree,
            path: self.path.clone(),
            pairs: table.iter(),
            next: None,
        }
    }

    fn refuse_unknown(&self, fields: &'static [&'static str]) -> Result<(), Fault> {
        for field in fields {
            self.tree.ask(join(&self.path, field));
        }
        let Value::Table(table) = &self.node.value else {
            return Ok(());
        };
        let unknown = table
            .iter()
            .find(|(key, _)| !fields.contains(&key.0.as_str()));
        let Some((key, node)) = unknown else {
            return Ok(());
        };
        let near = nearest(&key.0, fields.iter().copied()).map(|near| join(&self.path, near));
        let fault = Fault::new(What::Unknown { nearest: near });
        Err(fault.at(&join(&self.path, &key.0), &node.origin))
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.node.mark_read();
        let result = match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => {
                if let Ok(value) = u64::try_from(*value) {
                    visitor.visit_u64(value)
                } else if let Ok(value) = i64::try_from(*value) {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_i128(*value)
                }
            }
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::Date(date) => {
                let found = format!("the date {date}");
                Err(de::Error::invalid_type(Unexpected::Other(&found), &visitor))
            }
            Value::List(list) => visitor.visit_seq(Elements {
                tree: self.tree,
                path: self.path.clone(),
                elements: list.iter(),
                place: 0,
            }),
            Value::Table(table) => visitor.visit_map(self.pairs(table)),
        };
        self.place(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.refuse_unknown(fields)?;
        if let Value::List(_) = &self.node.value {
            // Serde would take a list for the fields in their order.
            self.node.mark_read();
            let fault = de::Error::invalid_type(Unexpected::Seq, &"a section");
            return self.place(Err(fault));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (path, origin) = (self.path.clone(), self.node.origin.clone());
        visitor
            .visit_newtype_struct(self)
            .map_err(|fault: Fault| fault.at(&path, &origin))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.node.mark_read();
        let result = match &self.node.value {
            Value::Text(text) => {
                visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(text.as_str()))
            }
            Value::Table(table) if table.len() == 1 => {
                let mut pairs = self.pairs(table);
                pairs.next = pairs.pairs.next();
                visitor.visit_enum(Choice { pairs })
            }
            Value::Table(_)
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Date(_)
            | Value::List(_) => Err(Fault::new(What::Type {
                found: self.node.value.describe(),
                expected: format!("one of {}", variants.join(", ")),
            })),
        };
        self.place(result)
    }

    /// Read by nobody: the mark stays off.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier
    }
}

struct Pairs<'t> {
    tree: &'t Inner,
    path: String,
    pairs: btree_map::Iter<'t, Key, Node>,
    next: Option<(&'t Key, &'t Node)>,
}

impl<'de> de::MapAccess<'de> for Pairs<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.next = self.pairs.next();
        let Some((key, _)) = self.next else {
            return Ok(None);
        };
        let read = seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(key.0.as_str()));
        read.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let reader = self.reader();
        let (path, origin) = (reader.path.clone(), &reader.node.origin);
        seed.deserialize(reader)
            .map_err(|fault| fault.at(&path, origin))
    }
}

impl<'t> Pairs<'t> {
    /// For the value whose key was asked for last.
    fn reader(&mut self) -> Reader<'t> {
        let (key, node) = self
            .next
            .take()
            .expect("serde asks for a value after its key");
        Reader {
            tree: self.tree,
            node,
            path: join(&self.path, &key.0),
        }
    }
}

/// A section of one key: a choice that has values of its own.
struct Choice<'t> {
    pairs: Pairs<'t>,
}

impl<'de> de::EnumAccess<'de> for Choice<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name = self.pairs.next.map_or("", |(key, _)| key.0.as_str());
        let variant = seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(name))?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'_> {
    type Error = Fault;

    fn unit_variant(mut self) -> Result<(), Fault> {
        let reader = self.pairs.reader();
        let found = reader.node.value.describe();
        let expected = "left out: this choice has no values of its own".to_owned();
        reader.place(Err(Fault::new(What::Type { found, expected })))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value, Fault> {
        de::MapAccess::next_value_seed(&mut self.pairs, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(
        mut self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.pairs.reader().deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.pairs.reader().deserialize_struct("", fields, visitor)
    }
}

struct Elements<'t> {
    tree: &'t Inner,
    path: String,
    elements: slice::Iter<'t, Node>,
    place: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.elements.next() else {
            return Ok(None);
        };
        let path = join(&self.path, &self.place.to_string());
        self.place += 1;
        let reader = Reader {
            tree: self.tree,
            node,
            path: path.clone(),
        };
        seed.deserialize(reader)
            .map(Some)
            .map_err(|fault| fault.at(&path, &node.origin))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}
