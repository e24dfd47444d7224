//! `/v1/access`: keys and the admin's password, by HTTP; and how all that only admins may is asked for.
//!
//! | request | does | needs |
//! |---|---|---|
//! | `GET /v1/access/keys` | lists keys, without their secrets | admin |
//! | `POST /v1/access/keys` `{"name", "role", "days"?}` | makes a key, and shows it this once | admin, or the first start's key for an admin's |
//! | `DELETE /v1/access/keys/ID` | revokes it | admin |
//! | `POST /v1/access/password` `{"password"}` | sets the local admin's password | admin, or the first start's key |
//!
//! Invariant: a change is an audited event before it is answered.

use super::gate::{Gate, now};
use super::listener::Peer;
use crate::access::{Access, Caller, Denied, Error, KeyId, KeyRow, Role};
use crate::api::{Code, ErrorBody};
use crate::inbox::Inbox;
use agent_common::event::{Action, Audit, AuditDetail, Body, Time};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

const DAY: i64 = 86_400;

/// What the requests work on.
#[derive(Clone)]
pub struct Admin {
    pub access: Arc<Access>,
    pub gate: Gate,
    pub inbox: Inbox,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// For people: whose it is.
    pub name: String,
    pub role: Role,
    /// Days until it expires; never, if not given.
    pub days: Option<u32>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct MadeKey {
    pub id: String,
    /// Shown this once.
    pub key: String,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    pub password: String,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/access/keys", get(list).post(create))
        .route("/v1/access/keys/{id}", delete(revoke))
        .route("/v1/access/password", post(password))
        .with_state(admin)
}

/// Why an admin's request was not done.
pub enum Failure {
    Denied(Denied),
    Access(Error),
    /// It cannot be a key's id.
    NoId,
    Argument(String),
    NotFound(String),
    /// For the log.
    Inbox(String),
    Unrecorded(String),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code, detail) = match self {
            Self::Denied(denied @ (Denied::Missing | Denied::Unknown)) => (
                StatusCode::UNAUTHORIZED,
                Code::Unauthorized,
                denied.to_string(),
            ),
            Self::Denied(denied) => (StatusCode::FORBIDDEN, Code::Forbidden, denied.to_string()),
            Self::Access(error @ (Error::NoKey(_) | Error::Name | Error::Password(_))) => {
                (StatusCode::BAD_REQUEST, Code::Argument, error.to_string())
            }
            Self::NoId => {
                let detail = "a key's id has 8 characters: see the list of keys".to_owned();
                (StatusCode::BAD_REQUEST, Code::Argument, detail)
            }
            Self::Argument(detail) => (StatusCode::BAD_REQUEST, Code::Argument, detail),
            Self::NotFound(detail) => (StatusCode::NOT_FOUND, Code::NotFound, detail),
            Self::Inbox(error) => {
                tracing::error!("the inbox: {error}");
                let detail = "the inbox could not be read; the collector's log says why".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, Code::Store, detail)
            }
            Self::Access(error @ Error::Full) => {
                (StatusCode::CONFLICT, Code::Argument, error.to_string())
            }
            Self::Access(error) => {
                tracing::error!("keys: {error}");
                let detail = "the keys could not be read or written".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, Code::Store, detail)
            }
            Self::Unrecorded(error) => {
                tracing::error!("an admin's request could not be recorded: {error}");
                let detail = "it could not be recorded, and was not done".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, Code::Audit, detail)
            }
        };
        let body = ErrorBody {
            error: code,
            detail,
            expected: None,
            span: None,
        };
        (status, Json(body)).into_response()
    }
}

impl Admin {
    /// `first` says whether the key of the first start is enough.
    pub(super) async fn caller(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        first: bool,
    ) -> Result<Caller, Failure> {
        let caller = self
            .gate
            .caller(headers, peer.certificate.as_deref())
            .await
            .map_err(Failure::Denied)?;
        if !(first && caller.first_use) {
            caller.may(Role::Admin).map_err(Failure::Denied)?;
        }
        Ok(caller)
    }

    pub(super) async fn record(
        &self,
        caller: &Caller,
        action: Action,
        detail: String,
    ) -> Result<(), Failure> {
        let audit = AuditDetail {
            actor: Some(caller.name.to_string()),
            detail: Some(detail),
            ..AuditDetail::of(action)
        };
        self.inbox
            .say(Time::now(), Body::Audit(Audit { audit }))
            .await
            .map(drop)
            .map_err(|error| Failure::Unrecorded(error.to_string()))
    }
}

/// Keys, without their secrets.
#[utoipa::path(
    get,
    path = "/v1/access/keys",
    operation_id = "keys",
    responses((status = 200, body = [KeyRow]), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)),
    security(("key" = []))
)]
pub(crate) async fn list(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Json<Vec<KeyRow>>, Failure> {
    admin.caller(&headers, &peer, false).await?;
    admin.access.list().map(Json).map_err(Failure::Access)
}

/// Makes a key, and shows it this once.
#[utoipa::path(
    post,
    path = "/v1/access/keys",
    operation_id = "make_key",
    request_body = NewKey,
    responses(
        (status = 200, body = MadeKey), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(crate) async fn create(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Json(wanted): Json<NewKey>,
) -> Result<Json<MadeKey>, Failure> {
    let first = wanted.role == Role::Admin;
    let caller = admin.caller(&headers, &peer, first).await?;
    let now = now();
    let expires = wanted.days.map(|days| now + i64::from(days) * DAY);
    let key = admin
        .access
        .create(&wanted.name, wanted.role, expires, now)
        .map_err(Failure::Access)?;
    let what = format!(
        "made key {} ({}) with role {}",
        key.id(),
        wanted.name,
        wanted.role.name()
    );
    if let Err(failure) = admin.record(&caller, Action::AccessChanged, what).await {
        // Nobody has seen it, and nobody is to hold a key of which nothing is recorded.
        admin
            .access
            .revoke(key.id(), now)
            .map_err(Failure::Access)?;
        return Err(failure);
    }
    if caller.first_use {
        admin.access.spend_first(now).map_err(Failure::Access)?;
    }
    Ok(Json(MadeKey {
        id: key.id().to_string(),
        key: key.reveal().to_owned(),
    }))
}

/// Makes a key worthless at once.
#[utoipa::path(
    delete,
    path = "/v1/access/keys/{id}",
    operation_id = "revoke_key",
    params(("id" = String, Path, description = "the first 8 characters behind `ttk_`")),
    responses(
        (status = 204, description = "revoked"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(crate) async fn revoke(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    let caller = admin.caller(&headers, &peer, false).await?;
    let Some(id) = KeyId::parse(&id) else {
        return Err(Failure::NoId);
    };
    let what = format!("revoked key {id}");
    admin.record(&caller, Action::AccessChanged, what).await?;
    admin.access.revoke(&id, now()).map_err(Failure::Access)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the local admin's password.
#[utoipa::path(
    post,
    path = "/v1/access/password",
    operation_id = "set_password",
    request_body = NewPassword,
    responses(
        (status = 204, description = "set"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
    security(("key" = []))
)]
pub(crate) async fn password(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Json(wanted): Json<NewPassword>,
) -> Result<StatusCode, Failure> {
    let password = Zeroizing::new(wanted.password);
    let caller = admin.caller(&headers, &peer, true).await?;
    let what = "set the admin's password".to_owned();
    admin.record(&caller, Action::AccessChanged, what).await?;
    let access = admin.access.clone();
    tokio::task::spawn_blocking(move || access.set_password(&password))
        .await
        .map_err(|error| Failure::Unrecorded(error.to_string()))?
        .map_err(Failure::Access)?;
    if caller.first_use {
        admin.access.spend_first(now()).map_err(Failure::Access)?;
    }
    Ok(StatusCode::NO_CONTENT)
}
