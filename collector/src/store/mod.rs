//! Events for months: columns, Parquet segments, the catalog.

pub mod columns;
