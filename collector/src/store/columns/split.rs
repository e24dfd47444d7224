//! From canonical JSON to a row.

use super::join::{self, Rows};
use super::scan::Scan;
use super::table::{Child, Kind, Node, TREE};
use super::{COLUMNS, schema};
use crate::event::Event;
use agent_common::event::Time;
use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
    StringViewBuilder, TimestampMicrosecondBuilder,
};
use std::borrow::Cow;
use std::sync::Arc;

/// Nanoseconds of the microseconds that a column holds.
pub(super) const MICRO: i128 = 1000;

/// One row per event, in their order, of [`schema`].
#[must_use]
pub fn batch<'a>(events: impl IntoIterator<Item = &'a Event>) -> RecordBatch {
    let mut split = Split::new();
    let mut sources = Vec::new();
    for event in events {
        split.event(&event.json);
        sources.push(&event.json);
    }
    let mut arrays = split.finish();
    let without_raw = record(&mut arrays, null_text(sources.len()));
    // What the columns do not give back exactly is kept whole.
    let rows = Rows::new(&without_raw);
    let mut raw = StringViewBuilder::new();
    let mut buffer = Vec::new();
    let mut exact = true;
    for (row, source) in sources.iter().enumerate() {
        buffer.clear();
        rows.write(row, &mut buffer);
        if buffer == ***source {
            raw.append_null();
        } else {
            exact = false;
            // An event is UTF-8: serde_json has read it as a whole.
            raw.append_value(String::from_utf8_lossy(source));
        }
    }
    if exact {
        without_raw
    } else {
        arrays.pop();
        record(&mut arrays, Arc::new(raw.finish()))
    }
}

fn null_text(rows: usize) -> ArrayRef {
    arrow::array::new_null_array(&super::TEXT, rows)
}

/// `arrays` and `raw` as a batch; `arrays` has `raw` as its last afterwards.
fn record(arrays: &mut Vec<ArrayRef>, raw: ArrayRef) -> RecordBatch {
    arrays.push(raw);
    RecordBatch::try_new(schema(), arrays.clone()).unwrap_or_else(|error| {
        // Builders and schema come from the same table.
        unreachable!("columns do not fit their schema: {error}")
    })
}

#[expect(
    clippy::large_enum_variant,
    reason = "a hundred of them, made once per batch"
)]
enum Builder {
    Text(StringViewBuilder),
    Json(StringViewBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder, Int16Builder),
    Fingerprints(StringViewBuilder, StringViewBuilder),
}

fn text() -> StringViewBuilder {
    StringViewBuilder::new().with_deduplicate_strings()
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Text | Kind::Address => Self::Text(text()),
            Kind::Json => Self::Json(text()),
            Kind::Int16 => Self::Int16(Int16Builder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Time => Self::Time(
                TimestampMicrosecondBuilder::new().with_timezone("UTC"),
                Int16Builder::new(),
            ),
            Kind::Fingerprints => Self::Fingerprints(text(), text()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(to) | Self::Json(to) | Self::Fingerprints(to, _) => to.len(),
            Self::Int16(to) => to.len(),
            Self::Int32(to) => to.len(),
            Self::Int64(to) => to.len(),
            Self::Bool(to) => to.len(),
            Self::Time(to, _) => to.len(),
        }
    }

    /// Whether the column can hold the value; if not, nothing was appended.
    fn append(&mut self, json: &str) -> bool {
        match self {
            Self::Text(to) => match string(json) {
                Some(value) => to.append_value(value),
                None => return false,
            },
            // A null would be taken for an absence.
            Self::Json(_) if json == "null" => return false,
            Self::Json(to) => to.append_value(json),
            Self::Int16(to) => match json.parse() {
                Ok(value) => to.append_value(value),
                Err(_) => return false,
            },
            Self::Int32(to) => match json.parse() {
                Ok(value) => to.append_value(value),
                Err(_) => return false,
            },
            Self::Int64(to) => match json.parse() {
                Ok(value) => to.append_value(value),
                Err(_) => return false,
            },
            Self::Bool(to) => match json {
                "true" => to.append_value(true),
                "false" => to.append_value(false),
                _ => return false,
            },
            Self::Time(micros, below) => {
                let Some(nanos) = time(json) else {
                    return false;
                };
                let (Ok(whole), Ok(rest)) = (
                    i64::try_from(nanos.div_euclid(MICRO)),
                    i16::try_from(nanos.rem_euclid(MICRO)),
                ) else {
                    return false;
                };
                micros.append_value(whole);
                below.append_value(rest);
            }
            Self::Fingerprints(first, more) => {
                let Ok(all) = serde_json::from_str::<Vec<String>>(json) else {
                    return false;
                };
                match all.split_first() {
                    None => {
                        first.append_null();
                        more.append_value("[]");
                    }
                    Some((one, [])) => {
                        first.append_value(one);
                        more.append_null();
                    }
                    Some((one, others)) => {
                        let Ok(others) = serde_json::to_string(others) else {
                            return false;
                        };
                        first.append_value(one);
                        more.append_value(others);
                    }
                }
            }
        }
        true
    }

    fn append_null(&mut self) {
        match self {
            Self::Text(to) | Self::Json(to) => to.append_null(),
            Self::Int16(to) => to.append_null(),
            Self::Int32(to) => to.append_null(),
            Self::Int64(to) => to.append_null(),
            Self::Bool(to) => to.append_null(),
            Self::Time(micros, below) => {
                micros.append_null();
                below.append_null();
            }
            Self::Fingerprints(first, more) => {
                first.append_null();
                more.append_null();
            }
        }
    }

    fn finish(&mut self, into: &mut Vec<ArrayRef>) {
        match self {
            Self::Text(to) | Self::Json(to) => into.push(Arc::new(to.finish())),
            Self::Int16(to) => into.push(Arc::new(to.finish())),
            Self::Int32(to) => into.push(Arc::new(to.finish())),
            Self::Int64(to) => into.push(Arc::new(to.finish())),
            Self::Bool(to) => into.push(Arc::new(to.finish())),
            Self::Time(micros, below) => {
                into.push(Arc::new(micros.finish()));
                into.push(Arc::new(below.finish()));
            }
            Self::Fingerprints(first, more) => {
                into.push(Arc::new(first.finish()));
                into.push(Arc::new(more.finish()));
            }
        }
    }
}

/// The string of a JSON string.
fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn time(json: &str) -> Option<i128> {
    let time: Time = string(json)?.parse().ok()?;
    Some(time.unix_nanos())
}

struct Split {
    builders: Vec<Builder>,
    rest: StringViewBuilder,
    row: usize,
    /// `rest` of the event at hand, without its braces.
    unplaced: String,
}

impl Split {
    fn new() -> Self {
        Self {
            builders: COLUMNS
                .iter()
                .map(|column| Builder::new(column.kind))
                .collect(),
            rest: text(),
            row: 0,
            unplaced: String::new(),
        }
    }

    fn event(&mut self, json: &[u8]) {
        self.unplaced.clear();
        if let Ok(json) = std::str::from_utf8(json) {
            let mut scan = Scan::new(json);
            let placed = self.scanned(&TREE, &mut scan);
            if placed.is_none() || !scan.is_done() {
                // Values that were placed already are the same ones.
                self.unplaced.clear();
                self.object(&TREE, json);
            }
        }
        if self.unplaced.is_empty() {
            self.rest.append_null();
        } else {
            self.rest.append_value(format!("{{{}}}", self.unplaced));
        }
        self.row += 1;
        for builder in &mut self.builders {
            if builder.len() < self.row {
                builder.append_null();
            }
        }
    }

    /// The same as [`Self::object`], in one pass and for JSON as agents write it: without white space, and without
    /// escapes in keys. `None`: it is not such; some of it may be placed.
    fn scanned(&mut self, node: &Node, scan: &mut Scan<'_>) -> Option<bool> {
        scan.expect(b'{')?;
        if scan.take(b'}') {
            return Some(false);
        }
        let mut next = 0;
        loop {
            let key = scan.key()?;
            match node.child(key, next) {
                None => {
                    let value = scan.value()?;
                    self.unplaced(&node.path, "", key, value);
                }
                Some((place, child)) => {
                    next = place + 1;
                    let begin = scan.place();
                    let placed = match child {
                        Child::Node(below) if scan.is_at(b'{') => self.scanned(below, scan)?,
                        Child::Node(_) => {
                            scan.value()?;
                            false
                        }
                        Child::Leaf(leaf) => {
                            let value = scan.value()?;
                            self.place(*leaf, value)
                        }
                    };
                    if !placed {
                        self.unplaced(&node.path, join::MISFIT, key, scan.since(begin));
                    }
                }
            }
            if scan.take(b'}') {
                return Some(true);
            }
            scan.expect(b',')?;
        }
    }

    fn place(&mut self, leaf: usize, value: &str) -> bool {
        match self.builders.get_mut(leaf) {
            // A key that stands there twice: `raw` will have both.
            Some(builder) if builder.len() > self.row => true,
            Some(builder) => builder.append(value),
            None => false,
        }
    }

    /// Whether `json` is an object that is not empty; its values are placed then.
    fn object(&mut self, node: &Node, json: &str) -> bool {
        let Some(entries) = join::entries(json) else {
            return false;
        };
        let mut next = 0;
        for (key, value) in &entries {
            match node.child(key, next) {
                None => self.unplaced(&node.path, "", key, value.get()),
                Some((place, child)) => {
                    next = place + 1;
                    let placed = match child {
                        Child::Node(below) => self.object(below, value.get()),
                        Child::Leaf(leaf) => self.place(*leaf, value.get()),
                    };
                    if !placed {
                        self.unplaced(&node.path, join::MISFIT, key, value.get());
                    }
                }
            }
        }
        !entries.is_empty()
    }

    fn unplaced(&mut self, parent: &str, mark: &str, key: &str, value: &str) {
        let dot = if parent.is_empty() { "" } else { "." };
        let path = serde_json::Value::String(format!("{mark}{parent}{dot}{key}"));
        if !self.unplaced.is_empty() {
            self.unplaced.push(',');
        }
        self.unplaced.push_str(&path.to_string());
        self.unplaced.push(':');
        self.unplaced.push_str(value);
    }

    /// All columns but `raw`.
    fn finish(mut self) -> Vec<ArrayRef> {
        let mut arrays = Vec::new();
        for builder in &mut self.builders {
            builder.finish(&mut arrays);
        }
        arrays.push(Arc::new(self.rest.finish()));
        arrays
    }
}
