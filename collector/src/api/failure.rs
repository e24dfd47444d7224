//! What an asker is told when there is no answer.
//!
//! Invariant: what went wrong inside is in the log, and not in the answer.

use super::door::Denied;
use crate::search::engine::SearchError;
use crate::search::language::QueryError;
use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    pub error: Code,
    /// For people.
    pub detail: String,
    /// What could have stood there; for `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Bytes of the query (UTF-8) that are wrong; for `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Span {
    pub start: usize,
    /// The first byte behind it.
    pub end: usize,
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the query is not one.
    Query,
    /// 400: the cursor is not one of this question.
    Cursor,
    /// 400: parameters that are not known, or have values that they cannot have.
    Argument,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404: there is no such thing.
    NotFound,
    /// 405: the address takes other methods.
    Method,
    /// 413: the request is too long.
    Length,
    /// 422: more events would be read than may be; `force` reads them.
    TooMuch,
    /// 422: more memory would be needed than may be used.
    Memory,
    /// 500: the store could not be read; its log says why.
    Store,
    /// 503: too much is asked at once.
    Busy,
    /// 503: the question could not be recorded, so it is not answered.
    Audit,
    /// 504: not answered in time.
    Time,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::Query | Self::Cursor | Self::Argument => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Length => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMuch | Self::Memory => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Store => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy | Self::Audit => StatusCode::SERVICE_UNAVAILABLE,
            Self::Time => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

#[derive(Debug)]
pub(super) enum Failure {
    Search(SearchError),
    Denied(Denied),
    Argument(String),
    Length {
        most: usize,
    },
    /// These are taken.
    Method(&'static str),
    Busy,
    /// For the log.
    Audit(String),
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        Self::Search(error)
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Search(error.into())
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl Failure {
    fn body(self) -> ErrorBody {
        let (error, detail) = match self {
            Self::Search(SearchError::Query(error)) => {
                return ErrorBody {
                    error: Code::Query,
                    detail: error.message,
                    expected: Some(error.expected),
                    span: Some(Span {
                        start: error.span.start,
                        end: error.span.end,
                    }),
                };
            }
            Self::Search(SearchError::Store(inside)) => {
                tracing::error!("a question was not answered: {inside}");
                (
                    Code::Store,
                    "the store could not be read; the collector's log says why".to_owned(),
                )
            }
            Self::Audit(inside) => {
                tracing::error!(
                    "a question was not answered, because it could not be recorded: {inside}"
                );
                (
                    Code::Audit,
                    "the question could not be recorded, so it is not answered".to_owned(),
                )
            }
            Self::Search(error) => (code(&error), error.to_string()),
            Self::Denied(Denied::Unknown(reason)) => (Code::Unauthorized, reason),
            Self::Denied(Denied::Forbidden(reason)) => (Code::Forbidden, reason),
            Self::Argument(reason) => (Code::Argument, reason),
            Self::Length { most } => (
                Code::Length,
                format!("the request has more than {most} bytes"),
            ),
            Self::Method(taken) => (Code::Method, format!("only by {taken}")),
            Self::Busy => (
                Code::Busy,
                "too many questions at once: ask again".to_owned(),
            ),
        };
        ErrorBody {
            error,
            detail,
            expected: None,
            span: None,
        }
    }
}

fn code(error: &SearchError) -> Code {
    match error {
        SearchError::Query(_) => Code::Query,
        SearchError::Cursor(_) => Code::Cursor,
        SearchError::Argument { .. } => Code::Argument,
        SearchError::TooMuch { .. } => Code::TooMuch,
        SearchError::Time(_) => Code::Time,
        SearchError::Memory(_) => Code::Memory,
        SearchError::Store(_) => Code::Store,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let taken = match &self {
            Self::Method(taken) => Some(*taken),
            _ => None,
        };
        let body = self.body();
        let code = body.error;
        let mut response = (code.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(taken) = taken {
            headers.insert(ALLOW, HeaderValue::from_static(taken));
        }
        match code {
            Code::Busy | Code::Audit => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Code::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
