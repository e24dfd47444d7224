//! What receivers refused for good, for people to look at.
//!
//! Opened beside a running agent, or without one: nothing is changed, and nobody waits for it.
//!
//! Invariant: reads only.

use super::{Error, Record, database, entry, folder, time, unsigned};
use agent_common::event::Time;
use rusqlite::{Connection, OptionalExtension, Row};
use std::path::Path;

/// A batch that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its number here.
    pub id: i64,
    /// Which consumer's receiver refused it.
    pub consumer: String,
    /// When.
    pub time: Time,
    /// In the receiver's words.
    pub reason: String,
    /// Whose events these are, and of which run.
    pub agent: String,
    pub epoch: u64,
    /// Sequences of the first and the last record.
    pub first: u64,
    pub last: u64,
    /// How many records it has.
    pub records: u64,
    /// How many of them were refused, as the receiver counts.
    pub rejected: u64,
    /// Decompressed.
    pub bytes: u64,
}

/// The quarantine of a spool.
pub struct Quarantine {
    connection: Connection,
}

const COLUMNS: &str =
    "id, consumer, made, reason, agent, epoch, first, last, records, rejected, raw";

impl Quarantine {
    /// Of the spool in this folder.
    ///
    /// # Errors
    /// If there is none, or it is not one that this version reads.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let database = path.join(folder::DATABASE);
        if !database.exists() {
            return Err(Error::NoSpool {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            connection: database::look(&database)?,
        })
    }

    /// All batches, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn list(&self) -> Result<Vec<Refused>, Error> {
        Ok(self
            .connection
            .prepare(&format!("SELECT {COLUMNS} FROM quarantine ORDER BY id"))?
            .query_map([], read)?
            .collect::<Result<_, _>>()?)
    }

    /// One batch with its records; `None` if there is none of this number (any more).
    ///
    /// # Errors
    /// Those of the database, or if the batch is damaged.
    pub fn batch(&self, id: i64) -> Result<Option<(Refused, Vec<Record>)>, Error> {
        let query = format!("SELECT {COLUMNS}, payload FROM quarantine WHERE id = ?1");
        let found = self
            .connection
            .query_row(&query, [id], |row| {
                Ok((
                    read(row)?,
                    row.get::<_, i64>(8)?,
                    row.get::<_, i64>(10)?,
                    row.get::<_, Vec<u8>>(11)?,
                ))
            })
            .optional()?;
        let Some((refused, records, raw, payload)) = found else {
            return Ok(None);
        };
        let records = entry::unpack(&payload, raw, records).ok_or(Error::DamagedBatch { id })?;
        Ok(Some((refused, records)))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Refused> {
    let number = |index| row.get::<_, i64>(index).map(unsigned);
    Ok(Refused {
        id: row.get(0)?,
        consumer: row.get(1)?,
        time: time(row.get(2)?),
        reason: row.get(3)?,
        agent: row.get(4)?,
        epoch: number(5)?,
        first: number(6)?,
        last: number(7)?,
        records: number(8)?,
        rejected: number(9)?,
        bytes: number(10)?,
    })
}
