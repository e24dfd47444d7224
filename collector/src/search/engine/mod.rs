//! The questions, each over one snapshot.
//!
//! A question goes the same way each time: take a snapshot; choose its segments by the query's span of time and, where
//! every hit must have a fingerprint, by the catalog ([`choose`]); refuse if more rows would be read than may be; make
//! the plan over one table of segments and pending batches ([`table`]); run it with its own memory pool and deadline.
//!
//! Design: one runtime of DataFusion for the process holds the cache of Parquet footers, which never go stale: a
//! segment's path is never used again. Spilling to disk is off: a question that outgrows its memory is told so.
//!
//! Invariant: every answer counts each event once, whatever is sealed or merged meanwhile: a question asks for one
//! snapshot, and holds it until it is answered.
//! Invariant: no question runs longer, or in more memory, than [`Limits`] say.

mod choose;
mod cursor;
mod explain;
#[cfg(test)]
mod oracle;
mod search;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod trail;

pub use choose::Chosen;
pub use cursor::InvalidCursor;
pub use explain::{Explanation, ReadFile};
pub use search::{Order, Page, SearchQuestion};
pub use stats::{Counted, Counts, StatsQuestion};
pub use trail::{FACETS, FINGERPRINTS_MAX, Facet, FacetRow, Trail, TrailQuestion};

use super::language::QueryError;
use crate::store::{Snapshot, Store};
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// Where snapshots come from: the store.
#[async_trait]
pub trait Source: Send + Sync {
    /// Each event is once in it.
    ///
    /// # Errors
    /// Text for the log and the administrator.
    async fn snapshot(&self) -> Result<Snapshot, String>;
}

#[async_trait]
impl Source for Store {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        Self::snapshot(self)
            .await
            .map_err(|error| error.to_string())
    }
}

/// What one question may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub time: Duration,
    /// Bytes that its plan may hold.
    pub memory: usize,
    /// Rows that are read without being forced to.
    pub rows: u64,
    /// Events of a page, and rows of a count.
    pub page: usize,
    /// Files read at a time.
    pub parallel: NonZeroUsize,
    /// Bytes of Parquet footers that are kept for all questions.
    pub footers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            memory: 512 * 1024 * 1024,
            rows: 200_000_000,
            page: 10_000,
            parallel: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            footers: 256 * 1024 * 1024,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    #[error("{name} is {value}: {expected}")]
    Argument {
        name: &'static str,
        value: String,
        expected: String,
    },
    #[error(
        "up to {rows} events would be read, and at most {most} are without `force`: a shorter time (`since:1h`) or a fingerprint narrows it"
    )]
    TooMuch { rows: u64, most: u64 },
    #[error("not answered within {} s: ask for a shorter time, or for fewer groups", .0.as_secs_f64())]
    Time(Duration),
    #[error(
        "more than {0} bytes of memory would be needed: ask for a shorter time, or for fewer groups"
    )]
    Memory(usize),
    /// Not the asker's fault; the text is for the log.
    #[error("the store could not be read: {0}")]
    Store(String),
}

/// See the module. Cheap to share behind an `Arc`.
pub struct Engine {
    source: Arc<dyn Source>,
    limits: Limits,
    /// Holds the footers; questions have memory pools of their own.
    shared: RuntimeEnv,
    url: ObjectStoreUrl,
}

impl Engine {
    /// # Errors
    /// If the query engine refuses its settings.
    pub fn new(source: Arc<dyn Source>, limits: Limits) -> Result<Self, SearchError> {
        let store = |error: DataFusionError| SearchError::Store(error.to_string());
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let shared = RuntimeEnvBuilder::new()
            .with_metadata_cache_limit(limits.footers)
            .with_disk_manager_builder(disk)
            .build()
            .map_err(store)?;
        let url = ObjectStoreUrl::parse("tokentrail://segments/").map_err(store)?;
        Ok(Self {
            source,
            limits,
            shared,
            url,
        })
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    async fn snapshot(&self) -> Result<Snapshot, SearchError> {
        self.source.snapshot().await.map_err(SearchError::Store)
    }

    /// For one question: its own memory, the shared footers.
    fn context(&self, snapshot: &Snapshot) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.limits.parallel.get())
            .with_information_schema(false);
        let parquet = &mut config.options_mut().execution.parquet;
        parquet.pushdown_filters = true;
        parquet.reorder_filters = true;
        parquet.bloom_filter_on_read = true;
        let pool =
            TrackConsumersPool::new(GreedyMemoryPool::new(self.limits.memory), NonZeroUsize::MIN);
        let runtime = RuntimeEnv {
            memory_pool: Arc::new(pool),
            // Stores of other questions' snapshots stay out of this one.
            object_store_registry: Arc::new(DefaultObjectStoreRegistry::new()),
            ..self.shared.clone()
        };
        runtime.register_object_store(self.url.as_ref(), Arc::clone(&snapshot.objects));
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::new(runtime))
            .with_default_features()
            .build();
        SessionContext::new_with_state(state)
    }

    /// Gives `work` the question's time.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, SearchError>>,
    ) -> Result<T, SearchError> {
        tokio::time::timeout(self.limits.time, work)
            .await
            .map_err(|_| SearchError::Time(self.limits.time))?
    }

    async fn collect(
        &self,
        frame: DataFrame,
    ) -> Result<Vec<arrow::array::RecordBatch>, SearchError> {
        frame.collect().await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: DataFusionError) -> SearchError {
        let root = error.find_root();
        if matches!(root, DataFusionError::ResourcesExhausted(_)) {
            return SearchError::Memory(self.limits.memory);
        }
        SearchError::Store(error.strip_backtrace())
    }

    fn page_size(&self, name: &'static str, size: usize) -> Result<usize, SearchError> {
        if (1..=self.limits.page).contains(&size) {
            return Ok(size);
        }
        Err(SearchError::Argument {
            name,
            value: size.to_string(),
            expected: format!("1 to {}", self.limits.page),
        })
    }
}

/// Now, in nanoseconds since the Unix epoch.
#[must_use]
pub fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
