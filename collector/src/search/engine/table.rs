//! Segments and pending batches as one table.
//!
//! Files are dealt out to the partitions in turn, the newest first, with what the catalog knows of their times, so that
//! a search for the newest events stops looking into files that cannot have one. Each file's footer says which of its
//! columns are null in every row; those are not read at all.
//!
//! Invariant: filters are applied above the table too (`Inexact`), so that what a file's statistics cannot exclude is
//! still looked at row by row.

use super::Engine;
use crate::search::plan::split;
use crate::store::{Segment, columns, without_values};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::union::UnionExec;
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::file::metadata::PageIndexPolicy;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

pub(super) struct SnapshotTable {
    schema: SchemaRef,
    segments: Vec<Arc<Segment>>,
    pending: Vec<RecordBatch>,
    objects: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
    url: ObjectStoreUrl,
    partitions: usize,
}

impl Engine {
    pub(super) fn table(
        &self,
        segments: Vec<Arc<Segment>>,
        pending: Vec<RecordBatch>,
        objects: Arc<dyn ObjectStore>,
    ) -> Arc<SnapshotTable> {
        Arc::new(SnapshotTable {
            schema: columns::schema(),
            segments,
            pending,
            objects,
            footers: self.shared.cache_manager.get_file_metadata_cache(),
            url: self.url.clone(),
            partitions: self.limits.parallel.get(),
        })
    }
}

impl fmt::Debug for SnapshotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segments, pending) = (self.segments.len(), self.pending.len());
        write!(f, "SnapshotTable({segments} segments, {pending} batches)")
    }
}

impl SnapshotTable {
    async fn file(
        &self,
        segment: &Segment,
        readers: &CachedParquetFileReaderFactory,
    ) -> Result<PartitionedFile> {
        let file = PartitionedFile::new(segment.path.to_string(), segment.bytes);
        let unmeasured = ExecutionPlanMetricsSet::new();
        let mut reader = readers.create_reader(0, file.clone(), None, &unmeasured)?;
        // As the scan wants it, which then finds it in the cache.
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let footer = reader.get_metadata(Some(&options)).await?;
        let statistics = self.statistics(segment, &without_values(&footer));
        Ok(file.with_statistics(Arc::new(statistics)))
    }

    fn statistics(&self, segment: &Segment, empty: &HashSet<&str>) -> Statistics {
        let time = |nanos: i64| {
            let us = ScalarValue::TimestampMicrosecond(Some(split(nanos).0), Some("UTC".into()));
            Precision::Exact(us)
        };
        let rows = usize::try_from(segment.rows).map_or(Precision::Absent, Precision::Exact);
        let of = self.schema.fields().iter().map(|field| {
            if field.name() != columns::TIME {
                let mut known = ColumnStatistics::new_unknown();
                if empty.contains(field.name().as_str()) {
                    known.null_count = rows;
                }
                return known;
            }
            ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value: time(segment.min_time),
                max_value: time(segment.max_time),
                ..ColumnStatistics::new_unknown()
            }
        });
        Statistics {
            num_rows: rows,
            total_byte_size: Precision::Absent,
            column_statistics: of.collect(),
        }
    }

    async fn sealed(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let factory = CachedParquetFileReaderFactory::new(
            Arc::clone(&self.objects),
            Arc::clone(&self.footers),
        );
        let mut groups = vec![Vec::new(); self.partitions.min(self.segments.len())];
        let count = groups.len();
        for (index, segment) in self.segments.iter().enumerate() {
            groups[index % count].push(self.file(segment, &factory).await?);
        }
        let schema = TableSchema::from(Arc::clone(&self.schema));
        let source = ParquetSource::new(schema)
            .with_parquet_file_reader_factory(Arc::new(factory))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true);
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut parts = Vec::new();
        if !self.segments.is_empty() {
            parts.push(self.sealed(projection).await?);
        }
        if !self.pending.is_empty() {
            let batches = std::slice::from_ref(&self.pending);
            let schema = Arc::clone(&self.schema);
            let memory = MemorySourceConfig::try_new_exec(batches, schema, projection.cloned())?;
            parts.push(memory as Arc<dyn ExecutionPlan>);
        }
        match parts.len() {
            0 => {
                let schema = match projection {
                    Some(columns) => Arc::new(self.schema.project(columns)?),
                    None => Arc::clone(&self.schema),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}
