//! Which segments there are, which of them hold a fingerprint, and up to where the inbox is sealed.
//!
//! One trait, so that PostgreSQL can be another one. A segment is *live*, or *dropped*: no question reads it any more,
//! and it is named until its object is gone, so that no object is forgotten.
//!
//! Invariant: every call is one transaction, durable when it returns.
//! Invariant: the catalog names only objects that are durable, and an event is in at most one live segment.

mod sqlite;

pub use sqlite::SqliteCatalog;

use super::segment::{Facts, Segment};
use async_trait::async_trait;

/// A segment to come.
#[derive(Clone, Debug)]
pub struct NewSegment {
    pub facts: Facts,
    /// [`super::writer::fingerprint_key`] of each of its fingerprints, and [`super::writer::listed_key`] of those in
    /// lists.
    pub keys: Vec<i64>,
}

/// All that the catalog has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub live: Vec<Segment>,
    /// Their objects may still be there.
    pub dropped: Vec<Segment>,
    /// The last inbox entry that is in segments; 0 before the first.
    pub sealed_through: i64,
}

/// Why the catalog did not do it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalog's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "the catalog has version {found}, of a later collector than this one, which knows {known}"
    )]
    Version { found: i64, known: i64 },
    #[error("entries through {through} are sealed already: {sealed} is")]
    Sealed { through: i64, sealed: i64 },
    #[error("segment {0} is not live")]
    NotLive(i64),
    #[error("segment {id} in the catalog: {reason}")]
    Damaged { id: i64, reason: String },
    #[error("a task of the catalog ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// See the module.
#[async_trait]
pub trait Catalog: Send + Sync + 'static {
    /// Everything but the fingerprints.
    async fn load(&self) -> Result<Loaded, CatalogError>;

    /// Adds segments that hold the inbox's entries after the last seal and up to `through`. Returns them in their
    /// order, with their ids.
    async fn seal(
        &self,
        added: Vec<NewSegment>,
        through: i64,
    ) -> Result<Vec<Segment>, CatalogError>;

    /// Drops live segments and adds one that holds all of their events, and is found by all of their fingerprints.
    async fn merge(&self, parts: Vec<i64>, whole: Facts) -> Result<Segment, CatalogError>;

    /// Drops live segments, and their events with them.
    async fn drop_segments(&self, ids: Vec<i64>) -> Result<(), CatalogError>;

    /// Forgets dropped segments, whose objects are gone.
    async fn forget(&self, ids: Vec<i64>) -> Result<(), CatalogError>;

    /// Ids of the segments that any of `keys` may be in, ascending; dropped ones may be among them.
    async fn holding(&self, keys: Vec<i64>) -> Result<Vec<i64>, CatalogError>;
}
