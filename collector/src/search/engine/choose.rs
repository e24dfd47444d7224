//! Which segments a question has to read.
//!
//! Invariant: a segment with an event that the query takes is never left out.

use super::{Engine, SearchError};
use crate::search::language::Query;
use crate::search::plan;
use crate::store::{Segment, Snapshot};
use std::collections::HashSet;
use std::sync::Arc;

/// What is read of a snapshot.
pub struct Chosen {
    /// The newest first.
    pub segments: Vec<Arc<Segment>>,
    /// Of the snapshot.
    pub segments_of: usize,
    /// Left out because all of it is earlier or later.
    pub by_time: usize,
    /// Left out because the catalog knows that no such fingerprint is in it.
    pub by_fingerprint: usize,
    pub pending_rows: u64,
    /// Ids of the segments in which every fingerprint that the query needs stands alone, in no list.
    pub alone: HashSet<i64>,
}

impl Chosen {
    /// Rows of all that is read: at most as many are looked at.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let sealed = self.segments.iter().map(|segment| segment.rows);
        sealed.sum::<u64>() + self.pending_rows
    }
}

impl Engine {
    pub(super) async fn choose(
        &self,
        snapshot: &Snapshot,
        query: &Query,
        now: i64,
    ) -> Result<Chosen, SearchError> {
        let (low, high) = plan::bounds(query, now);
        let in_time = |segment: &&Arc<Segment>| segment.max_time >= low && segment.min_time <= high;
        let all = &snapshot.segments;
        let mut segments: Vec<Arc<Segment>> = all.iter().filter(in_time).cloned().collect();
        let by_time = all.len() - segments.len();
        let mut alone = HashSet::new();
        if let Some(needed) = plan::fingerprints(query)
            && !segments.is_empty()
        {
            let needed: Vec<&str> = needed.into_iter().collect();
            let holding = snapshot.holding(&needed).await;
            let holding = holding.map_err(|error| SearchError::Store(error.to_string()))?;
            let ids: HashSet<i64> = holding.iter().map(|segment| segment.id).collect();
            segments.retain(|segment| ids.contains(&segment.id));
            let listing = snapshot.listing(&needed).await;
            let listing = listing.map_err(|error| SearchError::Store(error.to_string()))?;
            alone = ids;
            for segment in listing {
                alone.remove(&segment.id);
            }
        }
        let by_fingerprint = all.len() - by_time - segments.len();
        segments.sort_by_key(|segment| std::cmp::Reverse((segment.max_time, segment.id)));
        let pending = snapshot.pending.iter().map(|batch| batch.num_rows() as u64);
        Ok(Chosen {
            segments,
            segments_of: all.len(),
            by_time,
            by_fingerprint,
            pending_rows: pending.sum(),
            alone,
        })
    }

    /// Refuses what would read too much.
    pub(super) fn admit(&self, chosen: &Chosen, force: bool) -> Result<(), SearchError> {
        let (rows, most) = (chosen.rows(), self.limits.rows);
        if rows > most && !force {
            return Err(SearchError::TooMuch { rows, most });
        }
        Ok(())
    }
}
