//! `/v1/tail`: events as they are committed, as server-sent events.
//!
//! `event: event` has an event's JSON, its id is the event's key; `event: missed` says how many batches went by while
//! the reader was too slow. A comment every 15 s keeps the connection alive.

use super::door::{Asked, Fresh};
use super::failure::{ErrorBody, Failure};
use super::{State, parameters};
use crate::search::engine::{self, SearchError};
use crate::search::language;
use crate::search::matcher::Matcher;
use axum::body::Body;
use axum::extract;
use axum::http::Request;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;

#[derive(Debug, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TailParameters {
    /// The query; without one every event is told.
    #[serde(default)]
    q: String,
}

/// Events that a query takes, from now on.
#[utoipa::path(
    get,
    path = "/v1/tail",
    params(TailParameters),
    responses(
        (status = 200, description = "server-sent events: `event` with an event, `missed` with a number of batches",
            content((String = "text/event-stream"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(super) async fn tail(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let (parts, body) = request.into_parts();
    state.reader(&parts).await?;
    let asked: TailParameters = parameters::read(&parts, body).await?;
    let query = language::parse(&asked.q)?;
    state.admit(&parts, &query, Asked::Tail).await?;
    let place = Arc::clone(&state.tails).try_acquire_owned();
    let place = place.map_err(|_| Failure::Busy)?;
    let matcher = Matcher::new(&query, engine::now()).map_err(SearchError::Store)?;
    let events = state.live.subscribe().flat_map(move |fresh| {
        // Held for as long as somebody reads.
        let _ = &place;
        stream::iter(told(&matcher, &fresh).into_iter().map(Ok))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn told(matcher: &Matcher, fresh: &Fresh) -> Vec<Event> {
    let events = match fresh {
        Fresh::Missed(batches) => {
            return vec![Event::default().event("missed").data(batches.to_string())];
        }
        Fresh::Events(events) => events,
    };
    let taken = matcher.taken(events).unwrap_or_else(|error| {
        tracing::error!("a batch was not told to a tail: {error}");
        Vec::new()
    });
    taken
        .into_iter()
        .filter_map(|event| {
            // An event's JSON has neither newlines nor bytes that are not UTF-8.
            let json = std::str::from_utf8(&event.json).ok()?;
            let told = Event::default().event("event");
            Some(told.id(event.key.to_string()).data(json))
        })
        .collect()
}
