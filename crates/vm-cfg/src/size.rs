// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values that a configuration writes in a way of their own: sizes, and integers within bounds.

use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};
use std::{fmt, str::FromStr};

const EXPECTED: &str = "a size such as 256M, 6G, 1GiB or a number of bytes";

/// A number of bytes, written as `256M`, `6G`, `1GiB`, `512KiB` or plain bytes. Every unit is a
/// power of 1024: for the memory of a machine nobody means another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// That many MiB; saturates.
    pub const fn mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }
}

/// A text that is no [`ByteSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {EXPECTED}, below 16 EiB")]
pub struct BadSize(String);

/// The units, the larger first, each with its power of two.
const UNITS: [(char, u32); 5] = [('P', 50), ('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for ByteSize {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        parse(text.trim())
            .map(Self)
            .ok_or_else(|| BadSize(crate::error::clip(text)))
    }
}

fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start().to_ascii_uppercase();
    let shift = match unit.as_str() {
        "" | "B" => 0,
        unit => {
            let letter = unit.chars().next()?;
            let (_, shift) = UNITS.into_iter().find(|&(name, _)| name == letter)?;
            let suffix = unit.get(letter.len_utf8()..)?;
            matches!(suffix, "" | "B" | "IB").then_some(shift)?
        }
    };
    number.checked_mul(1_u64.checked_shl(shift)?)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, shift): &&(char, u32)| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().find(fits) {
            Some((unit, shift)) => f.pad(&format!("{}{unit}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;

        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let refused = |_| E::invalid_value(Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(ByteSize).map_err(refused)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Size)
    }
}

/// An integer from `MIN` to `MAX`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// `value`, if it is within the bounds.
    pub const fn new(value: u64) -> Option<Self> {
        if MIN <= value && value <= MAX {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The integer.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Within<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer from {MIN} to {MAX}")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                let refused = || E::invalid_value(Unexpected::Unsigned(value), &self);
                Bounded::new(value).ok_or_else(refused)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                let refused = || E::invalid_value(Unexpected::Signed(value), &self);
                u64::try_from(value)
                    .ok()
                    .and_then(Bounded::new)
                    .ok_or_else(refused)
            }
        }

        deserializer.deserialize_u64(Within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_customary_way() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("1k", 1 << 10),
            ("256M", 256 << 20),
            ("6G", 6 << 30),
            ("1GiB", 1 << 30),
            ("1 GB", 1 << 30),
            (" 2 mib ", 2 << 20),
            ("3T", 3 << 40),
            ("16383P", 16383 << 50),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_what_would_be_one() {
        for text in [
            "",
            "G",
            "-1G",
            "1.5G",
            "1X",
            "1GG",
            "1Gi",
            "16384P",
            "99999999999999999999",
            "1é",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        let error = "1.5G".parse::<ByteSize>().expect_err("not whole");
        let expected =
            "\"1.5G\" is not a size such as 256M, 6G, 1GiB or a number of bytes, below 16 EiB";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_size_is_shown_in_the_largest_unit_that_is_exact() {
        assert_eq!(ByteSize(6 << 30).to_string(), "6G");
        assert_eq!(ByteSize((1 << 30) + 4096).to_string(), "1048580K");
        assert_eq!(ByteSize(0).to_string(), "0");
        assert_eq!(ByteSize(1000).to_string(), "1000");
        assert_eq!(
            ByteSize::mib(256).to_string().parse(),
            Ok(ByteSize::mib(256))
        );
    }
}
