//! What waits in the inbox becomes segments, one per hour.

use super::Inner;
use super::catalog::NewSegment;
use super::columns::FINGERPRINT;
use super::error::{Error, Result};
use super::segment::{HOUR, Level};
use super::waiting::Chunk;
use super::writer::{PAGE_ROWS, Writer, Written, times};
use crate::processors;
use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use arrow::compute::interleave_record_batch;
use futures::{StreamExt, stream};
use object_store::ObjectStore;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Hours that get a segment of their own in one round; events of further ones share a [`Level::Mixed`] one, so that a
/// host with a wild clock does not make thousands of files.
const WINDOWS: usize = 24;

/// What a seal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    pub events: u64,
    pub segments: u64,
    pub bytes: u64,
}

impl Inner {
    pub(super) async fn seal(self: Arc<Self>) -> Result<Sealed> {
        let _one = self.sealing.lock().await;
        self.certain().await?;
        let mut sealed = Sealed::default();
        loop {
            let through = self.state().sealed_through;
            // An earlier seal may have failed to.
            if self
                .pending
                .pending()
                .first()
                .is_some_and(|entry| entry.id <= through)
            {
                self.remove_sealed().await?;
            }
            let chunks = self.next_round().await?;
            let Some(last) = chunks.last().map(|chunk| chunk.last) else {
                break;
            };
            let written = self.write_windows(chunks).await?;
            for Written { facts, .. } in &written {
                sealed.events += facts.rows;
                sealed.segments += 1;
                sealed.bytes += facts.bytes;
            }
            let paths = written.iter().map(|it| it.facts.path.clone()).collect();
            let added = written
                .into_iter()
                .map(|Written { facts, keys }| NewSegment { facts, keys })
                .collect();
            let done = self
                .change(self.catalog.seal(added, last), |state, segments| {
                    for segment in segments {
                        state.live.insert(segment.id, segment.into());
                    }
                    state.sealed_through = last;
                })
                .await;
            if let Err(error) = done {
                self.undo(paths).await;
                return Err(error.into());
            }
            self.remove_sealed().await?;
        }
        self.collect().await?;
        Ok(sealed)
    }

    /// Whole chunks from the front, of about as many events as one round has.
    async fn next_round(&self) -> Result<Vec<Chunk>> {
        let mut waiting = self.waiting.lock().await;
        self.bring_up(&mut waiting).await?;
        Ok(waiting.round(self.settings.seal_events))
    }

    /// As many windows at once as there are processors.
    async fn write_windows(&self, chunks: Vec<Chunk>) -> Result<Vec<Written>> {
        let batches: Arc<[RecordBatch]> = chunks.into_iter().map(|chunk| chunk.batch).collect();
        let sealed = now();
        let all: Vec<Result<Written>> = stream::iter(windows(&batches))
            .map(|window| {
                let (objects, batches) = (self.objects.clone(), batches.clone());
                let runtime = Handle::current();
                // Sorting and encoding would keep a thread of the runtime from everything else.
                tokio::task::spawn_blocking(move || {
                    runtime.block_on(write(&objects, &batches, &window, sealed))
                })
            })
            .buffered(processors())
            .map(|joined| joined?)
            .collect()
            .await;
        let mut failed = None;
        let mut written = Vec::new();
        for one in all {
            match one {
                Ok(one) => written.push(one),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(written),
            Some(error) => {
                for Written { facts, .. } in written {
                    self.delete(&facts.path).await;
                }
                Err(error)
            }
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Rows of one hour, or of several.
struct Window {
    hour: i64,
    level: Level,
    /// Batch and row.
    rows: Vec<(usize, usize)>,
}

fn windows(batches: &[RecordBatch]) -> Vec<Window> {
    let mut hours: HashMap<i64, Vec<(usize, usize)>> = HashMap::new();
    for (at, batch) in batches.iter().enumerate() {
        for (row, time) in times(batch).into_iter().enumerate() {
            let hour = time.unwrap_or_default().div_euclid(HOUR);
            hours.entry(hour).or_default().push((at, row));
        }
    }
    let mut windows: Vec<_> = hours
        .into_iter()
        .map(|(hour, rows)| Window {
            hour,
            level: Level::Sealed,
            rows,
        })
        .collect();
    windows.sort_unstable_by_key(|window| (std::cmp::Reverse(window.rows.len()), window.hour));
    let strays = windows.split_off(windows.len().min(WINDOWS));
    if let Some(hour) = strays.iter().map(|window| window.hour).min() {
        windows.push(Window {
            hour,
            level: Level::Mixed,
            rows: strays.into_iter().flat_map(|window| window.rows).collect(),
        });
    }
    windows
}

/// Fingerprint and time of each row of a batch.
struct Keys<'a> {
    fingerprints: Option<&'a StringViewArray>,
    times: Vec<Option<i64>>,
}

impl<'a> Keys<'a> {
    fn new(batch: &'a RecordBatch) -> Self {
        Self {
            fingerprints: batch
                .column_by_name(FINGERPRINT)
                .map(|array| array.as_string_view()),
            times: times(batch),
        }
    }

    fn of(&self, row: usize) -> (Option<&'a str>, Option<i64>) {
        let fingerprint = self
            .fingerprints
            .and_then(|array| array.is_valid(row).then(|| array.value(row)));
        (fingerprint, self.times.get(row).copied().flatten())
    }
}

async fn write(
    objects: &Arc<dyn ObjectStore>,
    batches: &[RecordBatch],
    window: &Window,
    sealed: i64,
) -> Result<Written> {
    let keys: Vec<_> = batches.iter().map(Keys::new).collect();
    let key = |&(batch, row): &(usize, usize)| keys.get(batch).map(|keys| keys.of(row));
    let mut rows = window.rows.clone();
    rows.sort_by(|one, other| key(one).cmp(&key(other)));
    let batches: Vec<_> = batches.iter().collect();
    let mut writer = Writer::new(objects.clone(), window.level, window.hour)?;
    for rows in rows.chunks(PAGE_ROWS) {
        let wrote = match interleave_record_batch(&batches, rows) {
            Ok(batch) => writer.write(&batch).await,
            Err(error) => Err(Error::Arrow(error)),
        };
        if let Err(error) = wrote {
            writer.abandon().await;
            return Err(error);
        }
    }
    writer.finish(window.hour, sealed).await
}
