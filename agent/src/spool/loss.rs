//! Losses that are not yet events.
//!
//! Each is a row until the event that tells of it is durable, so that a loss is told of exactly once, whatever is
//! killed between. Losses of the same kind are one row until it is handed out.

use super::{nanos, signed, time, unsigned};
use agent_common::event::{LossReason, Stage, Time};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Why records are not where they should be. The numbers stand in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Reason {
    /// The spool held as much as it may.
    Full = 1,
    /// Older than it may be.
    Expired = 2,
    /// The seal did not fit, or the database was damaged.
    Damaged = 3,
    /// The spool could not be written, for longer than memory lasted.
    Failed = 4,
    /// A receiver refused it for good.
    Rejected = 5,
    /// The agent did not end cleanly.
    UncleanEnd = 6,
}

impl Reason {
    fn from_number(number: i64) -> Option<Self> {
        [
            Self::Full,
            Self::Expired,
            Self::Damaged,
            Self::Failed,
            Self::Rejected,
            Self::UncleanEnd,
        ]
        .into_iter()
        .find(|reason| *reason as i64 == number)
    }

    /// As events call it.
    #[must_use]
    pub fn event(self) -> LossReason {
        match self {
            Self::Full => LossReason::SpoolFull,
            Self::Expired => LossReason::SpoolExpired,
            Self::Damaged => LossReason::SpoolDamaged,
            Self::Failed => LossReason::SpoolFailed,
            Self::Rejected => LossReason::Rejected,
            Self::UncleanEnd => LossReason::UncleanEnd,
        }
    }

    /// Where events are lost for this reason.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Self::Full | Self::Expired | Self::Damaged | Self::Failed => Stage::Spool,
            Self::Rejected => Stage::Sink,
            Self::UncleanEnd => Stage::Pipeline,
        }
    }
}

/// Records that were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its number in the database; 0 while it has none.
    pub id: i64,
    /// The only consumer that lost them; all that had not passed them, otherwise.
    pub consumer: Option<String>,
    pub reason: Reason,
    /// Epoch and first sequence, if known.
    pub begin: Option<(u64, u64)>,
    /// Last sequence, if known.
    pub last: Option<u64>,
    /// `None`: not known.
    pub count: Option<u64>,
    pub from: Time,
    pub to: Time,
}

impl Lost {
    /// Whether both can be told of as one.
    pub(super) fn joins(&self, other: &Self) -> bool {
        self.consumer == other.consumer
            && self.reason == other.reason
            && self.begin.map(|(epoch, _)| epoch) == other.begin.map(|(epoch, _)| epoch)
            && self.count.is_some() == other.count.is_some()
    }

    /// Takes in another that [`joins`](Self::joins): counts add up, spans become one that holds both.
    pub(super) fn join(&mut self, other: &Self) {
        self.count = self
            .count
            .zip(other.count)
            .map(|(one, two)| one.saturating_add(two));
        self.begin = self
            .begin
            .zip(other.begin)
            .map(|((epoch, one), (_, two))| (epoch, one.min(two)));
        self.last = self.last.zip(other.last).map(|(one, two)| one.max(two));
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
    }
}

/// Adds to a list of losses, joined where it can be: the list stays as short as there are kinds.
pub(super) fn add(losses: &mut Vec<Lost>, lost: Lost) {
    match losses.iter_mut().find(|other| other.joins(&lost)) {
        Some(other) => other.join(&lost),
        None => losses.push(lost),
    }
}

const COLUMNS: &str = "id, consumer, reason, epoch, first, last, count, from_time, to_time";

fn read(row: &Row<'_>) -> rusqlite::Result<Lost> {
    let (epoch, first): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
    Ok(Lost {
        id: row.get(0)?,
        consumer: row.get(1)?,
        // A number that is not known is of a later version.
        reason: Reason::from_number(row.get(2)?).unwrap_or(Reason::Failed),
        begin: epoch
            .zip(first)
            .map(|(epoch, first)| (unsigned(epoch), unsigned(first))),
        last: row.get::<_, Option<i64>>(5)?.map(unsigned),
        count: row.get::<_, Option<i64>>(6)?.map(unsigned),
        from: time(row.get(7)?),
        to: time(row.get(8)?),
    })
}

/// Stores a loss, within the caller's transaction.
pub(super) fn store(connection: &Connection, lost: &Lost) -> rusqlite::Result<()> {
    let mut found = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM losses WHERE handed = 0 AND consumer IS ?1 AND reason = ?2 AND epoch IS ?3
             AND (count IS NULL) = ?4 LIMIT 1"
    ))?;
    let epoch = lost.begin.map(|(epoch, _)| signed(epoch));
    let old = found
        .query_row(
            params![
                lost.consumer,
                lost.reason as i64,
                epoch,
                lost.count.is_none()
            ],
            read,
        )
        .optional()?;
    let id = old.as_ref().map(|old| old.id);
    let mut whole = lost.clone();
    if let Some(old) = old {
        whole.join(&old);
    }
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO losses (id, consumer, reason, epoch, first, last, count, from_time, to_time)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            id,
            whole.consumer,
            whole.reason as i64,
            epoch,
            whole.begin.map(|(_, first)| signed(first)),
            whole.last.map(signed),
            whole.count.map(signed),
            nanos(whole.from),
            nanos(whole.to),
        ])?;
    Ok(())
}

/// Losses that were not handed out since the start.
pub(super) fn open(connection: &Connection) -> rusqlite::Result<Vec<Lost>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM losses WHERE handed = 0 ORDER BY id"
        ))?
        .query_map([], read)?
        .collect()
}

/// Its event is under way (`handed`), or was refused in its turn.
pub(super) fn hand(connection: &Connection, id: i64, handed: bool) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE losses SET handed = ?2 WHERE id = ?1")?
        .execute(params![id, handed])?;
    Ok(())
}

/// Its event is durable.
pub(super) fn settle(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM losses WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}
