//! Events that a query takes, in the order of time, by pages.

use super::choose::Chosen;
use super::cursor::{Cursor, KEY};
use super::{Engine, SearchError};
use crate::event::Event;
use crate::search::language::Query;
use crate::search::plan;
use crate::store::Snapshot;
use crate::store::columns::Rows;
use bytes::Bytes;
use datafusion::logical_expr::SortExpr;
use datafusion::prelude::DataFrame;
use serde::{Deserialize, Serialize};

/// Which way a page goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The newest event first.
    #[default]
    Newest,
    /// The oldest event first.
    Oldest,
}

/// A search.
#[derive(Clone, Debug)]
pub struct SearchQuestion {
    pub query: Query,
    pub order: Order,
    /// Events of the page.
    pub limit: usize,
    /// Of the page before.
    pub cursor: Option<String>,
    /// Also if more rows are read than may be.
    pub force: bool,
    /// Nanoseconds since the Unix epoch; a cursor brings the one of its first page.
    pub now: i64,
}

/// A page of events.
#[derive(Debug)]
pub struct Page {
    /// Canonical JSON.
    pub events: Vec<Bytes>,
    /// Of the next page; `None` if this is the last.
    pub cursor: Option<String>,
    /// Rows of the files and batches that were looked at, at most.
    pub rows: u64,
}

impl Engine {
    /// # Errors
    /// See [`SearchError`].
    pub async fn search(&self, question: &SearchQuestion) -> Result<Page, SearchError> {
        self.within(async {
            let snapshot = self.snapshot().await?;
            self.page(&snapshot, question).await
        })
        .await
    }

    pub(super) async fn page(
        &self,
        snapshot: &Snapshot,
        question: &SearchQuestion,
    ) -> Result<Page, SearchError> {
        let limit = self.page_size("limit", question.limit)?;
        let Planned { chosen, frame, now } = self.planned(snapshot, question).await?;
        self.admit(&chosen, question.force)?;
        let batches = self.collect(frame).await?;
        let mut events = Vec::new();
        let mut cursor = None;
        for batch in &batches {
            let rows = Rows::new(batch);
            let room = limit - events.len();
            let taken = (0..batch.num_rows().min(room)).map(|row| Bytes::from(rows.json(row)));
            events.extend(taken);
            if batch.num_rows() > room {
                cursor = Some(());
                break;
            }
        }
        let cursor = match (cursor, events.last()) {
            (Some(()), Some(last)) => {
                let last = Event::parse(last.clone())
                    .map_err(|error| SearchError::Store(format!("a stored event: {error}")))?;
                let Event { key, time, .. } = last;
                Some(Cursor::new(&key, time, now, &question.query, question.order).write())
            }
            _ => None,
        };
        Ok(Page {
            events,
            cursor,
            rows: chosen.rows(),
        })
    }

    /// The plan of one page, and one event more, which tells whether there is another page.
    pub(super) async fn planned(
        &self,
        snapshot: &Snapshot,
        question: &SearchQuestion,
    ) -> Result<Planned, SearchError> {
        let SearchQuestion { query, order, .. } = question;
        let cursor = question
            .cursor
            .as_deref()
            .map(|text| Cursor::read(text, query, *order))
            .transpose()?;
        let now = cursor.as_ref().map_or(question.now, |cursor| cursor.now);
        let mut chosen = self.choose(snapshot, query, now).await?;
        if let Some(cursor) = &cursor {
            let before = chosen.segments.len();
            chosen.segments.retain(|segment| match order {
                Order::Newest => segment.min_time <= cursor.time,
                Order::Oldest => segment.max_time >= cursor.time,
            });
            chosen.by_time += before - chosen.segments.len();
        }
        if *order == Order::Oldest {
            chosen
                .segments
                .sort_by_key(|segment| (segment.min_time, segment.id));
        }
        let mut frame = self.filtered(snapshot, &chosen, query, now)?;
        let failed = |error| self.failed(error);
        if let Some(cursor) = cursor {
            frame = frame.filter(cursor.behind(*order)).map_err(failed)?;
        }
        let ascending = *order == Order::Oldest;
        let by: Vec<SortExpr> = KEY
            .iter()
            .map(|name| plan::column(name).sort(ascending, false))
            .collect();
        let frame = frame
            .sort(by)
            .and_then(|frame| frame.limit(0, Some(question.limit.saturating_add(1))))
            .map_err(failed)?;
        Ok(Planned { chosen, frame, now })
    }

    /// The chosen rows that the query takes. Where no list has a needed fingerprint, lists are not looked into: the
    /// files' pages can be told by their first and last fingerprint then.
    pub(super) fn filtered(
        &self,
        snapshot: &Snapshot,
        chosen: &Chosen,
        query: &Query,
        now: i64,
    ) -> Result<DataFrame, SearchError> {
        let (alone, others): (Vec<_>, Vec<_>) = chosen
            .segments
            .iter()
            .cloned()
            .partition(|segment| chosen.alone.contains(&segment.id));
        let context = self.context(snapshot);
        let frame = |segments, pending, filter| {
            context
                .read_table(self.table(segments, pending, snapshot.objects.clone()))
                .and_then(|frame| frame.filter(filter))
        };
        let whole = plan::filter(query, now);
        let read = if alone.is_empty() {
            frame(others, snapshot.pending.clone(), whole)
        } else {
            let needed = plan::fingerprints(query).unwrap_or_default();
            let found = frame(alone, Vec::new(), plan::filter_alone(query, now, &needed));
            if others.is_empty() && snapshot.pending.is_empty() {
                found
            } else {
                let rest = frame(others, snapshot.pending.clone(), whole);
                found.and_then(|found| found.union(rest?))
            }
        };
        read.map_err(|error| self.failed(error))
    }
}

pub(super) struct Planned {
    pub(super) chosen: Chosen,
    pub(super) frame: DataFrame,
    pub(super) now: i64,
}
