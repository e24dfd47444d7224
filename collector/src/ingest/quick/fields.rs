//! A log record's parts, in place.

use super::super::wire::{Field, Malformed, Walk};

/// Field numbers of `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto`.
mod number {
    pub const TIME: u64 = 1;
    pub const SEVERITY_NUMBER: u64 = 2;
    pub const SEVERITY_TEXT: u64 = 3;
    pub const ATTRIBUTES: u64 = 6;
    pub const OBSERVED_TIME: u64 = 11;
    pub const EVENT_NAME: u64 = 12;
    pub const KEY: u64 = 1;
    pub const VALUE: u64 = 2;
}

/// An event has about sixty.
const ATTRIBUTES: usize = 128;

/// One attribute.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub key: &'a [u8],
    /// An `AnyValue`.
    pub value: &'a [u8],
    /// All of it, by which it is known again.
    pub whole: &'a [u8],
}

/// A record that has nothing but what an agent's has.
pub(super) struct Record<'a> {
    pub time: u64,
    pub observed_time: u64,
    pub event_name: &'a [u8],
    pub attributes: Attributes<'a>,
}

/// In one piece of memory: there is one of these for each record.
pub(super) struct Attributes<'a> {
    all: [Attribute<'a>; ATTRIBUTES],
    count: usize,
}

impl<'a> std::ops::Deref for Attributes<'a> {
    type Target = [Attribute<'a>];

    fn deref(&self) -> &[Attribute<'a>] {
        self.all.get(..self.count).unwrap_or_default()
    }
}

const NOTHING: Attribute<'static> = Attribute {
    key: &[],
    value: &[],
    whole: &[],
};

impl<'a> Record<'a> {
    /// `None`: something else is in it, or something twice.
    pub fn read(record: &'a [u8]) -> Option<Self> {
        let mut this = Self {
            time: 0,
            observed_time: 0,
            event_name: &[],
            attributes: Attributes {
                all: [NOTHING; ATTRIBUTES],
                count: 0,
            },
        };
        let mut walk = Walk(record);
        while let Some((number, field)) = walk.next_field().ok()? {
            match (number, field) {
                (number::ATTRIBUTES, Field::Bytes(whole)) => {
                    let place = this.attributes.all.get_mut(this.attributes.count)?;
                    *place = attribute(whole).ok()??;
                    this.attributes.count += 1;
                }
                (number::TIME, Field::Fixed64(time)) if this.time == 0 => this.time = time,
                (number::OBSERVED_TIME, Field::Fixed64(time)) if this.observed_time == 0 => {
                    this.observed_time = time;
                }
                (number::EVENT_NAME, Field::Bytes(name)) if this.event_name.is_empty() => {
                    this.event_name = name;
                }
                // Not a part of the event, but it must be text for the plain way.
                (number::SEVERITY_TEXT, Field::Bytes(text)) if text.is_ascii() => {}
                (number::SEVERITY_NUMBER, Field::Varint(_)) => {}
                _ => return None,
            }
        }
        // 0 is not known, and then an attribute says it.
        (this.time > 0 && this.observed_time > 0).then_some(this)
    }
}

fn attribute(whole: &[u8]) -> Result<Option<Attribute<'_>>, Malformed> {
    let mut walk = Walk(whole);
    let (Some((number::KEY, Field::Bytes(key))), Some((number::VALUE, Field::Bytes(value))), None) =
        (walk.next_field()?, walk.next_field()?, walk.next_field()?)
    else {
        return Ok(None);
    };
    Ok(Some(Attribute { key, value, whole }))
}

/// A value of a kind that is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i64),
}

/// Field numbers of `AnyValue`.
const STRING: u64 = 1;
const BOOL: u64 = 2;
const INT: u64 = 3;
const ARRAY: u64 = 5;

/// `None`: another kind of value.
pub(super) fn scalar(value: &[u8]) -> Option<Scalar<'_>> {
    let mut walk = Walk(value);
    let scalar = match walk.next_field().ok()?? {
        (STRING, Field::Bytes(text)) => Scalar::Text(std::str::from_utf8(text).ok()?),
        (BOOL, Field::Varint(value @ 0..=1)) => Scalar::Bool(value == 1),
        // Protobuf writes negative ones as the same bits.
        (INT, Field::Varint(value)) => Scalar::Int(value as i64),
        _ => return None,
    };
    walk.0.is_empty().then_some(scalar)
}

/// The only text of a list of one.
pub(super) fn only(value: &[u8]) -> Option<&str> {
    let alone = |message| {
        let mut walk = Walk(message);
        match (walk.next_field().ok()??, walk.0.is_empty()) {
            ((number, Field::Bytes(bytes)), true) => Some((number, bytes)),
            _ => None,
        }
    };
    let (ARRAY, array) = alone(value)? else {
        return None;
    };
    // `ArrayValue.values`.
    let (1, element) = alone(array)? else {
        return None;
    };
    match scalar(element)? {
        Scalar::Text(text) => Some(text),
        _ => None,
    }
}
