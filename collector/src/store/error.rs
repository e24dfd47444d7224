//! Why the store could not do it.

use object_store::path::Path;

/// An error of the store. Nothing that was stored is lost by any of them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Object {
        path: Path,
        source: object_store::Error,
    },
    #[error("the list of {path}: {source}")]
    List {
        path: Path,
        source: object_store::Error,
    },
    #[error("segment {path} cannot be written: {source}")]
    Write {
        path: Path,
        source: parquet::errors::ParquetError,
    },
    #[error("segment {path} cannot be read: {source}")]
    Read {
        path: Path,
        source: parquet::errors::ParquetError,
    },
    #[error("segments cannot be merged: {0}")]
    Merge(#[from] datafusion::error::DataFusionError),
    #[error("rows cannot be put together: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("merged segment {path} has {found} rows, its parts have {expected}")]
    Rows {
        path: Path,
        found: u64,
        expected: u64,
    },
    #[error(transparent)]
    Catalog(#[from] super::catalog::CatalogError),
    #[error("sealed entries cannot be removed from the inbox: {0}")]
    Pending(#[source] super::pending::PendingError),
    #[error("a task of the store ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;
