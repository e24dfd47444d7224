//! The inbox's entries as batches: made once, read by every snapshot, and sealed from.

use super::columns;
use super::error::Result;
use super::pending::Entry;
use super::segment::Segment;
use super::{Inner, State};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
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
}

impl Waiting {
    fn push(&mut self, chunk: Chunk) -> Result<()> {
        if let Some(before) = self.chunks.last_mut()
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
            let chunks = tokio::task::spawn_blocking(move || chunks(&fresh)).await?;
            for chunk in chunks {
                waiting.push(chunk)?;
            }
        }
        Ok(segments)
    }
}

fn chunks(entries: &[Arc<Entry>]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut from = 0;
    let mut events = 0;
    for (at, entry) in entries.iter().enumerate() {
        events += entry.events.len();
        if events >= CHUNK_EVENTS || at + 1 == entries.len() {
            let group = entries.get(from..=at).unwrap_or_default();
            chunks.push(Chunk {
                last: entry.id,
                batch: columns::batch(group.iter().flat_map(|entry| &entry.events)),
            });
            from = at + 1;
            events = 0;
        }
    }
    chunks
}
