//! Old segments go, whole, and it is said.

use super::Inner;
use super::error::Result;
use super::segment::Segment;
use std::sync::Arc;

/// Nanoseconds of a day.
const DAY: i64 = 24 * 3_600 * 1_000_000_000;

/// How much is kept. The default keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Nanoseconds since the last event of a segment.
    pub age: Option<i64>,
    /// Bytes of all segments together.
    pub bytes: Option<u64>,
}

/// What a retention dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments that were too old.
    pub aged: Vec<Arc<Segment>>,
    /// Segments that were the oldest when all together were too large.
    pub crowded: Vec<Arc<Segment>>,
}

impl Inner {
    pub(super) async fn retain(&self, retention: Retention, now: i64) -> Result<Retained> {
        let _one = self.tidying.lock().await;
        self.certain().await?;
        let live = self.state().live.values().cloned().collect();
        let retained = choose(live, retention, now);
        let ids: Vec<_> = retained
            .aged
            .iter()
            .chain(&retained.crowded)
            .map(|segment| segment.id)
            .collect();
        if !ids.is_empty() {
            let done = self
                .change(self.catalog.drop_segments(ids.clone()), |state, ()| {
                    state.drop_live(&ids);
                })
                .await;
            if let Err(error) = done {
                self.undo(Vec::new()).await;
                return Err(error.into());
            }
        }
        for (reason, segments) in [("age", &retained.aged), ("size", &retained.crowded)] {
            for segment in segments {
                tracing::info!(
                    reason,
                    path = %segment.path,
                    events = segment.rows,
                    bytes = segment.bytes,
                    "retention drops a segment"
                );
            }
        }
        // Copies of the `Arc`s would keep the objects.
        let facts = |segments: &[Arc<Segment>]| -> Vec<Arc<Segment>> {
            segments
                .iter()
                .map(|segment| Arc::new(Segment::clone(segment)))
                .collect()
        };
        let said = Retained {
            aged: facts(&retained.aged),
            crowded: facts(&retained.crowded),
        };
        drop(retained);
        self.collect().await?;
        Ok(said)
    }
}

fn choose(mut live: Vec<Arc<Segment>>, retention: Retention, now: i64) -> Retained {
    // Oldest first.
    live.sort_by_key(|segment| (segment.end(), segment.id));
    let mut retained = Retained::default();
    if let Some(age) = retention.age {
        let begin = now.saturating_sub(age);
        // What a host with a slow clock has sent just now is not thrown away just now.
        let fresh = now.saturating_sub(age.min(DAY));
        (retained.aged, live) = live
            .into_iter()
            .partition(|segment| segment.end() < begin && segment.sealed < fresh);
    }
    if let Some(most) = retention.bytes {
        let mut bytes: u64 = live.iter().map(|segment| segment.bytes).sum();
        for segment in live {
            if bytes <= most {
                break;
            }
            bytes -= segment.bytes;
            retained.crowded.push(segment);
        }
    }
    retained
}
