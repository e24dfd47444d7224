//! Events as columns, and back: the only place that knows which columns there are.
//!
//! [`COLUMNS`] is the table: one row per value of the contract, in the contract's order. From it come the Arrow
//! schema ([`schema`]), the way of an event into a row ([`batch`]), the way back ([`Rows`]), and the names
//! that the search language takes ([`field`]).
//!
//! - A column is named by its contract path with underscores for dots (`token.provider` is `token_provider`). Files
//!   are read by others as they are, so nothing is unsigned, a time is UTC microseconds, and what it has below a
//!   microsecond (0 to 999 ns) stands beside it in `…_nanos`. Lists and maps are JSON text, as the event has them.
//! - `token.fingerprints` is `fingerprint`, the first, under the current key; the others, if there are any, are a
//!   JSON array in `fingerprints_more`.
//! - `rest` holds what no column can: a JSON object by path. `"a.b"` is a field that the table did not know and that
//!   stood behind all known ones of its parent; `"=a.b"` is a value that its column cannot hold (another type, an
//!   empty object), and stands where the table says. A later table must not move either, hence the mark.
//! - The canonical JSON is rebuilt byte for byte. Where that fails (another order, other white space or escapes),
//!   `raw` keeps the bytes; every row is tried when it is made.
//!
//! Invariant: `Rows::new(&batch(events)).json(i)` is `events[i].json`, whatever its bytes.
//! Invariant: a column is never renamed, retyped, removed or moved before another one: stored files have it.

mod join;
mod scan;
mod split;
mod table;
#[cfg(test)]
mod tests;

pub use join::Rows;
pub use split::batch;
pub use table::{COLUMNS, Column, Kind, Stored};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Event time, and its nanoseconds below a microsecond.
pub const TIME: &str = "time";
pub const TIME_NANOS: &str = "time_nanos";
/// The credential's fingerprint under the current key.
pub const FINGERPRINT: &str = "fingerprint";
/// JSON array of the fingerprints under the other keys.
pub const FINGERPRINTS_MORE: &str = "fingerprints_more";
/// JSON object of what has no column.
pub const REST: &str = "rest";
/// The event's bytes, where the columns do not give them.
pub const RAW: &str = "raw";

/// What rows of a segment are sorted by, ascending, null first.
pub const SORT: [&str; 3] = [FINGERPRINT, TIME, TIME_NANOS];

/// The type of all text: views, as DataFusion reads Parquet, and without Arrow's limit of 2 GiB a column.
pub const TEXT: DataType = DataType::Utf8View;

/// Names of the columns of one [`Column`], with their types.
pub(crate) fn fields_of(column: &Column) -> Vec<(String, DataType)> {
    let name = column.name.clone();
    match column.kind {
        Kind::Text | Kind::Address | Kind::Json => vec![(name, TEXT)],
        Kind::Fingerprints => vec![(name, TEXT), (FINGERPRINTS_MORE.to_owned(), TEXT)],
        Kind::Int16 => vec![(name, DataType::Int16)],
        Kind::Int32 => vec![(name, DataType::Int32)],
        Kind::Int64 => vec![(name, DataType::Int64)],
        Kind::Bool => vec![(name, DataType::Boolean)],
        Kind::Time => {
            let nanos = format!("{name}_nanos");
            vec![(name, time_type()), (nanos, DataType::Int16)]
        }
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let own = COLUMNS.iter().flat_map(fields_of);
    let last = [REST, RAW].map(|name| (name.to_owned(), TEXT));
    Arc::new(Schema::new(
        own.chain(last)
            .map(|(name, kind)| Field::new(name, kind, true))
            .collect::<Vec<_>>(),
    ))
});

/// The schema of every batch and segment.
#[must_use]
pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

static BY_WORD: LazyLock<HashMap<&'static str, &'static Column>> = LazyLock::new(|| {
    let mut words = HashMap::new();
    for column in COLUMNS.iter().filter(|column| column.searchable) {
        words.insert(column.path, column);
        words.insert(column.name.as_str(), column);
        for short in column.short {
            words.insert(short, column);
        }
    }
    words
});

/// The searchable column that a person means by `word`: a path, a column's name, or a short name.
#[must_use]
pub fn field(word: &str) -> Option<&'static Column> {
    BY_WORD.get(word).copied()
}
