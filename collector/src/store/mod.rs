//! Events for months: columns, Parquet segments, the catalog.

pub mod columns;
#[allow(dead_code)]
mod segment;
pub use segment::{Facts, Level, Segment};
pub struct Snapshot {
    pub segments: Vec<std::sync::Arc<Segment>>,
    pub pending: Vec<arrow::array::RecordBatch>,
    pub objects: std::sync::Arc<dyn object_store::ObjectStore>,
}
