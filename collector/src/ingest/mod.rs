//! HTTP in: OTLP logs and NDJSON become events; 2xx only after the inbox has them on the disk.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/logs` | OTLP/HTTP, `application/x-protobuf` | ExportLogsServiceResponse; records that are no events: `partial_success` |
//! | `POST /v1/events` | NDJSON, an event a line | JSON: `accepted`, `duplicates`, `rejected`, `reasons` by line |
//!
//! Both: Content-Encoding gzip, zstd or none. Statuses, as the OTLP specification reads them
//! (<https://opentelemetry.io/docs/specs/otlp/#failures-1>): 400 what cannot be read, or (NDJSON) holds no event at
//! all; 401 and 403 by [`Authenticate`]; 413 larger than the limits, to be sent in parts; 415 another content type or
//! encoding; 503 with Retry-After what is to be sent again as it is: full, busy, the disk fails, the body came too
//! slowly. What a 2xx answer acknowledges and is no event goes into the inbox's quarantine, in the same transaction.
//!
//! A batch says its first and last sequence (headers, attributes of the scope). That is compared and counted, and
//! nothing more: collectors on the way split and join batches.
//!
//! Memory: a request takes what it needs from one [budget](Limits::in_flight) as it grows, and is told to come again
//! when there is none; a log record becomes JSON before the next one is decoded, and quickly if it looks like one before
//! it ([`quick`]). As many requests are decoded at once
//! as there are processors.
//!
//! Invariant: never 500 for a full inbox or a failing disk, and 2xx only for what is durable.
//! Invariant: what a request costs in memory and time is bounded by the limits, whatever it holds.

mod answer;
mod body;
mod budget;
mod counters;
mod decoded;
mod door;
mod ndjson;
mod otlp;
mod quick;
mod stated;
#[cfg(test)]
mod tests;
mod wire;

pub use counters::Counters;
pub use door::{Authenticate, ClientCertificate, Denied, Sender};

use crate::inbox::{Appended, Inbox};
use answer::{Failure, Speech};
use axum::Router;
use axum::body::Body;
use axum::extract;
use axum::http::{Request, Response};
use axum::routing::post;
use budget::Budget;
use decoded::Decoded;
use stated::Stated;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Semaphore;

/// Sizes that a request may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// As it is sent.
    pub body: usize,
    /// Decompressed, and once more as JSON.
    pub decoded: usize,
    /// Of all requests together. A single request needs at most `body` and four times `decoded`: less than that is
    /// raised to it.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 * 1024 * 1024,
            decoded: 48 * 1024 * 1024,
            in_flight: 256 * 1024 * 1024,
        }
    }
}

/// What the requests have in common.
pub struct State {
    inbox: Inbox,
    door: Arc<dyn Authenticate>,
    limits: Limits,
    counters: Arc<Counters>,
    budget: Budget,
    decoders: Arc<Semaphore>,
    quick: Arc<quick::Quick>,
}

impl State {
    #[must_use]
    pub fn new(inbox: Inbox, door: Arc<dyn Authenticate>, limits: Limits) -> Self {
        let least = limits.body.saturating_add(limits.decoded.saturating_mul(4));
        Self {
            inbox,
            door,
            limits,
            counters: Arc::default(),
            budget: Budget::new(limits.in_flight.max(least)),
            decoders: Arc::new(Semaphore::new(crate::processors())),
            quick: Arc::default(),
        }
    }

    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

/// The routes, for whoever serves them.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/v1/logs", post(logs))
        .route("/v1/events", post(events))
        .with_state(state)
}

async fn logs(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Response<Body> {
    receive(&state, Speech::Otlp, request).await
}

async fn events(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Response<Body> {
    receive(&state, Speech::Ndjson, request).await
}

async fn receive(state: &State, speech: Speech, request: Request<Body>) -> Response<Body> {
    let counters = &state.counters;
    counters.request(speech);
    let (head, mut body) = request.into_parts();
    match take(state, speech, &head, &mut body).await {
        Ok((appended, summary)) => {
            counters.took(&appended, summary.rejected);
            answer::success(speech, &appended, &summary)
        }
        Err(failure) => {
            counters.failed(&failure);
            // The reason may repeat what was sent.
            tracing::debug!(
                path = head.uri.path(),
                status = failure.status().as_u16(),
                "refused"
            );
            // A sender that still writes reads the answer only if it is listened to.
            body::drain(body).await;
            answer::failure(speech, &failure)
        }
    }
}

async fn take(
    state: &State,
    speech: Speech,
    head: &axum::http::request::Parts,
    body: &mut Body,
) -> Result<(Appended, decoded::Summary), Failure> {
    let certificate = head.extensions.get::<ClientCertificate>();
    let sender = state.door.ingest(&head.headers, certificate).await?;
    speech.check(&head.headers)?;
    let encoding = body::encoding(&head.headers)?;
    let mut held = state.budget.hold();
    let received = body::read(body, &head.headers, state.limits.body, &mut held).await?;
    state
        .counters
        .bytes
        .fetch_add(received.len() as u64, Ordering::Relaxed);
    let stated = Stated::headers(&head.headers);
    let decoder = Arc::clone(&state.decoders);
    let decoder = decoder.acquire_owned().await;
    let limit = state.limits.decoded;
    let origin = Arc::clone(&sender.origin);
    let quick = Arc::clone(&state.quick);
    let decoding = tokio::task::spawn_blocking(move || {
        let _decoder = decoder;
        let raw = body::decompress(encoding, received, limit, &mut held)?;
        let length = raw.len();
        let mut decoded = Decoded::new(sender, limit, held);
        match speech {
            Speech::Otlp => otlp::decode(&raw, &quick, &mut decoded)?,
            Speech::Ndjson => ndjson::decode(&raw, stated.as_ref(), &mut decoded)?,
        }
        Ok::<_, Failure>((decoded.pack()?, length))
    });
    let (packed, length) = decoding
        .await
        .map_err(|error| Failure::Unreadable(format!("it could not be decoded: {error}")))??;
    let counters = &state.counters;
    counters
        .decompressed
        .fetch_add(length as u64, Ordering::Relaxed);
    counters
        .disagreements
        .fetch_add(packed.summary.disagreements, Ordering::Relaxed);
    if speech == Speech::Ndjson && packed.events.is_empty() && packed.summary.rejected > 0 {
        return Err(Failure::NoEvents(packed.summary));
    }
    // The bytes of it are the inbox's now, which has its own bound, but for what is in quarantine.
    let appended = state
        .inbox
        .append_packed(origin, packed.events, packed.refused)
        .await?;
    drop(packed.held);
    Ok((appended, packed.summary))
}
