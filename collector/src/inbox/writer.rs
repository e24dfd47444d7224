//! The thread that writes: whatever waits shares one transaction, and its one fsync.
//!
//! Invariant: an answer is given after the commit; what a commit that failed held is answered as not stored.
//! Invariant: an entry is among the pending ones before its append is answered.

use super::own::{Identity, Own};
use super::packed::{self, Packed};
use super::quarantine::{self, Refused};
use super::ranges::{self, Run};
use super::room::{Place, Room};
use super::{AppendError, Appended, Entry, Shared, database, hole};
use crate::event::{Event, EventKey};
use agent_common::event::{Body, Time};
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Of one transaction: enough to make its fsync cheap, and not so much that it takes long.
const GROUP_BYTES: u64 = 16 * 1024 * 1024;
const GROUP_JOBS: usize = 512;
/// When nobody asks for so long, room is given back to the disk.
const IDLE: Duration = Duration::from_secs(1);

/// Gives a job's answer, or the error that undid it.
type Giver = Box<dyn FnOnce(Option<&AppendError>)>;
type Answer<T> = oneshot::Sender<Result<T, AppendError>>;

pub(super) enum Job {
    Append {
        origin: Arc<str>,
        packed: Packed,
        refused: Vec<Refused>,
        place: Place,
        answer: Answer<Appended>,
    },
    Remove {
        through: i64,
        answer: SyncSender<Result<(), AppendError>>,
    },
    Identify {
        identity: Identity,
        answer: Answer<u64>,
    },
    Say {
        time: Time,
        body: Body,
        answer: Answer<EventKey>,
    },
    ReportHoles {
        grace: Duration,
        answer: Answer<usize>,
    },
    /// The database may have so many pages: a disk that is full.
    #[cfg(test)]
    Pages { pages: i64, answer: SyncSender<()> },
}

pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    own: Option<Own>,
    /// Bytes in quarantine; nothing while it is not known.
    quarantined: Option<i64>,
    quarantine_limit: i64,
    /// Held as long as the connection.
    _lock: File,
}

/// What a transaction changed beside the database; counts when it is committed.
#[derive(Default)]
struct Effects {
    entries: Vec<Arc<Entry>>,
    kept: Vec<(Place, u64, u64)>,
    removed: Option<i64>,
    /// Each gives one answer.
    answers: Vec<Giver>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        shared: Arc<Shared>,
        quarantine: u64,
        lock: File,
    ) -> Self {
        Self {
            connection,
            shared,
            own: None,
            quarantined: None,
            quarantine_limit: i64::try_from(quarantine).unwrap_or(i64::MAX),
            _lock: lock,
        }
    }

    /// Until no handle is left.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match jobs.recv_timeout(IDLE) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.tidy();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut bytes = first.bytes();
            let mut group = vec![first];
            while bytes < GROUP_BYTES && group.len() < GROUP_JOBS {
                let Ok(job) = jobs.try_recv() else {
                    break;
                };
                bytes += job.bytes();
                group.push(job);
            }
            self.commit(group);
        }
    }

    fn tidy(&mut self) {
        loop {
            match database::shrink(&self.connection) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the inbox cannot give room back");
                    return;
                }
            }
        }
    }

    fn commit(&mut self, group: Vec<Job>) {
        let own = self.own.clone();
        let mut effects = Effects::default();
        let failed = self.transact(group, &mut effects).err();
        let Effects {
            entries,
            kept,
            removed,
            answers,
        } = effects;
        let Some(error) = failed else {
            for (mut place, bytes, events) in kept {
                place.keep(bytes, events);
            }
            self.publish(entries, removed);
            for answer in answers {
                answer(None);
            }
            return;
        };
        tracing::error!(%error, "the inbox cannot be written");
        self.own = own;
        self.quarantined = None;
        // An answer that the sender acts on: there is room again.
        drop(kept);
        let error = AppendError::Disk(error.to_string());
        for answer in answers {
            answer(Some(&error));
        }
    }

    /// Jobs that the error kept from being tried lose their answers, which says that they are closed; so each is
    /// given one first.
    fn transact(&mut self, group: Vec<Job>, effects: &mut Effects) -> rusqlite::Result<()> {
        let mut group = group.into_iter();
        let result = self.apply_all(&mut group, effects);
        if let Err(error) = &result {
            let error = AppendError::Disk(error.to_string());
            for job in group {
                job.refuse(&error);
            }
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK")?;
            }
        }
        result
    }

    fn apply_all(
        &mut self,
        group: &mut impl Iterator<Item = Job>,
        effects: &mut Effects,
    ) -> rusqlite::Result<()> {
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut apply = Apply {
            connection: &transaction,
            room: &self.shared.room,
            published: self.shared.newest(),
            own: &mut self.own,
            quarantined: &mut self.quarantined,
            quarantine_limit: self.quarantine_limit,
            effects,
            now: super::now(),
        };
        for job in group {
            apply.job(job)?;
        }
        transaction.commit()
    }

    fn publish(&self, entries: Vec<Arc<Entry>>, removed: Option<i64>) {
        let pending = self.shared.pending.write();
        let mut pending = pending.unwrap_or_else(PoisonError::into_inner);
        pending.extend(entries.iter().cloned());
        if let Some(through) = removed {
            while let Some(entry) = pending.pop_front_if(|entry| entry.id <= through) {
                let weight = packed::weight(&entry.events);
                self.shared
                    .room
                    .give_back(weight, entry.events.len() as u64);
            }
        }
        drop(pending);
        for entry in entries {
            // Nobody listens: nobody is told.
            let _ = self.shared.committed.send(entry);
        }
    }
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Self::Append {
                packed, refused, ..
            } => {
                let refused: usize = refused.iter().map(|refused| refused.bytes.len()).sum();
                packed.payload.len() as u64 + refused as u64
            }
            _ => 0,
        }
    }

    fn refuse(self, error: &AppendError) {
        let error = error.clone();
        // Who does not wait any more needs no answer.
        match self {
            Self::Append { answer, .. } => drop(answer.send(Err(error))),
            Self::Remove { answer, .. } => drop(answer.send(Err(error))),
            Self::Identify { answer, .. } => drop(answer.send(Err(error))),
            Self::Say { answer, .. } => drop(answer.send(Err(error))),
            Self::ReportHoles { answer, .. } => drop(answer.send(Err(error))),
            #[cfg(test)]
            Self::Pages { .. } => {}
        }
    }
}

/// One transaction.
struct Apply<'a> {
    connection: &'a Connection,
    room: &'a Arc<Room>,
    /// The greatest id that anybody can know.
    published: i64,
    own: &'a mut Option<Own>,
    quarantined: &'a mut Option<i64>,
    quarantine_limit: i64,
    effects: &'a mut Effects,
    now: i64,
}

impl Apply<'_> {
    /// # Errors
    /// The transaction cannot go on. The job's answer is among the effects.
    fn job(&mut self, job: Job) -> rusqlite::Result<()> {
        match job {
            Job::Append {
                origin,
                packed,
                refused,
                place,
                answer,
            } => {
                let result = self.append(&origin, packed, &refused, place);
                self.answer(answer, result.map(Ok))
            }
            Job::Remove { through, answer } => {
                let result = self.remove(through);
                self.effects.answers.push(Box::new(move |failed| {
                    let _ = answer.send(failed.map_or(Ok(()), |error| Err(error.clone())));
                }));
                result
            }
            Job::Identify { identity, answer } => {
                let result = Own::begin(self.connection, identity).map(|own| {
                    let epoch = own.epoch();
                    *self.own = Some(own);
                    Ok(epoch)
                });
                self.answer(answer, result)
            }
            Job::Say { time, body, answer } => {
                let result = self.say(time, body);
                self.answer(answer, result)
            }
            Job::ReportHoles { grace, answer } => {
                let result = self.report_holes(grace);
                self.answer(answer, result)
            }
            #[cfg(test)]
            Job::Pages { pages, answer } => {
                self.connection
                    .pragma_update(None, "max_page_count", pages)?;
                let _ = answer.send(());
                Ok(())
            }
        }
    }

    fn answer<T: 'static>(
        &mut self,
        answer: Answer<T>,
        result: rusqlite::Result<Result<T, AppendError>>,
    ) -> rusqlite::Result<()> {
        let (result, failed) = match result {
            Ok(result) => (result, Ok(())),
            Err(error) => (Err(AppendError::Disk(error.to_string())), Err(error)),
        };
        self.effects.answers.push(Box::new(move |failed| {
            let _ = answer.send(match failed {
                Some(error) => Err(error.clone()),
                None => result,
            });
        }));
        failed
    }

    fn append(
        &mut self,
        origin: &Arc<str>,
        packed: Packed,
        refused: &[Refused],
        place: Place,
    ) -> rusqlite::Result<Appended> {
        for refused in refused {
            let size = match *self.quarantined {
                Some(size) => size,
                None => quarantine::size(self.connection)?,
            };
            let size = quarantine::put(self.connection, origin, refused, self.now, size)?;
            let size = quarantine::shrink(self.connection, size, self.quarantine_limit)?;
            *self.quarantined = Some(size);
        }
        let given = packed.events.len();
        let packed = self.unknown(packed)?;
        let appended = Appended {
            stored: packed.events.len(),
            duplicates: given - packed.events.len(),
        };
        let (weight, count) = (packed.weight(), packed.count());
        if count > 0 {
            self.connection
                .prepare_cached(
                    "INSERT INTO entries (received, origin, events, bytes, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    self.now,
                    origin,
                    count as i64,
                    packed.length() as i64,
                    packed.payload
                ])?;
            self.effects.entries.push(Arc::new(Entry {
                id: self.connection.last_insert_rowid(),
                received: self.now,
                origin: Arc::clone(origin),
                events: packed.events,
            }));
        }
        self.effects.kept.push((place, weight, count));
        Ok(appended)
    }

    /// Without those that were received before; all count as received now.
    fn unknown(&mut self, packed: Packed) -> rusqlite::Result<Packed> {
        let mut sources: BTreeMap<(&str, u64), Vec<(i64, usize)>> = BTreeMap::new();
        for (index, event) in packed.events.iter().enumerate() {
            let EventKey {
                agent,
                epoch,
                sequence,
            } = &event.key;
            let of_source = sources.entry((&**agent, *epoch)).or_default();
            of_source.push((signed(*sequence), index));
        }
        let mut had_before = Vec::new();
        for ((agent, epoch), mut sequences) in sources {
            // Of equal ones the first stays.
            sequences.sort_unstable();
            let source = ranges::source(self.connection, agent, signed(epoch))?;
            let mut had: Vec<Run> = Vec::new();
            for run in ranges::runs(sequences.iter().map(|(sequence, _)| *sequence)) {
                ranges::receive(self.connection, source, run, self.now, &mut had)?;
            }
            let mut before = None;
            let mut had = had.into_iter().peekable();
            for (sequence, index) in sequences {
                while had.next_if(|run| run.last < sequence).is_some() {}
                let known = had.peek().is_some_and(|run| run.first <= sequence);
                if known || before == Some(sequence) {
                    had_before.push(index);
                }
                before = Some(sequence);
            }
        }
        if had_before.is_empty() {
            return Ok(packed);
        }
        had_before.sort_unstable();
        let mut known = had_before.into_iter().peekable();
        let events: Vec<Event> = packed
            .events
            .into_iter()
            .enumerate()
            .filter(|(index, _)| known.next_if_eq(index).is_none())
            .map(|(_, event)| event)
            .collect();
        Packed::new(events).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }

    fn remove(&mut self, through: i64) -> rusqlite::Result<()> {
        let through = through.min(self.published);
        self.connection
            .prepare_cached("DELETE FROM entries WHERE id <= ?1")?
            .execute([through])?;
        self.effects.removed = self.effects.removed.max(Some(through));
        Ok(())
    }

    fn say(&mut self, time: Time, body: Body) -> rusqlite::Result<Result<EventKey, AppendError>> {
        let Some(own) = self.own.as_mut() else {
            return Ok(Err(AppendError::Closed));
        };
        let before = own.sequence();
        let event = match own.event(time, body) {
            Ok(event) => event,
            Err(error) => return Ok(Err(AppendError::Disk(error.to_string()))),
        };
        let key = event.key.clone();
        let appended = self.append_own(vec![event])?;
        if appended.is_err()
            && let Some(own) = self.own.as_mut()
        {
            own.restore(before);
        }
        Ok(appended.map(|()| key))
    }

    fn report_holes(&mut self, grace: Duration) -> rusqlite::Result<Result<usize, AppendError>> {
        let Some(own) = self.own.as_mut() else {
            return Ok(Err(AppendError::Closed));
        };
        let before = own.sequence();
        let mut events = Vec::new();
        let holes = hole::untold(self.connection, hole::before(grace))?;
        for (_, hole) in &holes {
            match hole.event(own) {
                Ok(event) => events.push(event),
                Err(error) => {
                    own.restore(before);
                    return Ok(Err(AppendError::Disk(error.to_string())));
                }
            }
        }
        if events.is_empty() {
            return Ok(Ok(0));
        }
        if let Err(error) = self.append_own(events)? {
            if let Some(own) = self.own.as_mut() {
                own.restore(before);
            }
            return Ok(Err(error));
        }
        for (source, hole) in &holes {
            hole::told(self.connection, *source, hole)?;
        }
        Ok(Ok(holes.len()))
    }

    fn append_own(&mut self, events: Vec<Event>) -> rusqlite::Result<Result<(), AppendError>> {
        let Some(origin) = self.own.as_ref().map(Own::origin) else {
            return Ok(Err(AppendError::Closed));
        };
        let packed = match Packed::new(events) {
            Ok(packed) => packed,
            Err(error) => return Ok(Err(AppendError::Disk(error.to_string()))),
        };
        let place = match Room::take_own(self.room, packed.weight(), packed.count()) {
            Ok(place) => place,
            Err(full) => return Ok(Err(full)),
        };
        self.append(&origin, packed, &[], place).map(|_| Ok(()))
    }
}

/// Events with more were refused when they were parsed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
