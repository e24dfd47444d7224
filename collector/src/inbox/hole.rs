//! What of a source was not received though later events were.

use super::own::Own;
use crate::event::{Event, NoEvent};
use agent_common::event::{Body, Loss, LossDetail, LossReason, LossUnit, LostEvents, Stage, Time};
use rusqlite::{Connection, params};
use std::time::Duration;

/// Most holes that one call tells of.
pub const REPORTED_AT_ONCE: usize = 1_000;

/// Events of one (agent, epoch) that did not arrive, `first` to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub agent: String,
    pub epoch: u64,
    pub first: u64,
    pub last: u64,
    /// When a later event arrived before them, in nanoseconds since the Unix epoch.
    pub since: i64,
    /// An event of the collector tells of it, or of a larger one that it is left of.
    pub told: bool,
}

/// Since when a hole has stood that has stood for `grace`.
pub(super) fn before(grace: Duration) -> i64 {
    let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
    super::now().saturating_sub(grace)
}

/// Those since `before` or longer, the oldest first.
pub(super) fn list(
    connection: &Connection,
    before: i64,
    most: usize,
) -> rusqlite::Result<Vec<Hole>> {
    let holes = read(connection, "1", before, most)?;
    Ok(holes.into_iter().map(|(_, hole)| hole).collect())
}

/// Those of them that were not told of, each with its source.
pub(super) fn untold(connection: &Connection, before: i64) -> rusqlite::Result<Vec<(i64, Hole)>> {
    read(connection, "told = 0", before, REPORTED_AT_ONCE)
}

fn read(
    connection: &Connection,
    which: &str,
    before: i64,
    most: usize,
) -> rusqlite::Result<Vec<(i64, Hole)>> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT source, agent, epoch, gap, first - 1, since, told FROM ranges JOIN sources ON sources.id = source
         WHERE gap < first AND since <= ?1 AND {which} ORDER BY since, source, first LIMIT ?2"
    ))?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    statement
        .query_map(params![before, most], |row| {
            let hole = Hole {
                agent: row.get(1)?,
                epoch: unsigned(row.get(2)?),
                first: unsigned(row.get(3)?),
                last: unsigned(row.get(4)?),
                since: row.get(5)?,
                told: row.get(6)?,
            };
            Ok((row.get(0)?, hole))
        })?
        .collect()
}

/// It is told of, in this transaction.
pub(super) fn told(connection: &Connection, source: i64, hole: &Hole) -> rusqlite::Result<()> {
    let behind = i64::try_from(hole.last).unwrap_or(i64::MAX) + 1;
    connection
        .prepare_cached("UPDATE ranges SET told = 1 WHERE source = ?1 AND first = ?2")?
        .execute(params![source, behind])?;
    Ok(())
}

impl Hole {
    /// As an event of the collector itself.
    pub(super) fn event(&self, own: &mut Own) -> Result<Event, NoEvent> {
        let now = Time::now();
        let loss = LossDetail {
            stage: Stage::Collector,
            probe: None,
            reason: LossReason::NotReceived,
            count: Some(self.last - self.first + 1),
            unit: LossUnit::Events,
            from: Time::from_unix_nanos(self.since.into()).min(now),
            to: now,
            intentional: false,
            events: Some(LostEvents {
                agent: Some(self.agent.as_str().into()),
                epoch: self.epoch,
                first: self.first,
                last: Some(self.last),
            }),
        };
        own.event(now, Body::Loss(Loss { loss }))
    }
}
