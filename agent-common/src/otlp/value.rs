//! JSON as attributes, in the order in which it stands, and without a tree in between.
//!
//! An object becomes its members' dotted names; where names are data (header names, claims, counters), which may
//! hold dots themselves, it stays one attribute with a list of pairs in it. Lists stay lists.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

pub use opentelemetry_proto::tonic::common::v1::any_value::Value;

/// Objects whose names are data.
pub const FREE: [&str; 4] = ["audit.counters", "correlation", "forwarded", "token.public"];

/// Each level costs a reader of protobuf two, and prost reads 100.
const DEPTH_LIMIT: usize = 32;

pub fn attribute(name: &str, value: AnyValue) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(value),
        ..KeyValue::default()
    }
}

pub fn text(text: &str) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(text.to_owned())),
    }
}

/// OTLP's integers have 64 bits with a sign. What is over is its decimal digits as bytes, a type that JSON has not,
/// so that it can be told from a text.
pub fn whole(number: u64) -> AnyValue {
    let value = match i64::try_from(number) {
        Ok(number) => Value::IntValue(number),
        Err(_) => Value::BytesValue(number.to_string().into_bytes()),
    };
    AnyValue { value: Some(value) }
}

/// Appends the value at `name` to a list of attributes.
pub struct Attributes<'a> {
    name: &'a str,
    into: &'a mut Vec<KeyValue>,
    depth: usize,
}

impl<'a> Attributes<'a> {
    pub fn new(name: &'a str, into: &'a mut Vec<KeyValue>) -> Self {
        Self {
            name,
            into,
            depth: 0,
        }
    }

    fn push(self, value: Option<Value>) {
        self.into.push(attribute(self.name, AnyValue { value }));
    }
}

impl<'de> DeserializeSeed<'de> for Attributes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Attributes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if FREE.contains(&self.name) {
            let value = Any { depth: 0 }.visit_map(map)?.value;
            self.push(value);
            return Ok(());
        }
        let depth = deeper(self.depth)?;
        let mut empty = true;
        while let Some(member) = map.next_key::<String>()? {
            empty = false;
            let name = format!("{}.{member}", self.name);
            map.next_value_seed(Attributes {
                name: &name,
                into: &mut *self.into,
                depth,
            })?;
        }
        if empty {
            self.push(Some(Value::KvlistValue(KeyValueList::default())));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        let value = Any { depth: 0 }.visit_seq(seq)?.value;
        self.push(value);
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.push(Some(Value::StringValue(value.to_owned())));
        Ok(())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<(), E> {
        self.push(Some(Value::StringValue(value)));
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.push(Some(Value::BoolValue(value)));
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(Some(Value::IntValue(value)));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(whole(value).value);
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(Some(Value::DoubleValue(value)));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.push(None);
        Ok(())
    }
}

fn deeper<E: Error>(depth: usize) -> Result<usize, E> {
    if depth == DEPTH_LIMIT {
        return Err(E::custom(format_args!(
            "nested more than {DEPTH_LIMIT} levels deep"
        )));
    }
    Ok(depth + 1)
}

/// Any JSON as one value.
#[derive(Clone, Copy)]
struct Any {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Any {
    type Value = AnyValue;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<AnyValue, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = AnyValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyValue, A::Error> {
        let inner = Self {
            depth: deeper(self.depth)?,
        };
        let mut values = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            values.push(KeyValue {
                key,
                value: Some(map.next_value_seed(inner)?),
                ..KeyValue::default()
            });
        }
        Ok(AnyValue {
            value: Some(Value::KvlistValue(KeyValueList { values })),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AnyValue, A::Error> {
        let inner = Self {
            depth: deeper(self.depth)?,
        };
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(AnyValue {
            value: Some(Value::ArrayValue(ArrayValue { values })),
        })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<AnyValue, E> {
        Ok(text(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<AnyValue, E> {
        Ok(AnyValue {
            value: Some(Value::BoolValue(value)),
        })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<AnyValue, E> {
        Ok(AnyValue {
            value: Some(Value::IntValue(value)),
        })
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<AnyValue, E> {
        Ok(whole(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<AnyValue, E> {
        Ok(AnyValue {
            value: Some(Value::DoubleValue(value)),
        })
    }

    fn visit_unit<E: Error>(self) -> Result<AnyValue, E> {
        Ok(AnyValue { value: None })
    }
}
