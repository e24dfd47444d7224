//! What the API needs of others: who asks, who records it, and where new events come from.

use crate::event::Event;
use async_trait::async_trait;
use axum::http::request::Parts;
use futures::stream::BoxStream;
use std::sync::Arc;

/// What a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To search, count and follow events.
    Read,
    /// To look for one credential.
    Trail,
}

/// Why somebody may not. The text is told to them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 401.
    #[error("{0}")]
    Unknown(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
}

/// Knows who asks.
#[async_trait]
pub trait Authorize: Send + Sync {
    /// The asker's name for the audit.
    ///
    /// # Errors
    /// Why they may not.
    async fn authorize(&self, request: &Parts, right: Right) -> Result<Arc<str>, Denied>;
}

/// The question that named a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Search,
    Stats,
    Tail,
    Trail,
}

impl Asked {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Stats => "stats",
            Self::Tail => "tail",
            Self::Trail => "trail",
        }
    }
}

/// Records who looked for which credential.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Called before the answer. `named`: fingerprints, or prefixes of some.
    ///
    /// # Errors
    /// Text for the log; the question is not answered.
    async fn asked(&self, who: &str, asked: Asked, named: &[&str]) -> Result<(), String>;
}

/// What a subscriber is given.
#[derive(Clone, Debug)]
pub enum Fresh {
    /// Events, once they are durable.
    Events(Arc<[Event]>),
    /// The subscriber was too slow for so many batches.
    Missed(u64),
}

/// Where events come from as they are committed.
pub trait Live: Send + Sync {
    /// From now on.
    fn subscribe(&self) -> BoxStream<'static, Fresh>;
}
