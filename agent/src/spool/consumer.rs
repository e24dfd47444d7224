//! The reading end: one consumer's place in the queue.
//!
//! Entries are read one at a time, ahead of what was asked for only as far as a page needs; what was read stays in
//! memory until it is acknowledged.
//!
//! Invariant: at most one entry more than a page holds is in memory.
//! Invariant: the position passes a record only by `acknowledge`, `quarantine`, or as a counted loss.

use super::database;
use super::entry::{self, Head, Packer};
use super::loss::{self, Lost, Reason};
use super::reserve::Reserve;
use super::{Error, Record, Signal, nanos, signed, time, unsigned};
use agent_common::event::Time;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::VecDeque;
use std::sync::Arc;

/// Records of one run, in their order.
#[derive(Clone, Debug)]
pub struct Page {
    /// As it was given to [`Spool::begin`](super::Spool::begin).
    pub agent: Arc<str>,
    pub epoch: u64,
    /// Never empty.
    pub records: Vec<Record>,
}

/// One consumer.
pub struct Consumer {
    name: String,
    connection: Connection,
    signal: Arc<Signal>,
    reserve: Arc<Reserve>,
    quarantine_bytes: u64,
    packer: Packer,
    /// The entry to read next, and how many of its records to leave out.
    next: Position,
    /// Read, not acknowledged.
    queue: VecDeque<Queued>,
    /// Of the last entry that was read.
    run: Option<Arc<Run>>,
    /// Acknowledged, and stored unless that failed.
    position: Position,
    stored: Position,
    /// The latest time that was read.
    reached: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// All entries before this one are done,
    entry: i64,
    /// and so many records of it.
    done: i64,
}

struct Run {
    id: i64,
    agent: Arc<str>,
    epoch: u64,
}

struct Queued {
    run: Arc<Run>,
    record: Record,
    /// The position when this one is done.
    after: Position,
}

enum Read {
    /// Something is in the queue now.
    Entry,
    /// That entry was damaged, and is told of.
    Damaged,
    Nothing,
}

impl Consumer {
    pub(super) fn open(
        name: String,
        connection: Connection,
        signal: Arc<Signal>,
        reserve: Arc<Reserve>,
        quarantine_bytes: u64,
    ) -> Result<Self, Error> {
        let position = connection
            .query_row(
                "SELECT entry, done FROM consumers WHERE name = ?1",
                [&name],
                |row| {
                    Ok(Position {
                        entry: row.get(0)?,
                        done: row.get(1)?,
                    })
                },
            )
            .optional()?
            .unwrap_or_default();
        Ok(Self {
            name,
            connection,
            signal,
            reserve,
            quarantine_bytes,
            packer: Packer::new().map_err(Error::Compression)?,
            next: position,
            queue: VecDeque::new(),
            run: None,
            position,
            stored: position,
            reached: Time::from_unix_nanos(0),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wakes when something was appended, or it is time to stop.
    #[must_use]
    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// The next records: one at least, and not more than `events` and `bytes` of them beyond that. They come again
    /// until they are acknowledged. `None`: nothing waits.
    ///
    /// # Errors
    /// Those of the database.
    pub fn page(&mut self, events: usize, bytes: usize) -> Result<Option<Page>, Error> {
        loop {
            let records = self.front(events, bytes);
            // Another run, or a limit, ends the page within what was read.
            if records < self.queue.len() || records >= events {
                break;
            }
            match self.read()? {
                Read::Entry | Read::Damaged => {}
                Read::Nothing => break,
            }
        }
        let count = self.front(events, bytes);
        let Some(first) = self.queue.front() else {
            return Ok(None);
        };
        Ok(Some(Page {
            agent: Arc::clone(&first.run.agent),
            epoch: first.run.epoch,
            records: self
                .queue
                .iter()
                .take(count)
                .map(|queued| queued.record.clone())
                .collect(),
        }))
    }

    /// How many records of the queue make a page.
    fn front(&self, events: usize, bytes: usize) -> usize {
        let Some(first) = self.queue.front() else {
            return 0;
        };
        let mut room = bytes;
        self.queue
            .iter()
            .take(events.max(1))
            .enumerate()
            .take_while(|(index, queued)| {
                let fits = queued.record.bytes.len() <= room;
                room = room.saturating_sub(queued.record.bytes.len());
                (fits || *index == 0) && queued.run.id == first.run.id
            })
            .count()
    }

    /// Reads the next entry into the queue.
    fn read(&mut self) -> Result<Read, Error> {
        let found = self
            .connection
            .prepare_cached(&format!(
                "SELECT {} FROM entries WHERE id >= ?1 ORDER BY id LIMIT 1",
                Head::COLUMNS
            ))?
            .query_row([self.next.entry], Head::read)
            .optional();
        let (id, head, seal) = match found {
            Ok(None) => return Ok(Read::Nothing),
            Ok(Some(found)) => found,
            Err(error) => return Err(error.into()),
        };
        if head.seal() != seal {
            self.damaged(id, None)?;
            return Ok(Read::Damaged);
        }
        let payload: rusqlite::Result<Option<Vec<u8>>> = self
            .connection
            .prepare_cached("SELECT payload FROM entries WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional();
        let payload = match payload {
            Ok(Some(payload)) => payload,
            // It left meanwhile, and was counted by who removed it.
            Ok(None) => {
                self.next = Position {
                    entry: id + 1,
                    done: 0,
                };
                return Ok(Read::Damaged);
            }
            Err(error) if database::is_damage(&error) => {
                self.damaged(id, Some(head))?;
                return Ok(Read::Damaged);
            }
            Err(error) => return Err(error.into()),
        };
        let records = if entry::seal(&payload) == head.payload_seal {
            entry::unpack(&payload, head.raw, head.records)
        } else {
            None
        };
        let (Some(records), Some(run)) = (records, self.run(head.run)?) else {
            self.damaged(id, Some(head))?;
            return Ok(Read::Damaged);
        };
        self.reached = self.reached.max(time(head.to_time));
        let count = records.len() as i64;
        let done = if self.next.entry == id {
            self.next.done
        } else {
            0
        };
        for (index, record) in records.into_iter().enumerate() {
            let index = index as i64;
            if index < done {
                continue;
            }
            let after = if index + 1 == count {
                Position {
                    entry: id + 1,
                    done: 0,
                }
            } else {
                Position {
                    entry: id,
                    done: index + 1,
                }
            };
            self.queue.push_back(Queued {
                run: Arc::clone(&run),
                record,
                after,
            });
        }
        self.next = Position {
            entry: id + 1,
            done: 0,
        };
        Ok(Read::Entry)
    }

    fn run(&mut self, id: i64) -> Result<Option<Arc<Run>>, Error> {
        if let Some(run) = self.run.as_ref().filter(|run| run.id == id) {
            return Ok(Some(Arc::clone(run)));
        }
        let run = self
            .connection
            .query_row("SELECT agent, epoch FROM runs WHERE id = ?1", [id], |row| {
                Ok(Run {
                    id,
                    agent: row.get::<_, String>(0)?.into(),
                    epoch: unsigned(row.get(1)?),
                })
            })
            .optional()?
            .map(Arc::new);
        self.run.clone_from(&run);
        Ok(run)
    }

    /// Removes a damaged entry, once for all consumers: it is a loss of those that had not passed it. `head` is what
    /// its seal vouches for.
    fn damaged(&mut self, id: i64, head: Option<Head>) -> Result<(), Error> {
        let reserve = Arc::clone(&self.reserve);
        reserve.spare(|| self.try_damaged(id, head.as_ref()))
    }

    fn try_damaged(&mut self, id: i64, head: Option<&Head>) -> Result<(), Error> {
        let run = match head {
            Some(head) => self.run(head.run)?,
            None => None,
        };
        let lost = match (head, run) {
            (Some(head), Some(run)) => {
                let (first, last) = head.span();
                Lost {
                    id: 0,
                    consumer: None,
                    reason: Reason::Damaged,
                    begin: Some((run.epoch, first)),
                    last: Some(last),
                    count: Some(unsigned(head.records)),
                    from: time(head.from_time),
                    to: time(head.to_time),
                }
            }
            _ => Lost {
                id: 0,
                consumer: None,
                reason: Reason::Damaged,
                begin: None,
                last: None,
                count: None,
                from: self.reached,
                to: Time::now(),
            },
        };
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let removed = transaction.execute("DELETE FROM entries WHERE id = ?1", [id])?;
        if removed > 0 {
            loss::store(&transaction, &lost)?;
        }
        transaction.commit()?;
        if removed > 0 {
            tracing::error!(
                consumer = self.name,
                entry = id,
                count = lost.count,
                "AN ENTRY OF THE SPOOL IS DAMAGED: its events are lost"
            );
        }
        self.next = Position {
            entry: id + 1,
            done: 0,
        };
        Ok(())
    }

    /// The first `count` records that wait are done.
    ///
    /// # Errors
    /// If the position could not be stored: it has moved nevertheless, and is stored with the next one. Killed before
    /// that, these records come again.
    pub fn acknowledge(&mut self, count: usize) -> Result<(), Error> {
        self.pass(count);
        self.save()
    }

    fn pass(&mut self, count: usize) {
        let count = count.min(self.queue.len());
        if let Some(last) = self.queue.drain(..count).last() {
            self.position = last.after;
        }
    }

    /// Stores the position, if that failed before.
    ///
    /// # Errors
    /// Those of the database.
    pub fn save(&mut self) -> Result<(), Error> {
        if self.stored != self.position {
            self.reserve
                .spare(|| store(&self.connection, &self.name, self.position))?;
            self.stored = self.position;
        }
        Ok(())
    }

    /// Forgets what was read and not acknowledged: it is read again.
    pub fn rewind(&mut self) {
        self.queue.clear();
        self.next = self.position;
    }

    /// The first `count` records that wait were refused for good, `rejected` of them by the receiver's own count: they
    /// are kept aside, counted and done, in one transaction.
    ///
    /// # Errors
    /// Those of the database: nothing has changed then.
    pub fn quarantine(&mut self, count: usize, rejected: u64, reason: &str) -> Result<(), Error> {
        let reserve = Arc::clone(&self.reserve);
        reserve.spare(|| self.try_quarantine(count, rejected, reason))
    }

    fn try_quarantine(&mut self, count: usize, rejected: u64, reason: &str) -> Result<(), Error> {
        let count = count.min(self.queue.len());
        let (Some(first), Some(last)) = (
            self.queue.front(),
            count.checked_sub(1).and_then(|last| self.queue.get(last)),
        ) else {
            return Ok(());
        };
        let records: Vec<Record> = self
            .queue
            .iter()
            .take(count)
            .map(|queued| queued.record.clone())
            .collect();
        let (payload, raw) = self.packer.payload(&records).map_err(Error::Compression)?;
        let times = || records.iter().map(|record| record.time);
        let (from, to) = (
            times().min().unwrap_or(first.record.time),
            times().max().unwrap_or(first.record.time),
        );
        let lost = Lost {
            id: 0,
            consumer: Some(self.name.clone()),
            reason: Reason::Rejected,
            begin: Some((first.run.epoch, first.record.sequence)),
            last: Some(last.record.sequence),
            count: Some(rejected),
            from,
            to,
        };
        let after = last.after;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached(
                "INSERT INTO quarantine (consumer, made, reason, agent, epoch, first, last, records, rejected, raw,
                     payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                self.name,
                nanos(Time::now()),
                reason,
                first.run.agent.as_ref(),
                signed(first.run.epoch),
                signed(first.record.sequence),
                signed(last.record.sequence),
                signed(records.len() as u64),
                signed(rejected),
                raw,
                payload,
            ])?;
        // The oldest make room: they were counted when they came here.
        transaction
            .prepare_cached(
                "DELETE FROM quarantine WHERE id IN (SELECT id FROM (SELECT id, SUM(LENGTH(payload) + 256)
                     OVER (ORDER BY id DESC) AS kept FROM quarantine) WHERE kept > ?1)",
            )?
            .execute([signed(self.quarantine_bytes)])?;
        loss::store(&transaction, &lost)?;
        store(&transaction, &self.name, after)?;
        transaction.commit()?;
        self.pass(count);
        self.stored = self.position;
        Ok(())
    }
}

fn store(connection: &Connection, name: &str, position: Position) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE consumers SET entry = ?2, done = ?3 WHERE name = ?1")?
        .execute(params![name, position.entry, position.done])?;
    Ok(())
}
