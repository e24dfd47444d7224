//! Rows into a Parquet file.
//!
//! Each column is encoded as the table of columns says ([`columns::Stored`]), and compressed with zstd, the better
//! the longer the file will stay.
//!
//! Invariant: rows come in sorted by [`columns::SORT`], and the file says so.

use super::columns::{self, COLUMNS, FINGERPRINT, FINGERPRINTS_MORE, Stored, TIME, TIME_NANOS};
use super::error::{Error, Result};
use super::segment::{Facts, HOUR, Level, new_path};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int16Type, TimestampMicrosecondType};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

/// Rows of a page: what is read at least, to have one row.
pub const PAGE_ROWS: usize = 8_192;
/// Rows of a row group: what is read by one thread.
const GROUP_ROWS: usize = 1_048_576;
/// And its bytes, for rows that are large.
const GROUP_BYTES: usize = 256 * 1024 * 1024;
/// Bytes of a part of an upload.
const PART_BYTES: usize = 10 * 1024 * 1024;

/// By what the catalog finds the segments of a fingerprint: 64 bits of its SHA-256. Two that share one cost a look into
/// a file for nothing.
#[must_use]
pub fn fingerprint_key(fingerprint: &str) -> i64 {
    let digest = Sha256::digest(fingerprint.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// The same of a fingerprint that stands in a list, not alone in its column: the catalog has both. A question for one
/// that is in no list of a segment finds its pages by the column's minima and maxima; one for a list reads every row.
#[must_use]
pub fn listed_key(fingerprint: &str) -> i64 {
    fingerprint_key(&format!("listed {fingerprint}"))
}

/// zstd's levels: what is written again within the hour should cost little time, what stays for months little room.
const ZSTD: [(Level, i32); 5] = [
    (Level::Sealed, 1),
    (Level::Part, 1),
    (Level::Hour, 3),
    (Level::Day, 9),
    (Level::Mixed, 3),
];

static PROPERTIES: LazyLock<HashMap<Level, WriterProperties>> =
    LazyLock::new(|| ZSTD.map(|(level, zstd)| (level, properties(zstd))).into());

fn properties(zstd: i32) -> WriterProperties {
    let zstd = ZstdLevel::try_new(zstd).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("tokentrail ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(zstd))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(Some(sorting()));
    for column in COLUMNS.iter() {
        let path = ColumnPath::from(column.name.as_str());
        let encoding = match column.stored {
            Stored::Dictionary => continue,
            Stored::Delta => Encoding::DELTA_BINARY_PACKED,
            Stored::Plain => Encoding::PLAIN,
            Stored::Prefix => Encoding::DELTA_BYTE_ARRAY,
        };
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding);
    }
    for name in PAGED {
        let path = ColumnPath::from(name);
        builder = builder.set_column_statistics_enabled(path, EnabledStatistics::Page);
    }
    builder
        .set_column_bloom_filter_enabled(ColumnPath::from(FINGERPRINT), true)
        .set_column_bloom_filter_fpp(ColumnPath::from(FINGERPRINT), 0.01)
        .build()
}

/// Fingerprints that somebody asked the collector for: a part of their story.
const ASKED: &str = "audit_fingerprints";

/// Columns by whose values pages are left out.
const PAGED: [&str; 2] = [FINGERPRINT, TIME];

fn sorting() -> Vec<SortingColumn> {
    let schema = columns::schema();
    columns::SORT
        .iter()
        .filter_map(|name| i32::try_from(schema.index_of(name).ok()?).ok())
        .map(|column_idx| SortingColumn {
            column_idx,
            descending: false,
            nulls_first: true,
        })
        .collect()
}

/// A segment being written.
pub(super) struct Writer {
    inner: AsyncArrowWriter<BufWriter>,
    objects: Arc<dyn ObjectStore>,
    path: Path,
    level: Level,
    rows: u64,
    times: Option<(i64, i64)>,
    keys: HashSet<i64>,
    last_key: Option<(String, i64)>,
}

/// A segment that is written and durable, and that no catalog names yet.
pub(super) struct Written {
    pub facts: Facts,
    /// [`fingerprint_key`] of every fingerprint in it, and [`listed_key`] of those in lists.
    pub keys: Vec<i64>,
}

impl Writer {
    /// Begins a segment of the window that starts at `hour`.
    pub fn new(objects: Arc<dyn ObjectStore>, level: Level, hour: i64) -> Result<Self> {
        let mut unique = [0; 8];
        // Without random bits a name could only be one that is taken, and nothing is overwritten then.
        if getrandom::fill(&mut unique).is_err() {
            unique = jiff::Timestamp::now()
                .as_nanosecond()
                .to_be_bytes()
                .last_chunk()
                .copied()
                .unwrap_or_default();
        }
        let path = new_path(level, hour, u64::from_be_bytes(unique));
        let upload = BufWriter::with_capacity(objects.clone(), path.clone(), PART_BYTES);
        let properties = PROPERTIES
            .get(&level)
            .cloned()
            .unwrap_or_else(|| properties(3));
        let inner = AsyncArrowWriter::try_new(upload, columns::schema(), Some(properties))
            .map_err(|source| Error::Write {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            inner,
            objects,
            path,
            level,
            rows: 0,
            times: None,
            keys: HashSet::new(),
            last_key: None,
        })
    }

    /// Appends rows that sort behind all before.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.learn(batch);
        match self.inner.write(batch).await {
            Ok(()) => Ok(()),
            Err(source) => Err(Error::Write {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Makes it durable. `sealed`: when its newest event was sealed; `hour` of its window.
    pub async fn finish(mut self, hour: i64, sealed: i64) -> Result<Written> {
        if let Err(source) = self.inner.finish().await {
            // The upload is over, and may have been done all the same. What stays is removed at the next start.
            let _gone = self.objects.delete(&self.path).await;
            let path = self.path;
            return Err(Error::Write { path, source });
        }
        let (min_time, max_time) = self.times.unwrap_or((hour * HOUR, hour * HOUR));
        Ok(Written {
            facts: Facts {
                bytes: self.inner.bytes_written() as u64,
                path: self.path,
                level: self.level,
                hour,
                rows: self.rows,
                min_time,
                max_time,
                sealed,
            },
            keys: self.keys.into_iter().collect(),
        })
    }

    /// Leaves nothing behind, where that can be had. Not after [`Self::finish`].
    pub async fn abandon(self) {
        let path = self.path;
        if let Err(error) = self.inner.into_inner().abort().await {
            // What stays is removed at the next start.
            tracing::debug!(%path, %error, "a segment's upload cannot be taken back");
        }
    }

    fn learn(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for time in times(batch).into_iter().flatten() {
            let (min, max) = self.times.get_or_insert((time, time));
            *min = time.min(*min);
            *max = time.max(*max);
        }
        if self.level != Level::Sealed && self.level != Level::Mixed {
            // The catalog has the keys of what is merged.
            return;
        }
        if let Some(first) = batch.column_by_name(FINGERPRINT) {
            for fingerprint in first.as_string_view().iter().flatten() {
                self.fingerprint(fingerprint);
            }
        }
        for column in [FINGERPRINTS_MORE, ASKED] {
            let Some(lists) = batch.column_by_name(column) else {
                continue;
            };
            for list in lists.as_string_view().iter().flatten() {
                for fingerprint in serde_json::from_str::<Vec<String>>(list).unwrap_or_default() {
                    self.keys.insert(fingerprint_key(&fingerprint));
                    if column == FINGERPRINTS_MORE {
                        self.keys.insert(listed_key(&fingerprint));
                    }
                }
            }
        }
    }

    /// Rows of one fingerprint follow each other.
    fn fingerprint(&mut self, fingerprint: &str) {
        if let Some((last, _)) = &self.last_key
            && last == fingerprint
        {
            return;
        }
        let key = fingerprint_key(fingerprint);
        self.keys.insert(key);
        self.last_key = Some((fingerprint.to_owned(), key));
    }
}

/// Event times in nanoseconds; `None` where a row has none.
pub(super) fn times(batch: &RecordBatch) -> Vec<Option<i64>> {
    let micros = batch
        .column_by_name(TIME)
        .and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
    let below = batch
        .column_by_name(TIME_NANOS)
        .and_then(|array| array.as_primitive_opt::<Int16Type>());
    let Some(micros) = micros else {
        return vec![None; batch.num_rows()];
    };
    (0..batch.num_rows())
        .map(|row| {
            let whole = micros.is_valid(row).then(|| micros.value(row))?;
            let rest = below.map_or(0, |below| {
                if below.is_valid(row) {
                    below.value(row)
                } else {
                    0
                }
            });
            Some(whole.saturating_mul(1_000).saturating_add(i64::from(rest)))
        })
        .collect()
}
