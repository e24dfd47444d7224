//! Objects and a catalog that fail at the nth operation: an answer, and nothing lost or there twice.

use super::load::Load;
use super::*;
use crate::store::catalog::{CatalogError, NewSegment};
use crate::store::segment::Facts;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

/// Operations until one fails; negative: none does.
#[derive(Debug)]
pub struct Fuse(AtomicI64);

impl Fuse {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(-1)))
    }

    fn set(&self, operations: i64) {
        self.0.store(operations, Ordering::SeqCst);
    }

    /// Whether it is this operation that fails.
    fn burns(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == 0
    }

    fn has_burnt(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }
}

/// When an operation fails: before or after it was done.
#[derive(Clone, Copy, Debug)]
enum When {
    Before,
    After,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    fuse: Arc<Fuse>,
    when: When,
}

impl Faulty {
    fn error() -> object_store::Error {
        object_store::Error::Generic {
            store: "faulty",
            source: "no".into(),
        }
    }

    async fn tried<T>(
        &self,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let burns = self.fuse.burns();
        match self.when {
            When::Before if burns => Err(Self::error()),
            When::After if burns => {
                work.await?;
                Err(Self::error())
            }
            _ => work.await,
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.tried(self.inner.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.tried(self.inner.put_multipart_opts(location, options))
            .await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.tried(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        if self.fuse.burns() {
            return futures::stream::once(async { Err(Self::error()) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if self.fuse.burns() {
            return futures::stream::once(async { Err(Self::error()) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct FaultyCatalog {
    inner: SqliteCatalog,
    fuse: Arc<Fuse>,
    when: When,
}

impl FaultyCatalog {
    async fn tried<T>(
        &self,
        work: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        let no = Err(CatalogError::Sqlite(rusqlite::Error::InvalidQuery));
        let burns = self.fuse.burns();
        match self.when {
            When::Before if burns => no,
            When::After if burns => {
                work.await?;
                no
            }
            _ => work.await,
        }
    }
}

#[async_trait]
impl Catalog for FaultyCatalog {
    async fn load(&self) -> Result<catalog::Loaded, CatalogError> {
        self.tried(self.inner.load()).await
    }

    async fn seal(
        &self,
        added: Vec<NewSegment>,
        through: i64,
    ) -> Result<Vec<Segment>, CatalogError> {
        self.tried(self.inner.seal(added, through)).await
    }

    async fn merge(&self, parts: Vec<i64>, whole: Facts) -> Result<Segment, CatalogError> {
        self.tried(self.inner.merge(parts, whole)).await
    }

    async fn drop_segments(&self, ids: Vec<i64>) -> Result<(), CatalogError> {
        self.tried(self.inner.drop_segments(ids)).await
    }

    async fn forget(&self, ids: Vec<i64>) -> Result<(), CatalogError> {
        self.tried(self.inner.forget(ids)).await
    }

    async fn holding(&self, keys: Vec<i64>) -> Result<Vec<i64>, CatalogError> {
        self.tried(self.inner.holding(keys)).await
    }
}

struct Trial {
    bench: Bench,
    objects: Arc<Fuse>,
    catalog: Arc<Fuse>,
}

impl Trial {
    async fn new(when: When) -> Self {
        let (objects, catalog) = (Fuse::new(), Fuse::new());
        let folder = tempfile::tempdir().unwrap();
        let faulty: Arc<dyn ObjectStore> = Arc::new(Faulty {
            inner: InMemory::new(),
            fuse: objects.clone(),
            when,
        });
        let inner = SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap();
        let faulty_catalog: Arc<dyn Catalog> = Arc::new(FaultyCatalog {
            inner,
            fuse: catalog.clone(),
            when,
        });
        let inbox = Arc::new(Memory::default());
        let store = open(&faulty, &faulty_catalog, &inbox).await.unwrap();
        let bench = Bench {
            _folder: folder,
            objects: faulty,
            catalog: faulty_catalog,
            inbox,
            store,
        };
        Self {
            bench,
            objects,
            catalog,
        }
    }

    /// Seals and merges with the fuse at `operations`; everything is there before and after a healthy second try.
    /// Returns whether the fuse burnt.
    async fn run(
        &self,
        fuse: &Fuse,
        operations: i64,
        load: &mut Load,
        all: &mut Vec<Event>,
    ) -> bool {
        let bench = &self.bench;
        for part in 0..4 {
            let events = load.events(12);
            all.extend(events.clone());
            bench.inbox.append(events);
            if part < 3 {
                bench.store.seal().await.unwrap();
            }
        }
        let now = load.now + 2 * HOUR;
        fuse.set(operations);
        let failed = bench.store.seal().await.is_err() | bench.store.merge(now).await.is_err();
        let burnt = fuse.has_burnt();
        fuse.set(-1);
        bench.has(all).await;
        // Deleting too late is no failure.
        assert!(burnt || !failed);
        bench.store.seal().await.unwrap();
        bench.store.merge(now).await.unwrap();
        assert!(bench.inbox.pending().is_empty());
        bench.has(all).await;
        // Nothing is left behind.
        let live = bench.store.segments();
        let mut names: Vec<_> = live.iter().map(|it| it.path.to_string()).collect();
        names.sort();
        assert_eq!(bench.objects().await, names, "at operation {operations}");
        burnt
    }
}

#[tokio::test]
async fn objects_fail() {
    for when in [When::Before, When::After] {
        let trial = Trial::new(when).await;
        let mut load = Load::new(11, 3, 10, MIDNIGHT, 1_000_000);
        let mut all = Vec::new();
        let mut burnt = 0;
        for operations in [0, 1, 2, 3, 5, 8, 13, 14, 15, 16] {
            let fuse = &trial.objects;
            burnt += u32::from(trial.run(fuse, operations, &mut load, &mut all).await);
        }
        assert!(burnt > 4, "{burnt} failures");
    }
}

#[tokio::test]
async fn the_catalog_fails_before_and_after_it_has_done_it() {
    for when in [When::Before, When::After] {
        let trial = Trial::new(when).await;
        let mut load = Load::new(12, 3, 10, MIDNIGHT, 1_000_000);
        let mut all = Vec::new();
        let mut burnt = 0;
        for operations in [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2] {
            let fuse = &trial.catalog;
            burnt += u32::from(trial.run(fuse, operations, &mut load, &mut all).await);
        }
        assert!(burnt > 4, "{burnt} failures");
    }
}

#[tokio::test]
async fn an_inbox_that_cannot_remove_is_asked_again() {
    struct Stubborn(Memory, Fuse);
    impl Pending for Stubborn {
        fn pending(&self) -> Vec<Arc<Entry>> {
            self.0.pending()
        }

        fn remove(&self, through: i64) -> Result<(), PendingError> {
            if self.1.burns() {
                return Err("the disk is full".into());
            }
            self.0.remove(through)
        }
    }
    let bench = Bench::memory().await;
    let inbox = Arc::new(Stubborn(Memory::default(), Fuse(AtomicI64::new(-1))));
    let (objects, catalog) = (bench.objects.clone(), bench.catalog.clone());
    let store = Store::open(objects, catalog, inbox.clone(), settings())
        .await
        .unwrap();
    let all = Load::new(1, 2, 5, MIDNIGHT, 1_000).events(9);
    inbox.0.append(all.clone());
    inbox.1.set(0);
    assert!(matches!(store.seal().await, Err(Error::Pending(_))));
    assert_eq!(inbox.pending().len(), 1);
    same(events_of(&store.snapshot().await.unwrap()).await, &all);
    store.seal().await.unwrap();
    assert!(inbox.pending().is_empty());
    same(events_of(&store.snapshot().await.unwrap()).await, &all);
}
