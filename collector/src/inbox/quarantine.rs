//! What was acknowledged and is no event, kept for a person to look at.
//!
//! Invariant: bounded by bytes; the oldest leaves.

use rusqlite::{Connection, params};
use std::io::Read;
use std::sync::Arc;

/// Of one piece, so many bytes are kept.
pub const PIECE: usize = 1024 * 1024;
/// What a row takes beside its payload, about.
const ROW: usize = 256;
const LEVEL: i32 = 3;
/// Of a reason, this much is kept.
const REASON_CHARS: usize = 500;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line of NDJSON, or an event's JSON out of a log record.
    Json,
    /// An ExportLogsServiceRequest with one record.
    Otlp,
}

/// Something that is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: String,
    pub form: Form,
    pub bytes: Vec<u8>,
}

/// Something that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Ascending.
    pub id: i64,
    /// Nanoseconds since the Unix epoch.
    pub received: i64,
    pub origin: Arc<str>,
    pub reason: String,
    pub form: Form,
    /// Its begin: as much as was asked for, and at most [`PIECE`].
    pub bytes: Vec<u8>,
    /// Bytes that it had.
    pub length: u64,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Otlp => "otlp",
        }
    }

    fn named(name: &str) -> Self {
        if name == "otlp" {
            Self::Otlp
        } else {
            Self::Json
        }
    }
}

/// Bytes that are in it.
pub(super) fn size(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT COALESCE(SUM(size), 0) FROM quarantine", [], |row| {
        row.get(0)
    })
}

/// Puts one in, in this transaction; the bytes that are in it then.
pub(super) fn put(
    connection: &Connection,
    origin: &str,
    refused: &Refused,
    now: i64,
    size: i64,
) -> rusqlite::Result<i64> {
    let piece = &refused.bytes[..refused.bytes.len().min(PIECE)];
    let payload = zstd::bulk::compress(piece, LEVEL)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let reason: String = refused.reason.chars().take(REASON_CHARS).collect();
    let taken = (payload.len() + reason.len() + origin.len() + ROW) as i64;
    connection
        .prepare_cached(
            "INSERT INTO quarantine (received, origin, reason, form, bytes, size, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            now,
            origin,
            reason,
            refused.form.name(),
            refused.bytes.len() as i64,
            taken,
            payload
        ])?;
    Ok(size + taken)
}

/// Lets the oldest leave until no more than `most` bytes are in it; how many are then.
pub(super) fn shrink(connection: &Connection, mut size: i64, most: i64) -> rusqlite::Result<i64> {
    while size > most {
        let oldest = connection
            .prepare_cached(
                "DELETE FROM quarantine WHERE id = (SELECT MIN(id) FROM quarantine) RETURNING size",
            )?
            .query_row([], |row| row.get::<_, i64>(0))?;
        size -= oldest;
    }
    Ok(size)
}

/// The newest first, each with at most its first `bytes` bytes.
pub(super) fn list(
    connection: &Connection,
    before: Option<i64>,
    most: usize,
    bytes: usize,
) -> rusqlite::Result<Vec<Quarantined>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, received, origin, reason, form, bytes, payload FROM quarantine WHERE id < ?1
         ORDER BY id DESC LIMIT ?2",
    )?;
    let before = before.unwrap_or(i64::MAX);
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let limit = bytes.min(PIECE) as u64;
    statement
        .query_map(params![before, most], |row| {
            let payload = row.get_ref(6)?.as_blob()?;
            let mut bytes = Vec::new();
            zstd::stream::read::Decoder::new(payload)
                .and_then(|decoder| decoder.take(limit).read_to_end(&mut bytes))
                .map_err(|error| {
                    let kind = rusqlite::types::Type::Blob;
                    rusqlite::Error::FromSqlConversionFailure(6, kind, error.into())
                })?;
            Ok(Quarantined {
                id: row.get(0)?,
                received: row.get(1)?,
                origin: row.get::<_, String>(2)?.into(),
                reason: row.get(3)?,
                form: Form::named(&row.get::<_, String>(4)?),
                bytes,
                length: u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
            })
        })?
        .collect()
}
