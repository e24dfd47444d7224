//! The inbox's entries as batches: made once, read by every snapshot, and sealed from.
//!
//! Invariant: a batch that a seal has taken is never extended: what is sealed of it is all of it.

use super::columns;
use super::error::Result;
use super::pending::Entry;
use super::segment::Segment;
use super::{Inner, State};
use crate::processors;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::{StreamExt, stream};
use std::sync::Arc;

/// Events of one batch, about: an entry is not split.
const CHUNK_EVENTS: usize = 16 * 1024;
/// A batch that is smaller takes further entries.
const SMALL_CHUNK: usize = 2 * 1024;

/// Consecutive entries.
#[derive(Clone)]
pub(super) struct Chunk {
    /// The id of its last entry.
    pub last: i64,
    pub batch: RecordBatch,
}

/// See the module. Ascending; a seal takes whole chunks from the front, so that none is sealed in part.
#[derive(Default)]
pub(super) struct Waiting {
    pub chunks: Vec<Chunk>,
    /// Chunks up to this entry are, or were, being sealed.
    taken: i64,
}

impl Waiting {
    /// Whole chunks from the front, of about `most` events, to be sealed.
    pub(super) fn round(&mut self, most: usize) -> Vec<Chunk> {
        let mut events = 0;
        let round = self.chunks.iter().take_while(|chunk| {
            let first = events == 0;
            events += chunk.batch.num_rows();
            first || events <= most
        });
        let round: Vec<Chunk> = round.cloned().collect();
        self.taken = round.last().map_or(self.taken, |chunk| chunk.last);
        round
    }

    fn push(&mut self, chunk: Chunk) -> Result<()> {
        if let Some(before) = self.chunks.last_mut()
            && before.last > self.taken
            && before.batch.num_rows() + chunk.batch.num_rows() <= SMALL_CHUNK
        {
            before.batch = concat_batches(&columns::schema(), [&before.batch, &chunk.batch])?;
            before.last = chunk.last;
        } else {
            self.chunks.push(chunk);
        }
        Ok(())
    }
}

impl Inner {
    /// Brings `waiting` up to now. Returns the segments that hold everything before it.
    pub(super) async fn bring_up(&self, waiting: &mut Waiting) -> Result<Vec<Arc<Segment>>> {
        let (segments, through, entries) = {
            let State {
                live,
                sealed_through,
                ..
            } = &*self.state();
            // Within the lock: a seal moves `sealed_through` first, and removes entries afterwards.
            let segments = live.values().cloned().collect();
            (segments, *sealed_through, self.pending.pending())
        };
        waiting.chunks.retain(|chunk| chunk.last > through);
        let known = waiting.chunks.last().map_or(through, |chunk| chunk.last);
        let fresh: Vec<Arc<Entry>> = entries
            .into_iter()
            .filter(|entry| entry.id > known)
            .collect();
        if !fresh.is_empty() {
            let mut chunks = stream::iter(groups(fresh))
                .map(|group| tokio::task::spawn_blocking(move || chunk(&group)))
                .buffered(processors());
            while let Some(chunk) = chunks.next().await {
                waiting.push(chunk?)?;
            }
        }
        Ok(segments)
    }
}

/// Consecutive entries, of about [`CHUNK_EVENTS`].
fn groups(entries: Vec<Arc<Entry>>) -> Vec<Vec<Arc<Entry>>> {
    let mut groups: Vec<Vec<_>> = Vec::new();
    let mut events = CHUNK_EVENTS;
    for entry in entries {
        if events >= CHUNK_EVENTS {
            groups.push(Vec::new());
            events = 0;
        }
        events += entry.events.len();
        if let Some(group) = groups.last_mut() {
            group.push(entry);
        }
    }
    groups
}

fn chunk(entries: &[Arc<Entry>]) -> Chunk {
    Chunk {
        last: entries.last().map_or(0, |entry| entry.id),
        batch: columns::batch(entries.iter().flat_map(|entry| &entry.events)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::tests::event;

    fn chunk(id: i64) -> Chunk {
        let events = [event("a", 1, id.unsigned_abs())];
        Chunk {
            last: id,
            batch: columns::batch(events.iter()),
        }
    }

    #[test]
    fn what_a_seal_has_taken_is_not_extended() {
        let mut waiting = Waiting::default();
        waiting.push(chunk(1)).unwrap();
        waiting.push(chunk(2)).unwrap();
        let round = waiting.round(100);
        assert_eq!((round.len(), round[0].last), (1, 2));
        // Asked for while the seal writes: what came meanwhile stands beside it, and is all that stays.
        waiting.push(chunk(3)).unwrap();
        waiting.push(chunk(4)).unwrap();
        waiting.chunks.retain(|chunk| chunk.last > 2);
        let rows: Vec<_> = waiting
            .chunks
            .iter()
            .map(|chunk| (chunk.last, chunk.batch.num_rows()))
            .collect();
        assert_eq!(rows, [(4, 2)]);
    }
}
