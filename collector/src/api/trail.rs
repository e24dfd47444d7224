//! `/v1/trail`.

use super::door::{Asked, Right};
use super::failure::{ErrorBody, Failure};
use super::format::{self, EVENT_FIELDS, Format};
use super::{State, parameters, search};
use crate::search::engine::{self, FINGERPRINTS_MAX, Facet, TrailQuestion};
use agent_common::event::{Fingerprint, Time};
use axum::body::Body;
use axum::extract;
use axum::http::{Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

const LIMIT: usize = 100;

/// A question for a credential's trail.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrailBody {
    /// 1 to 64: one credential's under several keys.
    pub fingerprints: Vec<String>,
    /// Values of each facet, and events of the page; 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    #[serde(default)]
    pub force: bool,
}

/// A credential's story.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TrailAnswer {
    /// Of all its events.
    pub count: u64,
    /// To the microsecond; absent if it was never seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Time>,
    pub facets: Vec<Facet>,
    /// The oldest first, byte for byte as they were sent.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Box<RawValue>>,
    /// Of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Everything about a credential. Recorded before it is answered.
#[utoipa::path(
    post,
    path = "/v1/trail",
    request_body = TrailBody,
    responses(
        (status = 200, description = "the trail; as NDJSON or CSV its events alone", content(
            (TrailAnswer = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 422, body = ErrorBody), (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody), (status = 504, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(super) async fn trail(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let who = state.door.authorize(&parts, Right::Trail).await?;
    let asked: TrailBody = parameters::read(&parts, body).await?;
    if !(1..=FINGERPRINTS_MAX).contains(&asked.fingerprints.len()) {
        let count = asked.fingerprints.len();
        return Err(Failure::Argument(format!(
            "{count} fingerprints: 1 to {FINGERPRINTS_MAX} are due"
        )));
    }
    let fingerprints = asked.fingerprints.iter().enumerate().map(|(index, text)| {
        text.parse::<Fingerprint>()
            // Not repeated: it may be a credential.
            .map_err(|error| Failure::Argument(format!("fingerprints[{index}]: {error}")))
    });
    let fingerprints: Vec<Fingerprint> = fingerprints.collect::<Result<_, _>>()?;
    let named: Vec<&str> = fingerprints.iter().map(Fingerprint::as_str).collect();
    let recorded = state.audit.asked(&who, Asked::Trail, &named).await;
    recorded.map_err(Failure::Audit)?;
    let question = TrailQuestion {
        limit: asked.limit.unwrap_or(LIMIT),
        cursor: asked.cursor,
        force: asked.force,
        now: engine::now(),
        fingerprints,
    };
    let _turn = state.turn().await?;
    let trail = state.engine.trail(&question).await?;
    let format = Format::of(None, &parts);
    let cursor = trail.cursor.clone();
    let body = match format {
        Format::Json => format::json(&TrailAnswer {
            count: trail.events,
            first: trail.first,
            last: trail.last,
            facets: trail.facets,
            events: search::raw(&trail.timeline)?,
            cursor: trail.cursor,
        })?,
        Format::Ndjson => format::lines(&trail.timeline),
        Format::Csv => {
            let fields = parameters::fields("fields", &EVENT_FIELDS.join(","))?;
            format::events_csv(&trail.timeline, &fields)?
        }
    };
    Ok(format.respond(body, cursor.as_deref()))
}
