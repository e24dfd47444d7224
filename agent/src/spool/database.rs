//! Connections, tables, and which errors mean that the file is damaged.

use super::Error;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// `PRAGMA application_id`: "tksp".
const APPLICATION: i64 = 0x746b_7370;
const VERSION: i64 = 1;
/// Writers wait for each other; each holds the lock for one fsync at most.
const BUSY: Duration = Duration::from_secs(10);
/// Pages of the log after which it is brought into the database: 4 MiB.
const CHECKPOINT_PAGES: i64 = 1_024;

/// Pages that are given back at once: less than the log has.
const SHRINK_PAGES: i64 = 512;

const TABLES: &str = "
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    -- The last durable record; the start while there is none.
    sequence INTEGER NOT NULL,
    time INTEGER NOT NULL,
    -- 0 goes on, 1 ended, 2 was found unended
    state INTEGER NOT NULL
) STRICT;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    made INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    records INTEGER NOT NULL,
    raw INTEGER NOT NULL,
    size INTEGER NOT NULL,
    payload_seal BLOB NOT NULL,
    seal BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    entry INTEGER NOT NULL,
    done INTEGER NOT NULL
) STRICT;
CREATE TABLE losses (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT,
    reason INTEGER NOT NULL,
    epoch INTEGER,
    first INTEGER,
    last INTEGER,
    count INTEGER,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    handed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    made INTEGER NOT NULL,
    reason TEXT NOT NULL,
    agent TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    records INTEGER NOT NULL,
    -- Of the records, where the receiver said so
    rejected INTEGER NOT NULL,
    raw INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE aside (name TEXT PRIMARY KEY) STRICT;
";

/// For sums that are made every second, without a look at the payloads' pages.
const INDEXES: &str = "
CREATE INDEX entries_sums ON entries (id, records, size);
CREATE INDEX quarantine_sums ON quarantine (consumer, records);
";

/// When a commit is on the disk.
#[derive(Clone, Copy)]
pub(super) enum Durability {
    /// When it returns.
    Full,
    /// With the next full one, or the next checkpoint; a killed process loses nothing.
    Normal,
}

pub(super) fn connect(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        // So that room can be given back. It counts before anything else is written, and would write to an old one.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What stands in the file is not trusted to run code.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// What opening found.
pub(super) enum Found {
    Good(Connection),
    /// To be moved aside.
    Damaged(rusqlite::Error),
}

/// Opens the database, makes its tables if it is new, and looks whether it can be read.
pub(super) fn open(path: &Path) -> Result<Found, Error> {
    let connection = match connect(path, Durability::Full) {
        Ok(connection) => connection,
        Err(error) if is_damage(&error) => return Ok(Found::Damaged(error)),
        Err(error) => return Err(error.into()),
    };
    match prepare(&connection) {
        Ok(version) if version > VERSION => Err(Error::Version {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        }),
        Ok(_) => Ok(Found::Good(connection)),
        Err(error) if is_environment(&error) => Err(error.into()),
        Err(error) => Ok(Found::Damaged(error)),
    }
}

/// Opens it for reading alone, beside an agent that uses it or without one.
pub(super) fn look(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    if number(&connection, "application_id")? != APPLICATION {
        return Err(Error::NotASpool {
            path: path.to_owned(),
        });
    }
    match number(&connection, "user_version")? {
        found if found > VERSION => Err(Error::Version {
            path: path.to_owned(),
            found,
            known: VERSION,
        }),
        _ => Ok(connection),
    }
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

/// Its version.
fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    let tables: i64 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} {INDEXES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
        ))?;
        return Ok(VERSION);
    }
    let version = number(connection, "user_version")?;
    if number(connection, "application_id")? != APPLICATION {
        return Err(damaged("not a spool of tokentrail"));
    }
    if version > VERSION {
        return Ok(version);
    }
    // Every page that leads to an entry is read; payloads are checked when they are.
    connection.query_row(
        "SELECT COALESCE(SUM(size), 0), (SELECT COUNT(*) FROM consumers), (SELECT COUNT(*) FROM losses),
            (SELECT COUNT(*) FROM quarantine), (SELECT COUNT(*) FROM aside), (SELECT COUNT(*) FROM runs)
         FROM entries",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    // After an end without goodbye the disk may have lied.
    let unended: i64 =
        connection.query_row("SELECT COUNT(*) FROM runs WHERE state = 0", [], |row| {
            row.get(0)
        })?;
    if unended > 0 {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(damaged(&verdict));
        }
    }
    Ok(version)
}

fn damaged(message: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(message.to_owned()),
    )
}

/// Gives some of the room that nothing uses back to the disk; whether there may be more. The log is emptied first and
/// last: it needs no more room than it has.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<bool> {
    checkpoint(connection)?;
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    if free == 0 {
        return Ok(false);
    }
    let mut statement =
        connection.prepare_cached(&format!("PRAGMA incremental_vacuum({SHRINK_PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    checkpoint(connection)?;
    Ok(free > SHRINK_PAGES)
}

/// Not TRUNCATE: the log keeps its room, so that it is never without. Busy is no error: it answers with a row.
fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
}

/// The file is not, or not any more, what SQLite wrote.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// The disk, memory or rights are to blame, and not what stands in the file.
fn is_environment(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
                | ErrorCode::AuthorizationForStatementDenied
        )
    )
}
