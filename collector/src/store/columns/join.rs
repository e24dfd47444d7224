//! From a row back to canonical JSON.

use super::split::MICRO;
use super::table::{Child, Kind, Node, TREE};
use super::{COLUMNS, RAW, REST, fields_of};
use agent_common::event::Time;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write;

/// In `rest`, before the path of a value that its column cannot hold.
pub(super) const MISFIT: &str = "=";

/// A batch whose rows can be turned into the events that they were made from.
///
/// Takes any batch that has the columns by name, in any order, whatever Arrow type of text it has; columns that are
/// missing are taken for null.
pub struct Rows {
    leaves: Vec<Leaf>,
    rest: Option<StringViewArray>,
    raw: Option<StringViewArray>,
}

enum Leaf {
    Absent,
    Text(StringViewArray),
    Json(StringViewArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Bool(BooleanArray),
    Time(TimestampMicrosecondArray, Option<Int16Array>),
    Fingerprints(Option<StringViewArray>, Option<StringViewArray>),
}

fn column(batch: &RecordBatch, name: &str, kind: &DataType) -> Option<ArrayRef> {
    let array = batch.column_by_name(name)?;
    // A column of nothing but nulls is the same as none, and quicker.
    if array.null_count() == array.len() {
        None
    } else if array.data_type() == kind {
        Some(array.clone())
    } else {
        cast(array, kind).ok()
    }
}

fn text(batch: &RecordBatch, name: &str) -> Option<StringViewArray> {
    column(batch, name, &super::TEXT).map(|array| array.as_string_view().clone())
}

impl Leaf {
    fn new(batch: &RecordBatch, place: usize) -> Option<Self> {
        let source = COLUMNS.get(place)?;
        let mut arrays = fields_of(source)
            .into_iter()
            .map(|(name, kind)| column(batch, &name, &kind));
        let first = arrays.next()?;
        if source.kind == Kind::Fingerprints {
            let view = |array: ArrayRef| array.as_string_view().clone();
            return Some(Self::Fingerprints(
                first.map(view),
                arrays.next()?.map(view),
            ));
        }
        let first = first?;
        Some(match source.kind {
            Kind::Text | Kind::Address => Self::Text(first.as_string_view().clone()),
            Kind::Json | Kind::Fingerprints => Self::Json(first.as_string_view().clone()),
            Kind::Int16 => Self::Int16(first.as_primitive::<Int16Type>().clone()),
            Kind::Int32 => Self::Int32(first.as_primitive::<Int32Type>().clone()),
            Kind::Int64 => Self::Int64(first.as_primitive::<Int64Type>().clone()),
            Kind::Bool => Self::Bool(first.as_boolean().clone()),
            Kind::Time => Self::Time(
                first.as_primitive::<TimestampMicrosecondType>().clone(),
                arrays
                    .next()?
                    .map(|array| array.as_primitive::<Int16Type>().clone()),
            ),
        })
    }

    /// Whether there is a value; it was written then.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Absent => false,
            Self::Text(from) => value(from, row).map(|text| string(text, out)).is_some(),
            Self::Json(from) => value(from, row)
                .map(|text| out.extend_from_slice(text.as_bytes()))
                .is_some(),
            Self::Int16(from) => from.is_valid(row) && display(from.value(row), out),
            Self::Int32(from) => from.is_valid(row) && display(from.value(row), out),
            Self::Int64(from) => from.is_valid(row) && display(from.value(row), out),
            Self::Bool(from) => from.is_valid(row) && display(from.value(row), out),
            Self::Time(micros, below) => {
                if !micros.is_valid(row) {
                    return false;
                }
                let below = below.as_ref().filter(|below| below.is_valid(row));
                let nanos = i128::from(micros.value(row)) * MICRO
                    + below.map_or(0, |below| i128::from(below.value(row)));
                out.push(b'"');
                display(Time::from_unix_nanos(nanos), out);
                out.push(b'"');
                true
            }
            Self::Fingerprints(first, more) => {
                let first = first.as_ref().and_then(|from| value(from, row));
                let more = more.as_ref().and_then(|from| value(from, row));
                if first.is_none() && more.is_none() {
                    return false;
                }
                out.push(b'[');
                if let Some(first) = first {
                    string(first, out);
                }
                match (first, more.and_then(|more| more.strip_prefix('['))) {
                    (Some(_), Some(more)) => {
                        out.push(b',');
                        out.extend_from_slice(more.as_bytes());
                    }
                    (None, Some(more)) => out.extend_from_slice(more.as_bytes()),
                    (_, None) => out.push(b']'),
                }
                true
            }
        }
    }
}

fn value(array: &StringViewArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

/// Writing into memory does not fail.
fn display(value: impl std::fmt::Display, out: &mut Vec<u8>) -> bool {
    write!(out, "{value}").is_ok()
}

fn string(text: &str, out: &mut Vec<u8>) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        unreachable!("a string is always JSON");
    }
}

type Rest<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

impl Rows {
    /// Finds the columns.
    #[must_use]
    pub fn new(batch: &RecordBatch) -> Self {
        Self {
            leaves: (0..COLUMNS.len())
                .map(|place| Leaf::new(batch, place).unwrap_or(Leaf::Absent))
                .collect(),
            rest: text(batch, REST),
            raw: text(batch, RAW),
        }
    }

    /// The event of a row.
    #[must_use]
    pub fn json(&self, row: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        self.write(row, &mut out);
        out
    }

    /// Appends the event of a row.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        if let Some(raw) = self.raw.as_ref().and_then(|raw| value(raw, row)) {
            out.extend_from_slice(raw.as_bytes());
            return;
        }
        let rest = self.rest.as_ref().and_then(|rest| value(rest, row));
        let rest = rest.and_then(entries).unwrap_or_default();
        self.object(&TREE, row, &rest, out);
    }

    /// Whether the object has anything; it was written then.
    fn object(&self, node: &Node, row: usize, rest: &Rest<'_>, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        out.push(b'{');
        let empty = out.len();
        for (key, child) in &node.children {
            let before = out.len();
            if before > empty {
                out.push(b',');
            }
            // Keys of the table have nothing to escape.
            out.push(b'"');
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            let written = match child {
                Child::Node(below) => self.object(below, row, rest, out),
                Child::Leaf(leaf) => self
                    .leaves
                    .get(*leaf)
                    .is_some_and(|leaf| leaf.write(row, out)),
            };
            let written = written
                || (!rest.is_empty()
                    && misfit(&node.path, key, rest)
                        .map(|value| out.extend_from_slice(value.get().as_bytes()))
                        .is_some());
            if !written {
                out.truncate(before);
            }
        }
        for (path, value) in rest {
            let Some(key) = unknown(&node.path, path) else {
                continue;
            };
            if out.len() > empty {
                out.push(b',');
            }
            string(key, out);
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
        let any = out.len() > empty;
        if any || node.path.is_empty() {
            out.push(b'}');
        } else {
            out.truncate(begin);
        }
        any
    }
}

fn misfit<'a>(parent: &str, key: &str, rest: &Rest<'a>) -> Option<&'a RawValue> {
    rest.iter().find_map(|(path, value)| {
        let path = path.strip_prefix(MISFIT)?;
        let fits = match path.rsplit_once('.') {
            Some((above, last)) => above == parent && last == key,
            None => parent.is_empty() && path == key,
        };
        fits.then_some(*value)
    })
}

/// The key of `path` in `parent`, if it is a field that the table did not know, and there.
fn unknown<'a>(parent: &str, path: &'a str) -> Option<&'a str> {
    if path.starts_with(MISFIT) {
        return None;
    }
    match path.rsplit_once('.') {
        Some((above, key)) => (above == parent).then_some(key),
        None => parent.is_empty().then_some(path),
    }
}

/// Keys and values of a JSON object in their order, values as they stand there. `None`: not an object.
pub(super) fn entries(json: &str) -> Option<Rest<'_>> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Rest<'de>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(16);
            while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                entries.push((key, value));
            }
            Ok(entries)
        }
    }
    if !json.starts_with('{') {
        return None;
    }
    serde_json::Deserializer::from_str(json)
        .deserialize_map(Entries)
        .ok()
}

/// A key, borrowed where nothing is escaped.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
