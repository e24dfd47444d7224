//! What lies in a data folder, read without the collector: the catalog's segments, and the inbox behind them.
//!
//! The databases are copied first, so that the collector itself finds them as it was killed.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokentrail::event::EventKey;
use tokentrail::inbox::{Inbox, Limits};
use tokentrail::store::catalog::{Catalog, Loaded, SqliteCatalog};
use tokio::runtime::Runtime;

/// Segments never change: what was read of one is kept, by its path.
#[derive(Default)]
pub struct Reader {
    segments: BTreeMap<String, Arc<Vec<EventKey>>>,
}

/// What a data folder has at one moment.
pub struct Stored {
    /// Every event that is there, and how often.
    pub events: BTreeMap<EventKey, u64>,
    pub catalog: Loaded,
    /// Entries of the inbox that are in segments already.
    pub sealed_and_waiting: usize,
    /// Files below the store that the catalog does not name.
    pub strangers: Vec<String>,
}

impl Reader {
    /// Nobody may be using the folder.
    pub fn read(&mut self, data: &Path) -> Stored {
        let copy = tempfile::tempdir().unwrap();
        for name in ["catalog.db", "catalog.db-wal"] {
            copy_if_there(&data.join(name), &copy.path().join(name));
        }
        fs::create_dir(copy.path().join("inbox")).unwrap();
        for name in ["inbox/inbox.db", "inbox/inbox.db-wal"] {
            copy_if_there(&data.join(name), &copy.path().join(name));
        }
        let catalog = SqliteCatalog::open(&copy.path().join("catalog.db")).unwrap();
        let catalog = Runtime::new().unwrap().block_on(catalog.load()).unwrap();
        let mut events: BTreeMap<EventKey, u64> = BTreeMap::new();
        for segment in &catalog.live {
            let keys = self
                .segment(data, segment.path.as_ref())
                .unwrap_or_else(|error| {
                    panic!(
                        "{} is in the catalog, and cannot be read: {error}",
                        segment.path
                    )
                });
            assert_eq!(keys.len() as u64, segment.rows, "{}", segment.path);
            for key in keys.iter() {
                *events.entry(key.clone()).or_default() += 1;
            }
        }
        let inbox = Inbox::open(&copy.path().join("inbox"), limits()).unwrap();
        let pending = inbox.pending();
        let (sealed, waiting): (Vec<_>, Vec<_>) = pending
            .iter()
            .partition(|entry| entry.id <= catalog.sealed_through);
        for event in waiting.iter().flat_map(|entry| &entry.events) {
            *events.entry(event.key.clone()).or_default() += 1;
        }
        let named = catalog.live.iter().chain(&catalog.dropped);
        let named: BTreeSet<&str> = named.map(|segment| segment.path.as_ref()).collect();
        let strangers = files(&data.join("store"))
            .into_iter()
            .filter(|path| !named.contains(path.as_str()))
            .collect();
        Stored {
            events,
            sealed_and_waiting: sealed.len(),
            strangers,
            catalog,
        }
    }

    /// The events of one segment's file.
    pub fn segment(&mut self, data: &Path, path: &str) -> Result<Arc<Vec<EventKey>>, String> {
        if let Some(known) = self.segments.get(path) {
            return Ok(known.clone());
        }
        let file = File::open(data.join("store").join(path)).map_err(|error| error.to_string())?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        let names = ["producer_id", "producer_epoch", "producer_sequence"];
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder
            .with_projection(mask)
            .build()
            .map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        for batch in reader {
            keys(&batch.map_err(|error| error.to_string())?, &mut found);
        }
        let found = Arc::new(found);
        self.segments.insert(path.to_owned(), found.clone());
        Ok(found)
    }
}

fn keys(batch: &RecordBatch, found: &mut Vec<EventKey>) {
    let agents = batch
        .column_by_name("producer_id")
        .unwrap()
        .as_string_view();
    let number = |name: &str| {
        batch
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Int64Type>()
            .clone()
    };
    let (epochs, sequences) = (number("producer_epoch"), number("producer_sequence"));
    for row in 0..batch.num_rows() {
        found.push(EventKey {
            agent: agents.value(row).into(),
            epoch: epochs.value(row).cast_unsigned(),
            sequence: sequences.value(row).cast_unsigned(),
        });
    }
}

fn limits() -> Limits {
    Limits {
        bytes: u64::MAX,
        events: u64::MAX,
        quarantine: u64::MAX,
    }
}

fn copy_if_there(from: &Path, to: &Path) {
    if from.exists() {
        fs::copy(from, to).unwrap();
    }
}

/// Paths of all files below a folder, as the catalog writes them.
pub fn files(folder: &Path) -> Vec<String> {
    fn visit(root: &Path, folder: &Path, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                visit(root, &path, found);
            } else {
                let below: PathBuf = path.strip_prefix(root).unwrap().into();
                found.push(below.to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    visit(folder, folder, &mut found);
    found
}
