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
use std::collections::HashSet;
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

/// The columns of a file that are null in every row. One of which its footer does not say so is none of them.
pub fn without_values(footer: &ParquetMetaData) -> HashSet<&str> {
    let names = footer.file_metadata().schema_descr().columns().iter();
    let mut empty: HashSet<&str> = names.map(|column| column.name()).collect();
    let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks {
        let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        if nulls.and_then(|nulls| i64::try_from(nulls).ok()) != Some(chunk.num_values()) {
            empty.remove(chunk.column_descr().name());
        }
    }
    empty
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

    /// See [`without_values`].
    pub fn without_values(&self) -> HashSet<&str> {
        without_values(self.builder.metadata())
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};

    #[test]
    fn columns_without_values_are_those_that_the_footer_says() {
        let batch = |late: Option<i64>| {
            let column = |values: [Option<i64>; 2]| -> ArrayRef {
                Arc::new(values.into_iter().collect::<Int64Array>())
            };
            RecordBatch::try_from_iter_with_nullable([
                ("never", column([None, None]), true),
                ("late", column([None, late]), true),
                ("always", column([Some(1), Some(2)]), true),
                ("unsaid", column([None, None]), true),
            ])
            .unwrap()
        };
        let unsaid = WriterProperties::builder()
            .set_column_statistics_enabled("unsaid".into(), EnabledStatistics::None)
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch(None).schema(), Some(unsaid)).unwrap();
        for late in [None, Some(3)] {
            writer.write(&batch(late)).unwrap();
            writer.flush().unwrap();
        }
        let file = Bytes::from(writer.into_inner().unwrap());
        let footer = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .unwrap();
        assert_eq!(footer.row_groups().len(), 2);
        assert_eq!(without_values(&footer), HashSet::from(["never"]));
    }
}
