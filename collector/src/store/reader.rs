//! A segment's rows.

use super::error::{Error, Result};
use super::segment::Facts;
use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;
use std::ops::Range;
use std::sync::Arc;

/// Read at once at a file's end: footers of most segments fit.
const FOOTER_BYTES: usize = 64 * 1024;

/// A segment's object, to read Parquet from.
struct Object {
    objects: Arc<dyn ObjectStore>,
    facts: Facts,
}

fn external(source: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(source))
}

impl AsyncFileReader for Object {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.objects
            .get_range(&self.facts.path, range)
            .map_err(external)
            .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            self.objects
                .get_ranges(&self.facts.path, &ranges)
                .await
                .map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.facts.bytes;
            let metadata = ParquetMetaDataReader::new()
                .with_metadata_options(options.map(|options| options.metadata_options().clone()))
                .with_prefetch_hint(Some(FOOTER_BYTES))
                .load_and_finish(self, bytes)
                .await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// What a batch of a segment takes in memory, about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub rows: u64,
    /// Uncompressed.
    pub bytes: u64,
}

/// A segment that is opened.
pub(super) struct Reader {
    builder: ParquetRecordBatchStreamBuilder<Object>,
    facts: Facts,
}

impl Reader {
    /// Reads the footer.
    pub async fn open(objects: Arc<dyn ObjectStore>, facts: &Facts) -> Result<Self> {
        let object = Object {
            objects,
            facts: facts.clone(),
        };
        match ParquetRecordBatchStreamBuilder::new(object).await {
            Ok(builder) => Ok(Self {
                builder,
                facts: facts.clone(),
            }),
            Err(source) => Err(Error::Read {
                path: facts.path.clone(),
                source,
            }),
        }
    }

    pub fn weight(&self) -> Weight {
        let groups = self.builder.metadata().row_groups();
        let count = |value: i64| u64::try_from(value).unwrap_or_default();
        Weight {
            rows: groups.iter().map(|group| count(group.num_rows())).sum(),
            bytes: groups
                .iter()
                .map(|group| count(group.total_byte_size()))
                .sum(),
        }
    }

    /// Whether a column has a value in any row. A file that does not say so has one.
    pub fn has_values(&self, column: &str) -> bool {
        let groups = self.builder.metadata().row_groups();
        let chunks = groups.iter().flat_map(|group| group.columns());
        let mut own = chunks.filter(|chunk| chunk.column_path().parts() == [column]);
        own.any(|chunk| {
            let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
            nulls.and_then(|nulls| i64::try_from(nulls).ok()) != Some(chunk.num_values())
        })
    }

    /// All rows in their order, with the columns of `schema`: some of those that a segment of today has.
    pub fn batches(
        self,
        batch_rows: usize,
        schema: &SchemaRef,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let path = self.facts.path;
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let projection = ProjectionMask::columns(self.builder.parquet_schema(), names);
        let schema = schema.clone();
        let failed = move |source| Error::Read {
            path: path.clone(),
            source,
        };
        let stream = self
            .builder
            .with_batch_size(batch_rows)
            .with_projection(projection)
            .build()
            .map_err(failed.clone())?;
        Ok(stream
            .map(move |batch| conform(&batch.map_err(failed.clone())?, &schema))
            .boxed())
    }
}

/// A batch with other columns, less or in another order: those that it has not are null.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema() == *schema {
        return Ok(batch.clone());
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
