//! Events for months: columns, Parquet segments, the catalog of them.
//!
//! | part | does |
//! |---|---|
//! | [`columns`] | events as columns, and back byte for byte |
//! | [`segment`], `writer`, `reader` | one Parquet file of sorted rows |
//! | [`catalog`] | which segments there are, which hold a fingerprint, up to where the inbox is sealed |
//! | [`Directory`] | a directory as an object store that keeps its promises through power loss |
//! | `seal`, `merge`, `retain` | what waits becomes segments, small ones become large ones, old ones go |
//! | [`Snapshot`] | what a question reads |
//!
//! The order that makes a kill harmless, at any point:
//!
//! 1. *seal*: the objects are written and durable; one transaction of the catalog names them and moves
//!    `sealed_through`; the inbox removes its entries. Killed before the transaction: objects that nobody names, which
//!    the next start deletes. Killed after it: the next start removes from the inbox what `sealed_through` covers.
//! 2. *merge*: the whole is written and durable; one transaction drops the parts and names the whole; the parts'
//!    objects are deleted when no snapshot has them; then the catalog forgets them.
//! 3. *retain*: one transaction drops segments; the rest as in a merge.
//!
//! [`Snapshot`] takes the segments, and the inbox's entries after `sealed_through`, under one lock, which a seal takes
//! to put its segments and its `sealed_through` there before it removes anything from the inbox.
//!
//! Invariant: an event is in exactly one of a snapshot's segments and its pending batches.
//! Invariant: no object is deleted that the catalog has live, or that a living snapshot names.
//! Invariant: no file is touched but through `object_store`.

pub mod catalog;
pub mod columns;
mod directory;
mod error;
mod merge;
mod pending;
mod reader;
mod retain;
mod seal;
pub mod segment;
mod snapshot;
#[cfg(test)]
mod tests;
mod waiting;
mod writer;

pub use directory::{Directory, Force};
pub use error::{Error, Result};
pub use merge::Merged;
pub use pending::{Entry, Pending, PendingError};
pub(crate) use reader::without_values;
pub use retain::{Retained, Retention};
pub use seal::Sealed;
pub use segment::{Level, Segment};
pub use snapshot::Snapshot;
pub use writer::fingerprint_key;

use catalog::{Catalog, CatalogError, Loaded};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use segment::FOLDER;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use waiting::Waiting;

/// How much is done at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Events of one round of a seal; what waits beyond it is sealed in further rounds.
    pub seal_events: usize,
    /// Segments of one hour that are put together while it lasts.
    pub part_segments: usize,
    /// An hour, or a day, counts as over when it has been for so long, in nanoseconds.
    pub settle: i64,
    /// Events of the largest file that merges make, about.
    pub file_events: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seal_events: 256 * 1024,
            part_segments: 16,
            settle: 10 * 60 * 1_000_000_000,
            file_events: 10_000_000,
        }
    }
}

/// See the module. A cheap handle.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    catalog: Arc<dyn Catalog>,
    pending: Arc<dyn Pending>,
    settings: Settings,
    state: Mutex<State>,
    waiting: tokio::sync::Mutex<Waiting>,
    /// Held over a transaction of the catalog and what it changes in the state.
    turn: tokio::sync::Mutex<()>,
    /// One seal at a time.
    sealing: tokio::sync::Mutex<()>,
    /// One merge or retention at a time.
    tidying: tokio::sync::Mutex<()>,
}

/// What the catalog has, as far as it has been told.
#[derive(Default)]
struct State {
    live: BTreeMap<i64, Arc<Segment>>,
    dropped: Vec<Arc<Segment>>,
    sealed_through: i64,
    /// The catalog failed in a way that leaves open what it has.
    doubtful: bool,
}

impl State {
    fn drop_live(&mut self, ids: &[i64]) {
        for id in ids {
            if let Some(segment) = self.live.remove(id) {
                self.dropped.push(segment);
            }
        }
    }
}

impl Store {
    /// Opens the store: finishes what was interrupted, and deletes objects that the catalog does not name.
    ///
    /// Nobody else may write below the objects' [`FOLDER`], and `pending` must be the one that was sealed from before.
    ///
    /// # Errors
    /// Catalog or objects cannot be read, or the inbox cannot remove what is sealed.
    pub async fn open(
        objects: Arc<dyn ObjectStore>,
        catalog: Arc<dyn Catalog>,
        pending: Arc<dyn Pending>,
        settings: Settings,
    ) -> Result<Self> {
        let started = jiff::Timestamp::now().as_millisecond();
        let inner = Arc::new(Inner {
            objects,
            catalog,
            pending,
            settings,
            state: Mutex::default(),
            waiting: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            sealing: tokio::sync::Mutex::default(),
            tidying: tokio::sync::Mutex::default(),
        });
        inner.refresh().await?;
        inner.remove_sealed().await?;
        inner.collect().await?;
        inner.sweep(started).await?;
        Ok(Self { inner })
    }

    /// Live segments, by id.
    #[must_use]
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.inner.state().live.values().cloned().collect()
    }

    /// What a question reads: see [`Snapshot`].
    ///
    /// # Errors
    /// A task of the runtime ended.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        self.inner.snapshot().await
    }

    /// Makes segments of everything that waits. When several seal at once, one waits for the other.
    ///
    /// # Errors
    /// What could not be sealed waits on; nothing is lost or there twice.
    pub async fn seal(&self) -> Result<Sealed> {
        let inner = self.inner.clone();
        // In a task of its own: who asks may stop waiting, and catalog and state must not part then.
        tokio::spawn(async move { inner.seal().await }).await?
    }

    /// Puts small segments together. `now`: nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// The parts stay as they are.
    pub async fn merge(&self, now: i64) -> Result<Merged> {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.merge(now).await }).await?
    }

    /// Drops what is too old or too much. `now`: nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// Some stay that should have gone.
    pub async fn retain(&self, retention: Retention, now: i64) -> Result<Retained> {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.retain(retention, now).await }).await?
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment after another that cannot panic in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction of the catalog, and what it means for the state.
    async fn change<T>(
        &self,
        transaction: impl Future<Output = Result<T, CatalogError>>,
        apply: impl FnOnce(&mut State, T),
    ) -> Result<(), CatalogError> {
        let _turn = self.turn.lock().await;
        let done = transaction.await?;
        apply(&mut self.state(), done);
        Ok(())
    }

    /// Takes over what the catalog has.
    async fn refresh(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let loaded = self.catalog.load().await?;
        let Loaded {
            live,
            dropped,
            sealed_through,
        } = loaded;
        let mut state = self.state();
        // Who holds a segment holds it through its `Arc`: the same ones go on.
        let mut known: BTreeMap<i64, Arc<Segment>> = std::mem::take(&mut state.live);
        for segment in std::mem::take(&mut state.dropped) {
            known.insert(segment.id, segment);
        }
        let mut take =
            |segment: Segment| known.remove(&segment.id).unwrap_or_else(|| segment.into());
        state.live = live
            .into_iter()
            .map(|segment| (segment.id, take(segment)))
            .collect();
        state.dropped = dropped.into_iter().map(take).collect();
        state.sealed_through = sealed_through;
        state.doubtful = false;
        Ok(())
    }

    /// Asks the catalog again, if what it has is in doubt.
    async fn certain(&self) -> Result<()> {
        if self.state().doubtful {
            self.refresh().await?;
        }
        Ok(())
    }

    /// After a failure of the catalog: what it has now, and no objects at `written` if it does not name them.
    async fn undo(&self, written: Vec<Path>) {
        self.state().doubtful = true;
        if let Err(error) = self.refresh().await {
            // The objects stay until the next start; a transaction that was made nevertheless is found by `certain`.
            tracing::warn!(%error, "the catalog cannot be read");
            return;
        }
        for path in written {
            if !self.names(&path) {
                self.delete(&path).await;
            }
        }
    }

    fn names(&self, path: &Path) -> bool {
        let state = self.state();
        let mut all = state.live.values().chain(&state.dropped);
        all.any(|segment| segment.path == *path)
    }

    /// Whether the object is gone.
    async fn delete(&self, path: &Path) -> bool {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => true,
            Err(error) => {
                tracing::warn!(%path, %error, "a segment that is not needed any more cannot be deleted");
                false
            }
        }
    }

    /// Removes from the inbox what is in segments.
    async fn remove_sealed(&self) -> Result<()> {
        let through = self.state().sealed_through;
        let pending = self.pending.clone();
        tokio::task::spawn_blocking(move || pending.remove(through))
            .await?
            .map_err(Error::Pending)
    }

    /// Deletes the objects of dropped segments that nobody reads any more.
    async fn collect(&self) -> Result<()> {
        let free: Vec<Arc<Segment>> = {
            let state = self.state();
            // Snapshots take from the live ones only: what one has here, it keeps.
            let free = state.dropped.iter().filter(|it| Arc::strong_count(it) == 1);
            free.cloned().collect()
        };
        let mut gone = Vec::new();
        for segment in free {
            if self.delete(&segment.path).await {
                gone.push(segment.id);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        // What is not forgotten is deleted once more, which does nothing.
        self.change(self.catalog.forget(gone.clone()), |state, ()| {
            state.dropped.retain(|segment| !gone.contains(&segment.id));
        })
        .await?;
        Ok(())
    }

    /// Deletes objects that the catalog does not name, from before `started` (milliseconds since the Unix epoch).
    async fn sweep(&self, started: i64) -> Result<()> {
        let folder = Path::from(FOLDER);
        let failed = |source| Error::List {
            path: Path::from(FOLDER),
            source,
        };
        let named: HashSet<Path> = {
            let state = self.state();
            let all = state.live.values().chain(&state.dropped);
            all.map(|segment| segment.path.clone()).collect()
        };
        let strangers: Vec<Path> = self
            .objects
            .list(Some(&folder))
            .try_filter(|object| {
                let old = object.last_modified.timestamp_millis() < started;
                std::future::ready(old && !named.contains(&object.location))
            })
            .map(|object| Ok(object?.location))
            .try_collect()
            .await
            .map_err(failed)?;
        for path in &strangers {
            self.delete(path).await;
        }
        if !strangers.is_empty() {
            tracing::info!(
                objects = strangers.len(),
                "objects of interrupted writes were deleted"
            );
        }
        Ok(())
    }
}
