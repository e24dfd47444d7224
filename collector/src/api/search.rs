//! `/v1/search`.

use super::door::Asked;
use super::failure::{ErrorBody, Failure};
use super::format::{self, EVENT_FIELDS, Format};
use super::{State, parameters};
use crate::search::engine::{self, Explanation, Order, SearchQuestion};
use crate::search::language;
use axum::body::Body;
use axum::extract;
use axum::http::{Request, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

const LIMIT: usize = 100;

#[derive(Debug, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchParameters {
    /// The query; without one every event is taken.
    #[serde(default)]
    q: String,
    /// Events of the page, 1 to 10000; 100 unless given.
    limit: Option<usize>,
    /// `cursor` of the page before; the other parameters stay as they were.
    cursor: Option<String>,
    #[serde(default)]
    #[param(inline)]
    order: Order,
    /// Also if very many events have to be read.
    #[serde(default)]
    force: bool,
    /// Tells how the events would be found instead.
    #[serde(default)]
    explain: bool,
    /// `json` unless Accept says otherwise.
    #[param(inline)]
    format: Option<Format>,
    /// Fields of a CSV, parted by commas.
    fields: Option<String>,
}

/// A page of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SearchAnswer {
    /// Events of the contract's version 1, byte for byte as they were sent.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Box<RawValue>>,
    /// Of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Events that were read at most.
    pub rows: u64,
}

/// Events that a query takes, by pages.
#[utoipa::path(
    get,
    path = "/v1/search",
    params(SearchParameters),
    responses(
        (status = 200, description = "a page, or with `explain` an Explanation", content(
            (SearchAnswer = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
        (status = 504, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(super) async fn search(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    state.reader(&parts).await?;
    let asked: SearchParameters = parameters::read(&parts, body).await?;
    let query = language::parse(&asked.q)?;
    state.admit(&parts, &query, Asked::Search).await?;
    let fields = match &asked.fields {
        Some(fields) => parameters::fields("fields", fields)?,
        None => parameters::fields("fields", &EVENT_FIELDS.join(","))?,
    };
    let question = SearchQuestion {
        query,
        order: asked.order,
        limit: asked.limit.unwrap_or(LIMIT),
        cursor: asked.cursor,
        force: asked.force,
        now: engine::now(),
    };
    let _turn = state.turn().await?;
    if asked.explain {
        let explanation: Explanation = state.engine.explain(&question).await?;
        return Ok(Format::Json.respond(format::json(&explanation)?, None));
    }
    let page = state.engine.search(&question).await?;
    let format = Format::of(asked.format, &parts);
    let body = match format {
        Format::Json => format::json(&SearchAnswer {
            events: raw(&page.events)?,
            cursor: page.cursor.clone(),
            rows: page.rows,
        })?,
        Format::Ndjson => format::lines(&page.events),
        Format::Csv => format::events_csv(&page.events, &fields)?,
    };
    Ok(format.respond(body, page.cursor.as_deref()))
}

/// Events as they stand in a JSON answer: untouched.
pub(super) fn raw(events: &[Bytes]) -> Result<Vec<Box<RawValue>>, Failure> {
    let failed = |error: String| Failure::from(engine::SearchError::Store(error));
    events
        .iter()
        .map(|event| {
            let text =
                String::from_utf8(event.to_vec()).map_err(|error| failed(error.to_string()))?;
            RawValue::from_string(text).map_err(|error| failed(error.to_string()))
        })
        .collect()
}
