//! `/v1/quarantine`: what was acknowledged and is no event, for admins to look at.
//!
//! | request | answers |
//! |---|---|
//! | `GET /v1/quarantine?before=ID&limit=N` | a page of it, the newest first, each with its reason and its begin |
//! | `GET /v1/quarantine/ID` | one, with its bytes |
//!
//! What is no event may still name a credential's fingerprint, so looking is recorded as asking for a trail is.
//!
//! Invariant: nothing is shown before it is recorded who looks.

use super::admin::{Admin, Failure};
use super::listener::Peer;
use crate::api::ErrorBody;
use crate::inbox::{Form, QUARANTINED_BYTES, Quarantined};
use agent_common::event::{Action, Time};
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Rows of a page.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// Of each, a list shows so much.
const BEGIN_BYTES: usize = 200;

/// Which page.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageParameters {
    /// Only what came before the one with this id: `before` of the page before.
    before: Option<i64>,
    /// Rows of the page, 1 to 1000; 100 unless given.
    limit: Option<usize>,
}

/// A page of the quarantine, the newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QuarantinePage {
    pub quarantined: Vec<QuarantineRow>,
    /// Of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
}

/// Something that is no event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QuarantineRow {
    pub id: i64,
    /// When it came.
    #[schema(value_type = String, format = DateTime)]
    pub received: Time,
    /// Who sent it.
    pub origin: String,
    /// Why it is no event.
    pub reason: String,
    /// `json`: a line of NDJSON or an event's JSON; `otlp`: an ExportLogsServiceRequest of one record.
    #[schema(value_type = String)]
    pub form: &'static str,
    /// Bytes that it had.
    pub length: u64,
    /// Its first 200 bytes, as text.
    pub begin: String,
}

/// One, with its bytes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QuarantinePiece {
    #[serde(flatten)]
    pub row: QuarantineRow,
    /// Its first 1 MiB, in base64.
    pub content: String,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/quarantine", get(list))
        .route("/v1/quarantine/{id}", get(show))
        .with_state(admin)
}

fn row(quarantined: &Quarantined) -> QuarantineRow {
    let begin = &quarantined.bytes[..quarantined.bytes.len().min(BEGIN_BYTES)];
    QuarantineRow {
        id: quarantined.id,
        received: Time::from_unix_nanos(quarantined.received.into()),
        origin: quarantined.origin.to_string(),
        reason: quarantined.reason.clone(),
        form: match quarantined.form {
            Form::Json => "json",
            Form::Otlp => "otlp",
        },
        length: quarantined.length,
        begin: String::from_utf8_lossy(begin).into_owned(),
    }
}

impl Admin {
    async fn read(
        &self,
        before: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Quarantined>, Failure> {
        let inbox = self.inbox.clone();
        tokio::task::spawn_blocking(move || inbox.quarantined(before, most, bytes))
            .await
            .map_err(|error| Failure::Inbox(error.to_string()))?
            .map_err(|error| Failure::Inbox(error.to_string()))
    }
}

/// What was acknowledged and is no event, the newest first.
#[utoipa::path(
    get,
    path = "/v1/quarantine",
    operation_id = "quarantine",
    params(PageParameters),
    responses(
        (status = 200, body = QuarantinePage), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(crate) async fn list(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    parameters: Result<Query<PageParameters>, QueryRejection>,
) -> Result<Json<QuarantinePage>, Failure> {
    // Who may not look learns nothing of what is wrong with the question.
    let caller = admin.caller(&headers, &peer, false).await?;
    let Query(parameters) = parameters.map_err(|error| Failure::Argument(error.body_text()))?;
    let limit = parameters.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let reason = format!("limit is {limit}; it may be 1 to {LIMIT_MAX}");
        return Err(Failure::Argument(reason));
    }
    let what = "the quarantine".to_owned();
    admin.record(&caller, Action::TrailAsked, what).await?;
    let found = admin
        .read(parameters.before, limit + 1, BEGIN_BYTES)
        .await?;
    let quarantined: Vec<QuarantineRow> = found.iter().take(limit).map(row).collect();
    let before = quarantined.last().map(|last| last.id);
    Ok(Json(QuarantinePage {
        before: before.filter(|_| found.len() > limit),
        quarantined,
    }))
}

/// One of them, with its bytes.
#[utoipa::path(
    get,
    path = "/v1/quarantine/{id}",
    operation_id = "quarantined",
    params(("id" = i64, Path)),
    responses(
        (status = 200, body = QuarantinePiece), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(crate) async fn show(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<QuarantinePiece>, Failure> {
    let caller = admin.caller(&headers, &peer, false).await?;
    let none = || {
        let shown: String = id.chars().take(20).collect();
        Failure::NotFound(format!("there is no {shown} in the quarantine (any more)"))
    };
    let number: i64 = id.parse().map_err(|_| none())?;
    let what = format!("{number} in the quarantine");
    admin.record(&caller, Action::TrailAsked, what).await?;
    let behind = Some(number.saturating_add(1));
    let found = admin.read(behind, 1, QUARANTINED_BYTES).await?;
    let found = found.into_iter().find(|found| found.id == number);
    let found = found.ok_or_else(none)?;
    Ok(Json(QuarantinePiece {
        row: row(&found),
        content: STANDARD.encode(&found.bytes),
    }))
}
