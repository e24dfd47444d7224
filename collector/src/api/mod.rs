//! HTTP out: the questions of [`crate::search`], by its language's words.
//!
//! | request | answers |
//! |---|---|
//! | GET, POST `/v1/search` | a page of events, or with `explain` how they would be found |
//! | GET, POST `/v1/stats` | counts by fields and spans of time |
//! | GET, POST `/v1/tail` | events as they come, as server-sent events |
//! | POST `/v1/trail` | everything about a credential, by its fingerprints |
//!
//! Parameters stand in the address or, by POST, in a JSON object. Answers are JSON; events and counts also NDJSON and
//! CSV, by `format` or by Accept. Errors are JSON as well: `error` (a closed set), `detail` for people, and for a query
//! the bytes that are wrong.
//!
//! Who asks is found out by [`Authorize`]. Whoever names a fingerprint looks for one credential, by whichever question:
//! that needs [`Right::Trail`], and [`Audit`] is told before it is answered. Fingerprints of a trail come in a body, so
//! that they are in no log of addresses.
//!
//! Invariant: no answer about a named fingerprint leaves before its audit is recorded.
//! Invariant: what questions take together is bounded: so many at a time, each within the engine's limits.

mod door;
mod failure;
mod format;
mod openapi;
mod parameters;
mod search;
mod stats;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod trail;

pub use door::{Asked, Audit, Authorize, Denied, Fresh, Live, Right};
pub use failure::{Code, ErrorBody, Span};
pub use format::EVENT_FIELDS;
pub use openapi::document;
pub use search::SearchAnswer;
pub use trail::{TrailAnswer, TrailBody};

use crate::search::engine::Engine;
use crate::search::language::Query;
use crate::search::plan;
use axum::Router;
use axum::http::request::Parts;
use axum::routing::{MethodRouter, get, post};
use failure::Failure;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that are answered at a time; each may use as much memory as the engine's limits say.
const QUESTIONS: usize = 4;
/// How long another one waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Tails at a time.
const TAILS: usize = 64;
/// The name of a page's cursor, where the body has no place for it.
pub const CURSOR_HEADER: &str = "tokentrail-cursor";

/// What the requests have in common.
pub struct State {
    engine: Engine,
    live: Arc<dyn Live>,
    door: Arc<dyn Authorize>,
    audit: Arc<dyn Audit>,
    questions: Arc<Semaphore>,
    tails: Arc<Semaphore>,
}

impl State {
    #[must_use]
    pub fn new(
        engine: Engine,
        live: Arc<dyn Live>,
        door: Arc<dyn Authorize>,
        audit: Arc<dyn Audit>,
    ) -> Self {
        Self {
            engine,
            live,
            door,
            audit,
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            tails: Arc::new(Semaphore::new(TAILS)),
        }
    }

    /// Lets in who may ask at all; before anything of the request is looked at.
    async fn reader(&self, parts: &Parts) -> Result<(), Failure> {
        self.door.authorize(parts, Right::Read).await?;
        Ok(())
    }

    /// Lets in who may ask this query, and records it if it names fingerprints.
    async fn admit(&self, parts: &Parts, query: &Query, asked: Asked) -> Result<(), Failure> {
        let named = plan::named_fingerprints(query);
        if named.is_empty() {
            return Ok(());
        }
        let who = self.door.authorize(parts, Right::Trail).await?;
        let named: Vec<&str> = named.into_iter().collect();
        let recorded = self.audit.asked(&who, asked, &named).await;
        recorded.map_err(Failure::Audit)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let turn = Arc::clone(&self.questions).acquire_owned();
        match tokio::time::timeout(TURN, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::Busy),
        }
    }
}

/// The routes, for whoever serves them.
pub fn router(state: Arc<State>) -> Router {
    let both =
        |handler: MethodRouter<Arc<State>>| handler.fallback(async || Failure::Method("GET, POST"));
    let trail = post(trail::trail).fallback(async || Failure::Method("POST"));
    Router::new()
        .route("/v1/search", both(get(search::search).post(search::search)))
        .route("/v1/stats", both(get(stats::stats).post(stats::stats)))
        .route("/v1/tail", both(get(tail::tail).post(tail::tail)))
        .route("/v1/trail", trail)
        .route("/v1/openapi.json", get(openapi::serve))
        .with_state(state)
}
