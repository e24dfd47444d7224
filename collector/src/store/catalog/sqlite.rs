//! The catalog in SQLite: write-ahead mode, `synchronous=FULL`. One connection writes and one reads, each behind a
//! lock that only threads for blocking work wait for.

use super::{Catalog, CatalogError, Loaded, NewSegment};
use crate::store::segment::{Facts, Level, Segment};
use async_trait::async_trait;
use object_store::path::Path;
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// `PRAGMA application_id`: "tkct".
const APPLICATION: i64 = 0x746b_6374;
const VERSION: i64 = 1;
/// How long a lock of another process is waited for.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    level INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    min_time INTEGER NOT NULL,
    max_time INTEGER NOT NULL,
    sealed INTEGER NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE fingerprints (
    key INTEGER NOT NULL,
    segment INTEGER NOT NULL REFERENCES segments (id) ON DELETE CASCADE,
    PRIMARY KEY (key, segment)
) STRICT, WITHOUT ROWID;
CREATE INDEX fingerprints_of_segment ON fingerprints (segment);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sealed_through INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0);
";

/// See the module.
pub struct SqliteCatalog {
    writer: Arc<Mutex<Connection>>,
    reader: Arc<Mutex<Connection>>,
}

impl SqliteCatalog {
    /// Opens `file`, which is made if there is none. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, is not a catalog, or one of a later version.
    pub fn open(file: &FilePath) -> Result<Self, CatalogError> {
        let mut writer = connect(file)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            0 => {
                transaction.execute_batch(TABLES)?;
                transaction.pragma_update(None, "application_id", APPLICATION)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            VERSION => {}
            found => {
                return Err(CatalogError::Version {
                    found,
                    known: VERSION,
                });
            }
        }
        transaction.commit()?;
        let reader = connect(file)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let connection = self.writer.clone();
        tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = job(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
        .await?
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let connection = self.reader.clone();
        tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            job(&connection.transaction()?)
        })
        .await?
    }
}

fn connect(file: &FilePath) -> Result<Connection, CatalogError> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

const SELECT: &str =
    "SELECT id, path, level, hour, rows, bytes, min_time, max_time, sealed, dropped FROM segments";

fn segment(row: &Row<'_>) -> Result<(Segment, bool), CatalogError> {
    let id = row.get(0)?;
    let damaged = |reason: String| CatalogError::Damaged { id, reason };
    let level = row.get(2)?;
    let count = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| damaged(format!("{name} is {value}")))
    };
    let segment = Segment {
        id,
        facts: Facts {
            path: Path::parse(row.get::<_, String>(1)?)
                .map_err(|error| damaged(error.to_string()))?,
            level: Level::from_number(level).ok_or_else(|| damaged(format!("level is {level}")))?,
            hour: row.get(3)?,
            rows: count("rows", row.get(4)?)?,
            bytes: count("bytes", row.get(5)?)?,
            min_time: row.get(6)?,
            max_time: row.get(7)?,
            sealed: row.get(8)?,
        },
    };
    Ok((segment, row.get(9)?))
}

/// A segment has fewer rows and bytes than a signed number can count.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn insert(transaction: &Transaction<'_>, facts: Facts) -> Result<Segment, CatalogError> {
    transaction
        .prepare_cached(
            "INSERT INTO segments (path, level, hour, rows, bytes, min_time, max_time, sealed) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            facts.path.as_ref(),
            facts.level.number(),
            facts.hour,
            signed(facts.rows),
            signed(facts.bytes),
            facts.min_time,
            facts.max_time,
            facts.sealed,
        ])?;
    let id = transaction.last_insert_rowid();
    Ok(Segment { id, facts })
}

/// Marks live segments.
fn drop_live(transaction: &Transaction<'_>, ids: &[i64]) -> Result<(), CatalogError> {
    let mut statement = transaction
        .prepare_cached("UPDATE segments SET dropped = 1 WHERE id = ? AND dropped = 0")?;
    for &id in ids {
        if statement.execute([id])? != 1 {
            return Err(CatalogError::NotLive(id));
        }
    }
    Ok(())
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn load(&self) -> Result<Loaded, CatalogError> {
        self.read(|transaction| {
            let mut loaded = Loaded {
                sealed_through: transaction.query_row(
                    "SELECT sealed_through FROM state",
                    [],
                    |row| row.get(0),
                )?,
                ..Loaded::default()
            };
            let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY id"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (segment, dropped) = segment(row)?;
                if dropped {
                    loaded.dropped.push(segment);
                } else {
                    loaded.live.push(segment);
                }
            }
            Ok(loaded)
        })
        .await
    }

    async fn seal(
        &self,
        added: Vec<NewSegment>,
        through: i64,
    ) -> Result<Vec<Segment>, CatalogError> {
        self.write(move |transaction| {
            let moved = transaction.execute(
                "UPDATE state SET sealed_through = ?1 WHERE sealed_through < ?1",
                [through],
            )?;
            if moved != 1 {
                let sealed =
                    transaction
                        .query_row("SELECT sealed_through FROM state", [], |row| row.get(0))?;
                return Err(CatalogError::Sealed { through, sealed });
            }
            let mut segments = Vec::with_capacity(added.len());
            for NewSegment { facts, mut keys } in added {
                let segment = insert(transaction, facts)?;
                // In the order of the table, which is quicker.
                keys.sort_unstable();
                let mut statement = transaction.prepare_cached(
                    "INSERT OR IGNORE INTO fingerprints (key, segment) VALUES (?, ?)",
                )?;
                for key in keys {
                    statement.execute([key, segment.id])?;
                }
                segments.push(segment);
            }
            Ok(segments)
        })
        .await
    }

    async fn merge(&self, parts: Vec<i64>, whole: Facts) -> Result<Segment, CatalogError> {
        self.write(move |transaction| {
            drop_live(transaction, &parts)?;
            let segment = insert(transaction, whole)?;
            let mut statement = transaction.prepare_cached(
                "INSERT OR IGNORE INTO fingerprints (key, segment) \
                 SELECT key, ?2 FROM fingerprints WHERE segment = ?1 ORDER BY key",
            )?;
            for part in parts {
                statement.execute([part, segment.id])?;
            }
            Ok(segment)
        })
        .await
    }

    async fn drop_segments(&self, ids: Vec<i64>) -> Result<(), CatalogError> {
        self.write(move |transaction| drop_live(transaction, &ids))
            .await
    }

    async fn forget(&self, ids: Vec<i64>) -> Result<(), CatalogError> {
        self.write(move |transaction| {
            let mut statement =
                transaction.prepare_cached("DELETE FROM segments WHERE id = ? AND dropped = 1")?;
            for id in ids {
                statement.execute([id])?;
            }
            Ok(())
        })
        .await
    }

    async fn holding(&self, keys: Vec<i64>) -> Result<Vec<i64>, CatalogError> {
        self.read(move |transaction| {
            let mut statement =
                transaction.prepare_cached("SELECT segment FROM fingerprints WHERE key = ?")?;
            let mut ids = Vec::new();
            for key in keys {
                let found = statement.query_map([key], |row| row.get(0))?;
                for id in found {
                    ids.push(id?);
                }
            }
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        })
        .await
    }
}
