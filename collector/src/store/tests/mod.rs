//! The store as a whole: on memory and on a directory, with failing and forgetful disks, killed at any point.

mod cost;
mod crash;
mod faulty;
mod foreign;
mod load;
mod power;
mod whole;

use super::catalog::{Catalog, SqliteCatalog};
use super::columns::Rows;
use super::reader::Reader;
use super::*;
use crate::event::{Event, EventKey};
use bytes::Bytes;
use futures::StreamExt;

/// 2026-11-22 00:00 UTC.
const MIDNIGHT: i64 = 1_795_305_600 * 1_000_000_000;
const MINUTE: i64 = 60 * 1_000_000_000;
const HOUR: i64 = segment::HOUR;

/// An inbox in memory.
#[derive(Default)]
struct Memory {
    entries: Mutex<(i64, Vec<Arc<Entry>>)>,
}

impl Memory {
    fn append(&self, events: Vec<Event>) -> i64 {
        let mut entries = self.entries.lock().unwrap();
        entries.0 += 1;
        let id = entries.0;
        entries.1.push(Arc::new(Entry {
            id,
            received: 0,
            origin: "test".into(),
            events,
        }));
        id
    }
}

impl Pending for Memory {
    fn pending(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().unwrap().1.clone()
    }

    fn remove(&self, through: i64) -> Result<(), PendingError> {
        let mut entries = self.entries.lock().unwrap();
        entries.1.retain(|entry| entry.id > through);
        Ok(())
    }
}

/// A store with what it stands on.
struct Bench {
    /// Holds the files.
    _folder: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
    catalog: Arc<dyn Catalog>,
    inbox: Arc<Memory>,
    store: Store,
}

fn settings() -> Settings {
    Settings {
        part_segments: 4,
        settle: MINUTE,
        ..Settings::default()
    }
}

impl Bench {
    async fn on(objects: Arc<dyn ObjectStore>, folder: tempfile::TempDir) -> Self {
        let catalog: Arc<dyn Catalog> =
            Arc::new(SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap());
        let inbox = Arc::new(Memory::default());
        let store = open(&objects, &catalog, &inbox).await.unwrap();
        Self {
            _folder: folder,
            objects,
            catalog,
            inbox,
            store,
        }
    }

    async fn memory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(Arc::new(object_store::memory::InMemory::new()), folder).await
    }

    async fn directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = Directory::open(&folder.path().join("data")).unwrap();
        Self::on(Arc::new(objects), folder).await
    }

    /// Another start on the same objects, catalog and inbox.
    async fn reopen(&mut self) {
        self.store = open(&self.objects, &self.catalog, &self.inbox)
            .await
            .unwrap();
    }

    async fn objects(&self) -> Vec<String> {
        let list = self.objects.list(None);
        let mut names: Vec<_> = list
            .map(|object| object.unwrap().location.to_string())
            .collect()
            .await;
        names.sort();
        names
    }

    /// The snapshot has `expected`, each once and byte for byte.
    async fn has(&self, expected: &[Event]) {
        let snapshot = self.store.snapshot().await.unwrap();
        same(events_of(&snapshot).await, expected);
    }
}

async fn open(
    objects: &Arc<dyn ObjectStore>,
    catalog: &Arc<dyn Catalog>,
    inbox: &Arc<Memory>,
) -> Result<Store> {
    Store::open(objects.clone(), catalog.clone(), inbox.clone(), settings()).await
}

fn same(mut found: Vec<Event>, expected: &[Event]) {
    let mut expected = expected.to_vec();
    found.sort_by(|one, other| one.key.cmp(&other.key));
    expected.sort_by(|one, other| one.key.cmp(&other.key));
    let keys = |events: &[Event]| -> Vec<EventKey> {
        events.iter().map(|event| event.key.clone()).collect()
    };
    assert_eq!(keys(&found), keys(&expected));
    assert!(found == expected, "the bytes differ");
}

/// Every row of a snapshot as an event.
async fn events_of(snapshot: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    let mut take = |batch: &arrow::array::RecordBatch| {
        let rows = Rows::new(batch);
        for row in 0..batch.num_rows() {
            events.push(Event::parse(Bytes::from(rows.json(row))).unwrap());
        }
    };
    for segment in &snapshot.segments {
        for batch in batches_of(snapshot, segment).await {
            take(&batch);
        }
    }
    for batch in &snapshot.pending {
        take(batch);
    }
    events
}

async fn batches_of(snapshot: &Snapshot, segment: &Segment) -> Vec<arrow::array::RecordBatch> {
    let reader = Reader::open(snapshot.objects.clone(), &segment.facts)
        .await
        .unwrap();
    reader
        .batches(1_000, &columns::schema())
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await
}
