//! What a question reads.

use super::Inner;
use super::catalog::Catalog;
use super::error::Result;
use super::segment::Segment;
use super::writer::{fingerprint_key, listed_key};
use arrow::array::RecordBatch;
use object_store::ObjectStore;
use std::sync::Arc;

/// All events at one moment, each once. The objects that it names stay while it lives.
#[derive(Clone)]
pub struct Snapshot {
    pub segments: Vec<Arc<Segment>>,
    /// What is not sealed yet, of [`super::columns::schema`], in the order of arrival.
    pub pending: Vec<RecordBatch>,
    /// Where the segments' objects are.
    pub objects: Arc<dyn ObjectStore>,
    pub catalog: Arc<dyn Catalog>,
}

impl Snapshot {
    /// Those of the segments that may hold events of these fingerprints, whatever key they were made with.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn holding(&self, fingerprints: &[impl AsRef<str>]) -> Result<Vec<Arc<Segment>>> {
        self.named(fingerprints, fingerprint_key).await
    }

    /// Those that may hold one of them in a list, beside the fingerprint under another key.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn listing(&self, fingerprints: &[impl AsRef<str>]) -> Result<Vec<Arc<Segment>>> {
        self.named(fingerprints, listed_key).await
    }

    async fn named(
        &self,
        fingerprints: &[impl AsRef<str>],
        key: fn(&str) -> i64,
    ) -> Result<Vec<Arc<Segment>>> {
        let keys = fingerprints
            .iter()
            .map(|fingerprint| key(fingerprint.as_ref()))
            .collect();
        let ids = self.catalog.holding(keys).await?;
        let named = |segment: &&Arc<Segment>| ids.binary_search(&segment.id).is_ok();
        Ok(self.segments.iter().filter(named).cloned().collect())
    }
}

impl Inner {
    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        let mut waiting = self.waiting.lock().await;
        let segments = self.bring_up(&mut waiting).await?;
        Ok(Snapshot {
            segments,
            pending: waiting
                .chunks
                .iter()
                .map(|chunk| chunk.batch.clone())
                .collect(),
            objects: self.objects.clone(),
            catalog: self.catalog.clone(),
        })
    }
}
