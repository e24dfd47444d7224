//! Connections, tables, and what is looked at when the inbox is opened.

use super::packed::Packed;
use super::{Entry, Error};
use rusqlite::{Connection, ErrorCode};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `PRAGMA application_id`: "tkib".
const APPLICATION: i64 = 0x746b_6962;
const VERSION: i64 = 1;
/// Whoever looks into the file with other programs holds it for moments.
const BUSY: Duration = Duration::from_secs(10);
/// Pages of the log after which it is brought into the database: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4_096;
/// A log that has grown over a burst is cut to this.
const LOG_BYTES: i64 = 64 * 1024 * 1024;
/// Pages that are given back at once: 8 MiB.
const SHRINK_PAGES: i64 = 2_048;

const TABLES: &str = "
CREATE TABLE entries (
    -- AUTOINCREMENT: never used again
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    origin TEXT NOT NULL,
    events INTEGER NOT NULL,
    -- of the NDJSON
    bytes INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    agent TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    UNIQUE (agent, epoch)
) STRICT;
CREATE TABLE ranges (
    source INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    -- where the hole in front of it begins; first: there is none
    gap INTEGER NOT NULL,
    -- since when there is that hole
    since INTEGER NOT NULL,
    -- whether an event tells of it
    told INTEGER NOT NULL,
    PRIMARY KEY (source, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX holes ON ranges (since) WHERE gap < first;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    origin TEXT NOT NULL,
    reason TEXT NOT NULL,
    form TEXT NOT NULL,
    -- before it was cut
    bytes INTEGER NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
";

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        // So that room can be given back. It counts before anything else is written, and would write to an old one.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What stands in the file is not trusted to run code.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens the database, makes its tables if it is new, and looks whether all of it can be read.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let connection = connect(path).map_err(|error| blame(error, path))?;
    prepare(&connection, path).map_err(|error| match error {
        Error::Database(error) => blame(error, path),
        other => other,
    })?;
    Ok(connection)
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), Error> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let tables: i64 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
        ))?;
        return Ok(());
    }
    if number("application_id")? != APPLICATION {
        return Err(Error::NotAnInbox {
            path: path.to_owned(),
        });
    }
    let found = number("user_version")?;
    if found > VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found,
            known: VERSION,
        });
    }
    let verdict: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(damaged(path, verdict));
    }
    Ok(())
}

/// What waits, by ascending ids.
pub(super) fn pending(connection: &Connection, path: &Path) -> Result<VecDeque<Arc<Entry>>, Error> {
    let mut statement = connection
        .prepare("SELECT id, received, origin, events, bytes, payload FROM entries ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut pending = VecDeque::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let payload = row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?;
        let size = |column| {
            row.get(column)
                .map(|size: i64| usize::try_from(size).unwrap_or(0))
        };
        let events = Packed::unpack(payload, size(3)?, size(4)?)
            .map_err(|reason| damaged(path, format!("entry {id}: {reason}")))?;
        pending.push_back(Arc::new(Entry {
            id,
            received: row.get(1)?,
            origin: row.get::<_, String>(2)?.into(),
            events,
        }));
    }
    Ok(pending)
}

/// Gives some of the room that nothing uses back to the disk; whether there may be more.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<bool> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    // Some is kept: it is used again in a moment.
    if free <= SHRINK_PAGES {
        return Ok(false);
    }
    let mut statement =
        connection.prepare_cached(&format!("PRAGMA incremental_vacuum({SHRINK_PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(free > 2 * SHRINK_PAGES)
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason,
    }
}

fn blame(error: rusqlite::Error, path: &Path) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, error.to_string()),
        Some(ErrorCode::NotADatabase) => Error::NotAnInbox {
            path: path.to_owned(),
        },
        _ => error.into(),
    }
}
