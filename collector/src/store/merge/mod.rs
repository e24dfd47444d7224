//! Small segments become large ones: a question pays for every file it opens.
//!
//! The parts are sorted already, so the whole is made by DataFusion's merge of sorted streams, which holds one batch of
//! each part in memory, and the row group that is being written. Columns that have no value in any part (about half of
//! them) do not go through it.

mod plan;

use super::Inner;
use super::columns::{self, SORT};
use super::error::{Error, Result};
use super::reader::{Reader, conform};
use super::segment::Segment;
use super::writer::{PAGE_ROWS, Writer, Written};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, UnboundedMemoryPool};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use object_store::ObjectStore;
use plan::Plan;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What the batches of all parts of a merge may take in memory, about.
const BATCH_BYTES: u64 = 128 * 1024 * 1024;
/// Of a value in memory: a string's view (Arrow, "Variable-size Binary View Layout").
const VALUE_BYTES: u64 = 16;
const SMALLEST_BATCH: u64 = 16;

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Segments that were read.
    pub parts: u64,
    /// Segments that were made of them.
    pub wholes: u64,
    pub events: u64,
}

impl Inner {
    pub(super) async fn merge(&self, now: i64) -> Result<Merged> {
        let _one = self.tidying.lock().await;
        self.certain().await?;
        let mut merged = Merged::default();
        loop {
            let live: Vec<_> = self.state().live.values().cloned().collect();
            let Some(plan) = plan::next(&live, now, &self.settings) else {
                break;
            };
            drop(live);
            merged.parts += plan.parts.len() as u64;
            merged.wholes += 1;
            merged.events += self.put_together(plan).await?;
            self.collect().await?;
        }
        Ok(merged)
    }

    /// Returns the events of the new segment.
    async fn put_together(&self, plan: Plan) -> Result<u64> {
        let ids: Vec<_> = plan.parts.iter().map(|part| part.id).collect();
        let objects = self.objects.clone();
        let runtime = Handle::current();
        // Decoding and encoding would keep a thread of the runtime from everything else.
        let Written { facts, .. } =
            tokio::task::spawn_blocking(move || runtime.block_on(write(objects, &plan))).await??;
        let (rows, path) = (facts.rows, facts.path.clone());
        let done = self
            .change(self.catalog.merge(ids.clone(), facts), |state, whole| {
                state.live.insert(whole.id, whole.into());
                state.drop_live(&ids);
            })
            .await;
        match done {
            Ok(()) => Ok(rows),
            Err(error) => {
                self.undo(vec![path]).await;
                Err(error.into())
            }
        }
    }
}

async fn write(objects: Arc<dyn ObjectStore>, plan: &Plan) -> Result<Written> {
    let mut rows = sorted(&objects, &plan.parts).await?;
    let mut writer = Writer::new(objects.clone(), plan.level, plan.hour)?;
    let schema = columns::schema();
    while let Some(batch) = rows.next().await {
        let wrote = match batch {
            Ok(batch) => match conform(&batch, &schema) {
                Ok(batch) => writer.write(&batch).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        };
        if let Err(error) = wrote {
            writer.abandon().await;
            return Err(error);
        }
    }
    let sealed = plan.parts.iter().map(|part| part.sealed).max();
    let written = writer.finish(plan.hour, sealed.unwrap_or_default()).await?;
    let expected = plan.parts.iter().map(|part| part.rows).sum();
    if written.facts.rows == expected {
        return Ok(written);
    }
    let path = written.facts.path;
    // What stays is removed at the next start.
    let _gone = object_store::ObjectStoreExt::delete(&objects, &path).await;
    Err(Error::Rows {
        path,
        found: written.facts.rows,
        expected,
    })
}

/// All rows of the parts in one order, without the columns that are null in all of them.
async fn sorted(
    objects: &Arc<dyn ObjectStore>,
    parts: &[Arc<Segment>],
) -> Result<SendableRecordBatchStream> {
    let mut readers = Vec::with_capacity(parts.len());
    let (mut rows, mut bytes) = (0, 0);
    for part in parts {
        let reader = Reader::open(objects.clone(), &part.facts).await?;
        let weight = reader.weight();
        rows += weight.rows;
        bytes += weight.bytes;
        readers.push(reader);
    }
    let schema = filled(&readers);
    // A view or a number of each column stands in memory for each row, beside what the file holds.
    let row_bytes = bytes / rows.max(1) + schema.fields().len() as u64 * VALUE_BYTES;
    let batch_rows = (BATCH_BYTES / parts.len().max(1) as u64 / row_bytes)
        .clamp(SMALLEST_BATCH, PAGE_ROWS as u64) as usize;
    let streams = readers
        .into_iter()
        .map(|reader| {
            let batches = reader
                .batches(batch_rows, &schema)?
                .map(|batch| batch.map_err(external));
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema.clone(), batches)) as _)
        })
        .collect::<Result<Vec<SendableRecordBatchStream>>>()?;
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    Ok(StreamingMergeBuilder::new()
        .with_streams(streams)
        .with_expressions(&order(&schema)?)
        .with_schema(schema)
        .with_metrics(BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0))
        .with_batch_size(batch_rows)
        .with_reservation(MemoryConsumer::new("merge").register(&pool))
        .build()?)
}

fn external(error: Error) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}

/// The columns with a value, and those that rows are sorted by.
fn filled(readers: &[Reader]) -> SchemaRef {
    let all = columns::schema();
    let empty: Vec<_> = readers.iter().map(Reader::without_values).collect();
    let filled = all.fields().iter().filter(|field| {
        let name = field.name().as_str();
        SORT.contains(&name) || empty.iter().any(|empty| !empty.contains(name))
    });
    Arc::new(Schema::new_with_metadata(
        filled.cloned().collect::<Vec<_>>(),
        all.metadata().clone(),
    ))
}

/// [`SORT`] as DataFusion says it.
fn order(schema: &Schema) -> Result<LexOrdering> {
    let ascending = SortOptions {
        descending: false,
        nulls_first: true,
    };
    let by = SORT
        .iter()
        .map(|name| {
            let column = Column::new_with_schema(name, schema)?;
            Ok(PhysicalSortExpr::new(Arc::new(column), ascending))
        })
        .collect::<Result<Vec<_>, datafusion::error::DataFusionError>>()?;
    let none = || datafusion::error::DataFusionError::Internal("nothing to sort by".into());
    Ok(LexOrdering::new(by).ok_or_else(none)?)
}
