//! The writing end: appends, makes room, and keeps the losses until they are told of.
//!
//! Invariant: a record is appended, refused (then counted in the same transaction), or the caller still has it.

use super::database::{self, Durability, Found};
use super::entry::{self, Packer};
use super::loss::{self, Lost, Reason};
use super::reserve::Reserve;
use super::{
    Consumer, Error, Options, Record, Signal, WhenFull, folder, nanos, signed, time, unsigned,
};
use agent_common::event::Time;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Runs that are remembered although nothing of them waits.
const RUNS_KEPT: i64 = 16;

/// What became of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All of them are durable.
    Stored,
    /// At the cap: so many of them, the newest, are refused and counted. The others are durable.
    Refused(usize),
}

/// What is there for one consumer, in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Not passed so far.
    pub waiting: u64,
    /// In quarantine.
    pub quarantined: u64,
}

/// The writing end of the queue.
pub struct Spool {
    connection: Connection,
    database: PathBuf,
    options: Options,
    run: Option<Run>,
    consumers: Vec<String>,
    packer: Packer,
    signal: Arc<Signal>,
    /// Losses that could not be stored so far.
    unsaved: Vec<Lost>,
    /// What all entries take, in bytes.
    used: u64,
    reserve: Arc<Reserve>,
    /// Held as long as the spool is open.
    _lock: File,
}

#[derive(Clone, Copy)]
struct Run {
    id: i64,
    epoch: u64,
}

impl Spool {
    /// Opens or makes the queue. A damaged one is moved aside, told of in the log and as a loss.
    ///
    /// # Errors
    /// If the folder is not ours alone, another agent uses it, a later agent made it, or the disk fails.
    pub fn open(options: Options) -> Result<Self, Error> {
        let lock = folder::open(&options.path)?;
        let reserve = Arc::new(Reserve::open(&options.path));
        let database = options.path.join(folder::DATABASE);
        let connection = match database::open(&database)? {
            Found::Good(connection) => connection,
            Found::Damaged(error) => {
                let aside = folder::move_aside(&options.path)?;
                tracing::error!(
                    %error, spool = %database.display(), moved_to = %aside.display(),
                    "THE SPOOL IS DAMAGED: it was moved aside, a new one is begun, what waited in it is not delivered"
                );
                match database::open(&database)? {
                    Found::Good(connection) => connection,
                    Found::Damaged(error) => return Err(error.into()),
                }
            }
        };
        let mut spool = Self {
            connection,
            database,
            options,
            run: None,
            consumers: Vec::new(),
            packer: Packer::new().map_err(Error::Compression)?,
            signal: Arc::default(),
            unsaved: Vec::new(),
            used: 0,
            reserve,
            _lock: lock,
        };
        spool.tell_of_aside()?;
        spool
            .connection
            .execute("UPDATE losses SET handed = 0 WHERE handed != 0", [])?;
        spool.recount()?;
        Ok(spool)
    }

    /// Each damaged database becomes a loss once, even if the agent was killed between moving it and telling.
    fn tell_of_aside(&mut self) -> Result<(), Error> {
        let found = folder::aside(&self.options.path)?;
        let transaction = begin(&mut self.connection)?;
        for (name, made) in found {
            let new = transaction.execute(
                "INSERT INTO aside (name) VALUES (?1) ON CONFLICT DO NOTHING",
                [&name],
            )?;
            if new > 0 {
                let made = made
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let lost = Lost {
                    id: 0,
                    consumer: None,
                    reason: Reason::Damaged,
                    begin: None,
                    last: None,
                    count: None,
                    from: Time::from_unix_nanos(
                        i128::try_from(made.as_nanos()).unwrap_or_default(),
                    ),
                    to: Time::now(),
                };
                loss::store(&transaction, &lost)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn recount(&mut self) -> Result<(), Error> {
        let used: i64 =
            self.connection
                .query_row("SELECT COALESCE(SUM(size), 0) FROM entries", [], |row| {
                    row.get(0)
                })?;
        self.used = unsigned(used);
        Ok(())
    }

    /// Wakes and stops consumers.
    #[must_use]
    pub fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }

    /// The consumers of this run. A new one begins with the oldest that is there; those that are not named any more
    /// are forgotten: what only they had not read may leave.
    ///
    /// # Errors
    /// Those of the database.
    pub fn register(&mut self, names: &[String]) -> Result<Vec<Consumer>, Error> {
        let transaction = begin(&mut self.connection)?;
        let known: Vec<String> = transaction
            .prepare("SELECT name FROM consumers")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for name in known.iter().filter(|name| !names.contains(name)) {
            tracing::warn!(
                consumer = %name,
                "an output of an earlier run is not configured any more: its place in the spool is forgotten"
            );
            transaction.execute("DELETE FROM consumers WHERE name = ?1", [name])?;
        }
        for name in names {
            transaction.execute(
                "INSERT INTO consumers (name, entry, done) VALUES (?1, 0, 0) ON CONFLICT DO NOTHING",
                [name],
            )?;
        }
        transaction.commit()?;
        self.consumers = names.to_vec();
        names
            .iter()
            .map(|name| {
                let connection = database::connect(&self.database, Durability::Normal)?;
                Consumer::open(
                    name.clone(),
                    connection,
                    Arc::clone(&self.signal),
                    Arc::clone(&self.reserve),
                    self.options.quarantine_bytes,
                )
            })
            .collect()
    }

    /// Begins a run. Its epoch is the answer: `epoch`, or the next one after the last run's if the clock went back.
    /// A run that has not ended becomes a loss, from its last durable record until `now`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn begin(&mut self, agent: &str, epoch: u64, now: Time) -> Result<u64, Error> {
        let transaction = begin(&mut self.connection)?;
        let unended: Vec<(i64, i64, i64)> = transaction
            .prepare("SELECT epoch, sequence, time FROM runs WHERE state = 0 ORDER BY id")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (epoch, sequence, last) in unended {
            let (epoch, from) = (unsigned(epoch), time(last));
            tracing::warn!(
                epoch, from = %from, to = %now,
                "the agent was killed, or the host lost power: how many events were lost is not known"
            );
            let lost = Lost {
                id: 0,
                consumer: None,
                reason: Reason::UncleanEnd,
                begin: Some((epoch, unsigned(sequence) + 1)),
                last: None,
                count: None,
                from,
                to: now.max(from),
            };
            loss::store(&transaction, &lost)?;
        }
        transaction.execute("UPDATE runs SET state = 2 WHERE state = 0", [])?;
        let newest: Option<i64> =
            transaction.query_row("SELECT MAX(epoch) FROM runs", [], |row| row.get(0))?;
        let epoch = newest.map_or(epoch, |newest| epoch.max(unsigned(newest) + 1));
        transaction.execute(
            "INSERT INTO runs (agent, epoch, sequence, time, state) VALUES (?1, ?2, 0, ?3, 0)",
            params![agent, signed(epoch), nanos(now)],
        )?;
        let id = transaction.last_insert_rowid();
        transaction.execute(
            "DELETE FROM runs WHERE id <= ?1 AND id NOT IN (SELECT run FROM entries)",
            [id - RUNS_KEPT],
        )?;
        transaction.commit()?;
        self.run = Some(Run { id, epoch });
        Ok(epoch)
    }

    /// Appends records: durable when this returns, in one transaction.
    ///
    /// # Errors
    /// If they could not be written: nothing of them is stored then, and nothing counted.
    pub fn append(&mut self, records: &[Record]) -> Result<Appended, Error> {
        if !self.reserve.is_there() {
            // At the start, or after a full disk: what has left makes room for the reserve, too.
            self.tend()?;
            while let Err(error) = self.reserve.ensure() {
                if !database::shrink(&self.connection)? {
                    return Err(Error::NoReserve(error));
                }
            }
        }
        // On a full disk the reserve is not for this.
        self.try_append(records)
    }

    fn try_append(&mut self, records: &[Record]) -> Result<Appended, Error> {
        let run = self.run.ok_or(Error::NoRun)?;
        let now = Time::now();
        let transaction = begin(&mut self.connection)?;
        let mut used = self.used;
        for lost in &self.unsaved {
            loss::store(&transaction, lost)?;
        }
        used = used.saturating_sub(passed(&transaction)?);
        let expired = expired(&transaction, &self.options, now)?;
        for id in expired {
            used = used.saturating_sub(drop_entry(&transaction, id, Reason::Expired)?);
        }
        let mut rest = records;
        for count in entry::groups(records) {
            let group = &rest[..count];
            let (head, payload) = self
                .packer
                .entry(run.id, nanos(now), group)
                .map_err(Error::Compression)?;
            let size = unsigned(head.size);
            if self.options.when_full == WhenFull::DropOldest && size <= self.options.max_bytes {
                while used.saturating_add(size) > self.options.max_bytes {
                    let Some(id) = oldest(&transaction)? else {
                        break;
                    };
                    used = used.saturating_sub(drop_entry(&transaction, id, Reason::Full)?);
                }
            }
            if used.saturating_add(size) > self.options.max_bytes {
                break;
            }
            insert(&transaction, &head, &payload)?;
            used += size;
            for id in group.iter().filter_map(|record| record.settles) {
                loss::settle(&transaction, id)?;
            }
            rest = &rest[count..];
        }
        let stored = &records[..records.len() - rest.len()];
        if let Some(last) = stored.last() {
            transaction
                .prepare_cached("UPDATE runs SET sequence = ?2, time = ?3 WHERE id = ?1")?
                .execute(params![run.id, signed(last.sequence), nanos(last.time)])?;
        }
        if let Some(lost) = lost(run.epoch, rest, Reason::Full) {
            loss::store(&transaction, &lost)?;
            for id in rest.iter().filter_map(|record| record.settles) {
                loss::hand(&transaction, id, false)?;
            }
        }
        transaction.commit()?;
        self.unsaved.clear();
        self.used = used;
        if !stored.is_empty() {
            self.signal.appended();
        }
        Ok(match rest.len() {
            0 => Appended::Stored,
            refused => Appended::Refused(refused),
        })
    }

    /// Counts records that will not be appended, because that failed for too long.
    pub fn give_up(&mut self, records: &[Record]) {
        let Some(run) = self.run else { return };
        if let Some(lost) = lost(run.epoch, records, Reason::Failed) {
            loss::add(&mut self.unsaved, lost);
        }
        for id in records.iter().filter_map(|record| record.settles) {
            // Tried again with the next start, if not now: it is in the database all the while.
            let _ = loss::hand(&self.connection, id, false);
        }
    }

    /// Removes what everyone has passed and what is too old, and stores what could not be stored before. To be called
    /// about once a second while nothing is appended.
    ///
    /// # Errors
    /// Those of the database; it is tried again with the next call.
    pub fn tend(&mut self) -> Result<(), Error> {
        let reserve = Arc::clone(&self.reserve);
        reserve.spare(|| self.try_tend())
    }

    fn try_tend(&mut self) -> Result<(), Error> {
        let now = Time::now();
        let transaction = begin(&mut self.connection)?;
        let mut changed = passed(&transaction)? > 0;
        for id in expired(&transaction, &self.options, now)? {
            drop_entry(&transaction, id, Reason::Expired)?;
            changed = true;
        }
        for lost in &self.unsaved {
            loss::store(&transaction, lost)?;
            changed = true;
        }
        if changed {
            transaction.commit()?;
            self.unsaved.clear();
        } else {
            transaction.finish()?;
        }
        // Consumers remove what is damaged: counted anew here, not there.
        self.recount()
    }

    /// Losses that are to become events, each with its [`Lost::id`] for [`Record::settles`]. None is handed out twice
    /// in a run, unless its event was refused.
    ///
    /// # Errors
    /// Those of the database; nothing is handed out then.
    pub fn losses(&mut self) -> Result<Vec<Lost>, Error> {
        let reserve = Arc::clone(&self.reserve);
        reserve.spare(|| self.try_losses())
    }

    fn try_losses(&mut self) -> Result<Vec<Lost>, Error> {
        let found = loss::open(&self.connection)?;
        if found.is_empty() {
            return Ok(found);
        }
        let transaction = begin(&mut self.connection)?;
        // Again, within the transaction: consumers add to them.
        let found = loss::open(&transaction)?;
        for lost in &found {
            loss::hand(&transaction, lost.id, true)?;
        }
        transaction.commit()?;
        Ok(found)
    }

    /// Losses that are nowhere but in memory: the database could not be written.
    #[must_use]
    pub fn unsaved(&self) -> &[Lost] {
        &self.unsaved
    }

    /// The run ends cleanly: everything that was to be appended is, or is counted.
    ///
    /// # Errors
    /// Those of the database: the next start will find that this run has not ended.
    pub fn end(&mut self) -> Result<(), Error> {
        let reserve = Arc::clone(&self.reserve);
        reserve.spare(|| self.try_end())
    }

    fn try_end(&mut self) -> Result<(), Error> {
        let Some(run) = self.run else { return Ok(()) };
        let transaction = begin(&mut self.connection)?;
        for lost in &self.unsaved {
            loss::store(&transaction, lost)?;
        }
        passed(&transaction)?;
        transaction.execute("UPDATE runs SET state = 1 WHERE id = ?1", [run.id])?;
        transaction.commit()?;
        self.unsaved.clear();
        self.run = None;
        Ok(())
    }

    /// Of each consumer, by its name.
    ///
    /// # Errors
    /// Those of the database.
    pub fn backlogs(&self) -> Result<Vec<(String, Backlog)>, Error> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT name, (SELECT COALESCE(SUM(records), 0) FROM entries WHERE id >= entry) - done,
                     (SELECT COALESCE(SUM(records), 0) FROM quarantine WHERE consumer = name) FROM consumers",
            )?
            .query_map([], |row| {
                let backlog = Backlog {
                    waiting: unsigned(row.get(1)?),
                    quarantined: unsigned(row.get(2)?),
                };
                Ok((row.get(0)?, backlog))
            })?
            .collect::<Result<_, _>>()?)
    }

    /// Bytes that wait, as they are held against the cap.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// The loss of records, if they are not none.
fn lost(epoch: u64, records: &[Record], reason: Reason) -> Option<Lost> {
    let (first, last) = (records.first()?, records.last()?);
    let times = || records.iter().map(|record| record.time);
    Some(Lost {
        id: 0,
        consumer: None,
        reason,
        begin: Some((epoch, first.sequence)),
        last: Some(last.sequence),
        count: Some(records.len() as u64),
        from: times().min()?,
        to: times().max()?,
    })
}

fn insert(connection: &Connection, head: &entry::Head, payload: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO entries (run, made, first, last, from_time, to_time, records, raw, size, payload_seal, seal,
                 payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            head.run,
            head.made,
            head.first,
            head.last,
            head.from_time,
            head.to_time,
            head.records,
            head.raw,
            head.size,
            head.payload_seal,
            head.seal(),
            payload,
        ])?;
    Ok(())
}

/// Removes what every consumer has passed; the bytes.
fn passed(connection: &Connection) -> rusqlite::Result<u64> {
    let before: Option<i64> = connection
        .prepare_cached("SELECT MIN(entry) FROM consumers")?
        .query_row([], |row| row.get(0))?;
    let Some(before) = before else { return Ok(0) };
    let bytes: i64 = connection
        .prepare_cached("SELECT COALESCE(SUM(size), 0) FROM entries WHERE id < ?1")?
        .query_row([before], |row| row.get(0))?;
    connection
        .prepare_cached("DELETE FROM entries WHERE id < ?1")?
        .execute([before])?;
    Ok(unsigned(bytes))
}

fn oldest(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT MIN(id) FROM entries")?
        .query_row([], |row| row.get(0))
}

/// Entries that are too old. Those that a clock made in the future are not.
fn expired(connection: &Connection, options: &Options, now: Time) -> rusqlite::Result<Vec<i64>> {
    let age = i64::try_from(options.max_age.as_nanos()).unwrap_or(i64::MAX);
    let before = nanos(now).saturating_sub(age);
    // Entries are in the order of time, but for clocks that were set: the first one that is young ends the search.
    let mut statement = connection.prepare_cached("SELECT id, made FROM entries ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before {
            break;
        }
        found.push(row.get(0)?);
    }
    Ok(found)
}

/// Removes an entry; it is a loss of each consumer that had not passed it. The bytes.
fn drop_entry(connection: &Connection, id: i64, reason: Reason) -> rusqlite::Result<u64> {
    let found = connection
        .prepare_cached(
            "SELECT e.first, e.last, e.records, e.from_time, e.to_time, e.size, r.epoch FROM entries e
             LEFT JOIN runs r ON r.id = e.run WHERE e.id = ?1",
        )?
        .query_row([id], |row| {
            Ok((
                [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?],
                row.get::<_, Option<i64>>(6)?,
            ))
        })
        .optional()?;
    let Some(([first, last, records, from, to, size], epoch)): Option<([i64; 6], _)> = found else {
        return Ok(0);
    };
    let mut statement = connection.prepare_cached(
        "SELECT name, entry, done FROM consumers WHERE entry <= ?1 ORDER BY name",
    )?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let done = if row.get::<_, i64>(1)? == id {
            row.get::<_, i64>(2)?
        } else {
            0
        };
        let lost = Lost {
            id: 0,
            consumer: Some(row.get(0)?),
            reason,
            begin: epoch.map(|epoch| (unsigned(epoch), unsigned(first))),
            last: Some(unsigned(last)),
            count: Some(unsigned(records.saturating_sub(done))),
            from: time(from),
            to: time(to),
        };
        loss::store(connection, &lost)?;
    }
    connection
        .prepare_cached("DELETE FROM entries WHERE id = ?1")?
        .execute([id])?;
    Ok(unsigned(size))
}
