//! Numbers that refuse what is out of range while they are read.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ranged<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Ranged<MIN, MAX> {
    /// For defaults.
    ///
    /// # Panics
    /// If out of range; in a constant that is an error of the compiler.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX);
        Self(value)
    }

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As a size in memory.
    #[must_use]
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A power of two from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PowerOfTwo<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> PowerOfTwo<MIN, MAX> {
    /// For defaults.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX && value.is_power_of_two());
        Self(value)
    }

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Ranged<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for PowerOfTwo<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

struct Number {
    min: u64,
    max: u64,
    power_of_two: bool,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.power_of_two {
            "a power of two"
        } else {
            "an integer"
        };
        write!(f, "{kind} from {} to {}", self.min, self.max)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        let fits = (self.min..=self.max).contains(&value)
            && (!self.power_of_two || value.is_power_of_two());
        if fits {
            Ok(value)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(value), &self))
        }
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Ranged<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number {
            min: MIN,
            max: MAX,
            power_of_two: false,
        };
        deserializer.deserialize_u64(number).map(Self)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for PowerOfTwo<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number {
            min: MIN,
            max: MAX,
            power_of_two: true,
        };
        deserializer.deserialize_u64(number).map(Self)
    }
}
